// What the server is at now, from /slmops/models and, where this key may read it, /metrics. Nothing is asked while the tab is
// hidden or another view is shown.

import { text } from "./api.js";
import { rate } from "./answer.js";
import { h } from "./dom.js";
import { dot, models, size } from "./models.js";
import { trace } from "./plot.js";
import { poll } from "./poll.js";

const SECONDS = 2, SPAN = 10, KEPT = 90;

export function load() {
  const tiles = {
    running: tile("in flight"),
    waiting: tile("waiting"),
    speed: tile(`tokens/s over ${SPAN} s`),
    memory: tile("memory", size),
  };
  const table = h("div.wide.sheet", { tabindex: "0", role: "region", "aria-label": "Models" });
  const note = h("p.quiet.note");
  const node = h("section.view.load", { id: "load", "aria-labelledby": "load-title" },
    h("div.bar", {}, h("h1", { id: "load-title" }, "Load"), h("p.quiet", {}, `every ${SECONDS} s while this is seen`)),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Load of the server" },
      h("div.tiles", {}, Object.values(tiles).map((one) => one.node)), note, h("div.table-bar", {}, h("h2", {}, "Models")), table));
  let stop = () => {}, counts = [];

  async function look(signal) {
    const [, count] = await Promise.all([models.refresh(signal), models.sees.includes("/metrics") ? tokens(signal) : null]);
    const now = performance.now(), sum = (key) => models.states.reduce((all, one) => (one[key] === undefined ? all : all + one[key]), models.open ? 0 : null);
    tiles.speed.add(count === null ? null : speed(now, count));
    tiles.running.add(sum("running"));
    tiles.waiting.add(sum("waiting"));
    tiles.memory.add(sum("memory"));
    note.textContent = models.open ? "" : "This key may ask models; what they are at takes an operator's key.";
    draw();
  }

  /** Tokens a second over the last SPAN; the server counts them as answers end. null: not known yet. */
  function speed(now, count) {
    if (counts.length && count < counts.at(-1).count) counts = []; // it began anew
    counts = [...counts.filter((one) => now - one.at <= SPAN * 1000), { at: now, count }];
    const first = counts[0];
    return now > first.at ? (count - first.count) / ((now - first.at) / 1000) : null;
  }

  /** Tokens generated since the server began. */
  async function tokens(signal) {
    const lines = (await text("/metrics", signal)).split("\n").filter((line) => /^slmops_generation_tokens_total[{ ]/.test(line));
    return lines.reduce((all, line) => all + (Number(line.slice(line.lastIndexOf(" ") + 1)) || 0), 0);
  }

  function draw() {
    const head = ["model", "state", "engine", "in flight", "waiting", "memory"].map((words, place) => h(`th${place > 2 ? ".right" : ""}`, { scope: "col" }, words));
    const body = models.all.map((one) => h("tr", {}, h("th", { scope: "row" }, one.name), h("td", { "data-label": "state" }, h("span.state", {}, dot(one), one.word)),
      h("td", { "data-label": "engine" }, [one.engine, one.scheme].filter(Boolean).join(", ") || "–"), h("td.right", { "data-label": "in flight" }, String(one.running)),
      h("td.right", { "data-label": "waiting" }, String(one.waiting)), h("td.right", { "data-label": "memory" }, one.memory ? size(one.memory) : "–")));
    table.replaceChildren(h("table", {}, h("caption.unseen", {}, "Models and what they are at"), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
  }

  return {
    node,
    shown() {
      stop = poll(SECONDS, look);
    },
    left() {
      stop();
      counts = [];
    },
  };
}

/** A figure and how it went. */
function tile(words, shown = rate) {
  const value = h("p.value", {}, "–"), drawn = h("div"), past = new Array(KEPT).fill(null);
  const node = h("section.tile", { "aria-label": words }, h("h2", {}, words), value, drawn);
  return {
    node,
    add(found) {
      past.push(found);
      past.shift();
      value.textContent = found === null ? "–" : shown(found);
      const most = Math.max(...past.map((one) => one ?? 0));
      drawn.replaceChildren(trace(past, most, `${words} over the last ${(KEPT * SECONDS) / 60} minutes, at most ${shown(most)}`));
    },
  };
}
