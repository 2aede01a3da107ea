// What the registry holds: the plane of quality against size or speed with its front, and the table of all artifacts.

import { get } from "./api.js";
import { rate, seconds } from "./answer.js";
import { copier, h, icon, say, unique } from "./dom.js";
import { models, size } from "./models.js";
import { plane, sign } from "./plot.js";

const PLANES = {
  size: { words: "size", title: "size (less is better)", value: (one) => one.bytes, show: size },
  speed: { words: "speed", title: "tokens/s (more is better)", value: (one) => figure(one, "speed.decode"), show: rate, more: true },
};
/** Columns of the table: words, what is sorted by, what is shown. */
const COLUMNS = [
  ["artifact", (one) => called(one), null],
  ["format", (one) => one.format, (one) => one.format.replaceAll("_", "-")],
  ["scheme", (one) => one.scheme, (one) => one.scheme],
  ["engine", (one) => one.engine, (one) => one.engine || "–"],
  ["size", (one) => one.bytes, (one) => size(one.bytes), true],
  ["KL", (one) => figure(one, "quality.kl"), (one) => small(figure(one, "quality.kl")), true],
  ["kept", (one) => figure(one, "quality.retained"), (one) => share(figure(one, "quality.retained")), true],
  ["tokens/s", (one) => figure(one, "speed.decode"), (one) => rate(figure(one, "speed.decode")), true],
  ["first token", (one) => figure(one, "speed.first_token"), (one) => seconds(figure(one, "speed.first_token")), true],
  ["memory", (one) => figure(one, "peak"), (one) => size(figure(one, "peak") ?? NaN), true],
];

const figure = (one, place) => one.measured[place]?.value ?? null;
const called = (one) => one.names[0] ?? `${one.name || "no name"} ${one.digest.slice(7, 15)}`;
const small = (value) => (value === null ? "–" : value >= 0.1 ? value.toFixed(3) : value >= 1e-4 ? value.toFixed(4) : value.toExponential(0));
const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)}\u00a0%`);

export function registry() {
  const group = h("select", { id: unique("source") }), against = h("select", { id: unique("against") }), search = h("input", { type: "search", id: unique("find"), placeholder: "name, format, scheme" });
  for (const [key, one] of Object.entries(PLANES)) against.append(h("option", { value: key }, one.words));
  const summary = h("p.quiet"), drawing = h("div.drawing"), legend = h("p.legend"), table = h("div.wide.sheet", { tabindex: "0", role: "region", "aria-label": "Artifacts" });
  const chart = h("figure.chart", {},
    h("figcaption", {}, h("h2", {}, "Quality against"), h("label.unseen", { for: against.id }, "Quality against"), against),
    drawing, legend);
  const about = h("div.about");
  const filled = h("div", { hidden: true }, h("div.front-pane", {}, chart, about), h("div.table-bar", {}, h("h2", {}, "Artifacts"), h("span.space"), h("label", { for: search.id }, "Find"), search), table);
  const empty = h("div.empty");
  const choice = h("label.check", { for: group.id }, "Made from ", group);
  const node = h("section.view.registry", { id: "registry", "aria-labelledby": "registry-title" },
    h("div.bar", {}, h("h1", { id: "registry-title" }, "Registry"), summary, h("span.space"), choice),
    h("div.scroll", {}, empty, filled));
  let artifacts = [], formats = [], order = ["tokens/s", -1], chosen = null, source = null, alike = 0;

  group.addEventListener("change", () => {
    source = group.value;
    chosen = null;
    draw();
  });
  against.addEventListener("change", draw);
  search.addEventListener("input", rows);

  async function shown() {
    if (!models.sees.includes("/slmops/registry")) return nothing("The registry is not shown", "This key may ask models; the registry takes an operator's key.");
    let found;
    try {
      found = await get("/slmops/registry");
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      nothing("The registry is not shown", error.message);
      return;
    }
    artifacts = found.artifacts;
    alike = found.alike;
    if (!artifacts.length) {
      nothing(found.exists ? "The registry is empty" : "There is no registry yet", "What is converted or pulled with a name is filed in it:", "slmops convert samples/home --to gguf,onnx --quantize q8 --name home");
      return;
    }
    empty.hidden = true;
    filled.hidden = false;
    formats = [...new Set(artifacts.map((one) => one.format))].sort();
    const sources = new Map(artifacts.map((one) => [one.source, one.source_name || one.source.slice(0, 19)]));
    if (!sources.has(source)) source = most(artifacts.map((one) => one.source));
    group.replaceChildren(...[...sources].map(([key, words]) => h("option", { value: key, selected: key === source }, words)));
    choice.hidden = sources.size < 2;
    const total = artifacts.reduce((sum, one) => sum + one.bytes, 0), more = found.more ? `, the newest of ${artifacts.length + found.more}` : "";
    summary.textContent = `${artifacts.length} artifact${artifacts.length === 1 ? "" : "s"}${more}, ${size(total)}`;
    draw();
  }

  function nothing(words, why, command) {
    filled.hidden = true;
    empty.hidden = false;
    choice.hidden = true;
    summary.textContent = "";
    empty.replaceChildren(h("h2", {}, words), h("p.quiet", {}, why), command ? h("p", {}, h("code", {}, command)) : "");
  }

  function own() {
    return artifacts.filter((one) => one.source === source);
  }

  function draw() {
    const kind = PLANES[against.value], held = own().filter((one) => figure(one, "quality.kl") !== null && kind.value(one));
    const points = held.map((one) => ({
      key: one.digest, one, x: kind.value(one), y: Math.max(figure(one, "quality.kl"), alike / 10),
      low: one.measured["quality.kl"].low, high: one.measured["quality.kl"].high,
      label: called(one).split(":").at(-1), lines: [`${size(one.bytes)}, ${rate(figure(one, "speed.decode"))} tokens/s`, `KL ${small(figure(one, "quality.kl"))}`],
      kind: formats.indexOf(one.format), front: one.fronts.includes(against.value),
    }));
    const best = points.filter((one) => one.front).map((one) => called(one.one));
    const says = `KL divergence from the source against ${kind.words}, ${points.length} artifacts. On the front: ${best.join(", ") || "none"}. The table below has every figure.`;
    if (points.length) {
      const up = { title: "KL divergence from the source, nats a token (less is better)", show: (value) => (value >= 1e-3 ? String(Number(value.toPrecision(2))) : value.toExponential(0)), log: true, floor: alike / 10, alike };
      drawing.replaceChildren(plane(points, { ...kind, log: points.length > 1 && spread(points) > 8 }, up, says, (point) => light(point?.key)));
    } else drawing.replaceChildren(h("p.quiet.none", {}, "Nothing of it was measured yet. Figures come with ", h("code", {}, "slmops measure NAME --against SOURCE --text FILE --attach"), "."));
    const present = [...new Set(points.map((one) => one.kind))].sort();
    legend.replaceChildren(...present.map((place) => h("span", {}, sign(place), ` ${formats[place].replaceAll("_", "-")}`)), ...(points.length ? [h("span", {}, h("i.step"), " the front: nothing here is better in both"), h("span", {}, h("i.alike"), ` below ${small(alike)}: no difference that counts`)] : []));
    drawing.querySelectorAll(".spot").forEach((spot) => spot.addEventListener("click", () => choose(spot.dataset.key)));
    const here = own(), first = here.find((one) => one.digest === chosen) ?? held.find((one) => one.fronts.length === 2) ?? held.find((one) => one.fronts.length) ?? here[0];
    chosen = first?.digest ?? null;
    rows();
  }

  function choose(digest) {
    chosen = digest;
    rows();
    say(`${called(artifacts.find((one) => one.digest === digest))} is told of`);
  }

  function light(digest) {
    table.querySelectorAll("tr[data-key]").forEach((row) => row.classList.toggle("lit", row.dataset.key === digest));
  }

  function rows() {
    const words = search.value.trim().toLowerCase().split(/\s+/);
    const [by, way] = order, column = COLUMNS.find(([name]) => name === by);
    const fits = (one) => words.every((word) => [...one.names, one.name, one.format, one.scheme, one.engine, one.digest].some((text) => text.toLowerCase().includes(word)));
    const shownOnes = own().filter(fits).sort((a, b) => compared(column[1](a), column[1](b), way));
    const head = COLUMNS.map(([name, , , right]) => {
      const press = h("button", { type: "button", onclick: () => {
        order = [name, by === name ? -way : right ? -1 : 1];
        rows();
        table.querySelector(`th[data-name="${name}"] button`).focus();
      } }, name, h("span.way", { "aria-hidden": "true" }, by === name ? (way > 0 ? "↑" : "↓") : ""));
      return h(`th${right ? ".right" : ""}`, { scope: "col", "data-name": name, "aria-sort": by === name ? (way > 0 ? "ascending" : "descending") : null }, press);
    });
    const body = shownOnes.map((one) => h(`tr${one.digest === chosen ? ".chosen" : ""}`, { "data-key": one.digest },
      h("th", { scope: "row" }, h("span.cell", {}, star(one), h("button.link", { type: "button", "aria-pressed": String(one.digest === chosen), onclick: () => {
        choose(one.digest);
        table.querySelector("tr.chosen button")?.focus();
      } }, called(one)), one.damaged ? h("span.badge.bad", {}, "damaged") : null)),
      COLUMNS.slice(1).map(([name, , show, right]) => h(`td${right ? ".right" : ""}`, { "data-label": name }, show(one)))));
    const none = shownOnes.length ? null : h("tr", {}, h("td", { colspan: COLUMNS.length }, "Nothing here is called so."));
    table.replaceChildren(h("table", {}, h("caption.unseen", {}, "Artifacts with their figures; the names choose what is told beside the plot"), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body, none)));
    tell(artifacts.find((one) => one.digest === chosen));
    drawing.querySelectorAll(".spot").forEach((spot) => spot.classList.toggle("chosen", spot.dataset.key === chosen));
  }

  /** All that is known of one. */
  function tell(one) {
    if (!one) {
      about.replaceChildren();
      return;
    }
    const line = (words, ...value) => h("div", {}, h("dt", {}, words), h("dd", {}, value));
    const ends = (list) => list.map((end, place) => [place ? ", " : "", artifacts.some((each) => each.digest === end.digest)
      ? h("button.link", { type: "button", onclick: () => choose(end.digest) }, end.name || end.digest.slice(7, 19)) : end.name || end.digest.slice(0, 24), end.role === "source" ? "" : ` (${end.role})`]);
    const figures = Object.entries(one.measured).map(([place, value]) => line(NAMES[place] ?? place, h("b", {}, SHOWN[place]?.(value.value) ?? small(value.value)),
      value.low === null ? null : h("small", {}, ` ${SHOWN[place]?.(value.low) ?? small(value.low)} to ${SHOWN[place]?.(value.high) ?? small(value.high)}`)));
    about.replaceChildren(h("h2", {}, called(one)), h("p.badges", {}, badges(one)),
      h("dl", {}, line("form", `${one.format.replaceAll("_", "-")}, ${one.scheme || "plain"}, ${size(one.bytes)}`),
        one.names.length > 1 ? line("names", one.names.join(", ")) : null,
        line("made from", one.made_from.length ? ends(one.made_from) : "not known"),
        one.made_into.length ? line("made into", ends(one.made_into)) : null,
        figures.length ? figures : line("measured", "not yet"),
        one.machine ? line("measured on", `${one.engine}, ${one.machine}`) : null,
        line("digest", h("code", {}, one.digest.slice(7, 19)), copier(() => one.digest, "Copy the digest"))));
  }

  return { node, shown };
}

const NAMES = { "quality.kl": "KL", "quality.retained": "quality kept", "quality.perplexity": "perplexity", "quality.top1": "same top token", "answers.share": "tasks right", "speed.decode": "tokens/s", "speed.first_token": "first token", peak: "memory" };
const SHOWN = { "quality.retained": share, "quality.top1": share, "answers.share": share, "speed.decode": rate, "speed.first_token": seconds, peak: size, "quality.perplexity": (value) => value.toFixed(3) };

function star(one) {
  if (!one.fronts.length) return h("span.star");
  return h("span.star", { role: "img", "aria-label": "on a front", title: `on the front of ${one.fronts.join(" and ")}` }, "★");
}

function badges(one) {
  return [
    one.fronts.length ? h("span.badge.best", {}, `front of ${one.fronts.join(" and ")}`) : null,
    one.proven ? h("span.badge", {}, icon("done"), "proven") : null,
    one.damaged ? h("span.badge.bad", {}, "damaged") : null,
  ];
}

/** For sorting; what was not measured comes last, whichever way. */
function compared(a, b, way) {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  return way * (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
}

function most(values) {
  const counts = new Map();
  for (const one of values) counts.set(one, (counts.get(one) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
}

function spread(points) {
  const values = points.map((one) => one.x);
  return Math.max(...values) / Math.min(...values);
}
