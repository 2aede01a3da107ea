// The models of this server and what each is at: one list for all views, and the picker over it.

import { get } from "./api.js";
import { h, icon, unique } from "./dom.js";
import { store, stored } from "./settings.js";

/** Bytes for people. */
export function size(value) {
  if (!Number.isFinite(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (value >= 1000 && place < units.length - 1) {
    value /= 1000;
    place++;
  }
  return `${value.toLocaleString("en", { maximumSignificantDigits: 3 })} ${units[place]}`;
}

/** What a model is at, from what /slmops/models says of it; nothing is said of one that was not asked for yet. */
function state(name, found, open) {
  const loaded = Boolean(found?.loaded), running = found?.running ?? 0, waiting = found?.waiting ?? 0;
  const word = !open ? "served" : found?.fault ? "failing" : loaded ? "loaded" : waiting || running ? "loading" : "not loaded";
  return {
    name, loaded: loaded || !open, word, running, waiting, memory: found?.memory ?? 0, pinned: Boolean(found?.pinned),
    engine: found?.engine ?? found?.effective?.engine ?? "", scheme: found?.scheme ?? "",
  };
}

class Models extends EventTarget {
  all = [];
  /** Paths that this caller may read (/slmops/session). */
  sees = [];
  states = [];

  /** Whether this key may see what models are at. */
  get open() {
    return this.sees.includes("/slmops/models");
  }

  /** Ask which there are and what they are at. Throws Fault. */
  async refresh(signal) {
    const [listed, states] = await Promise.all([get("/v1/models", signal), this.open ? get("/slmops/models", signal) : []]);
    // A model is loaded once for all names that lead to it.
    const by = new Map(states.flatMap((one) => [one.name, ...(one.names ?? [])].map((name) => [name, one])));
    this.states = states;
    this.all = listed.data.map((one) => state(one.id, by.get(one.id), this.open));
    this.dispatchEvent(new Event("change"));
  }

  get(name) {
    return this.all.find((one) => one.name === name) ?? null;
  }
}

export const models = new Models();

/** What a model is at, in words; for the line below its name. `brief`: without what it is computed by. */
export function told(one, brief = false) {
  const by = brief ? "" : [one.engine, one.scheme].filter(Boolean).join(" ");
  const said = [one.word, by, one.memory ? size(one.memory) : ""].filter(Boolean);
  if (one.running) said.push(`${one.running} in flight`);
  if (one.waiting) said.push(`${one.waiting} waiting`);
  if (one.pinned) said.push("pinned");
  return said.join(" · ");
}

/** A dot: full where it is loaded, half while it loads, empty else. The words beside it say it too. */
export function dot(one) {
  const kind = one.running || one.waiting ? (one.loaded ? "busy" : "warming") : one.word === "failing" ? "failing" : one.loaded ? "ready" : "cold";
  return h(`span.dot.${kind}`, { "aria-hidden": "true" });
}

/** A button that opens the list of models; `kept` names the choice in the tab's storage. */
export function picker(kept, words, first = 0) {
  const id = unique("models"), group = unique("model");
  const rows = h("div.rows", { role: "radiogroup", "aria-label": words });
  const list = h("div.popup", { id, popover: "auto" }, rows);
  const press = h("button.pick", { type: "button", popovertarget: id, "aria-haspopup": "true" });
  const node = h("div.picker", {}, press, list);
  let name = stored(kept);

  function place() {
    const box = press.getBoundingClientRect(), room = document.documentElement.clientWidth - list.offsetWidth - 8;
    list.style.left = `${Math.max(8, Math.min(box.left, room))}px`;
    list.style.top = `${box.bottom + 6}px`;
  }

  list.addEventListener("toggle", (event) => {
    if (event.newState === "open") {
      place();
      addEventListener("resize", place);
      rows.querySelector("input:checked, input")?.focus();
    } else removeEventListener("resize", place);
  });
  rows.addEventListener("change", (event) => {
    name = event.target.value;
    store(kept, name);
    draw();
    node.dispatchEvent(new Event("picked"));
  });
  rows.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    list.hidePopover();
    press.focus();
  });
  rows.addEventListener("click", (event) => {
    if (event.detail > 0 && event.target.matches("input")) list.hidePopover(); // by the pointer, not by an arrow key
  });

  function draw() {
    if (!models.get(name)) name = models.all[Math.min(first, models.all.length - 1)]?.name ?? null;
    const one = models.get(name);
    const shown = one ? [dot(one), h("span.name", {}, one.name), h("span.unseen", {}, `, ${one.word}`)] : [h("span.name", {}, "no model")];
    press.replaceChildren(h("span.unseen", {}, `${words}: `), ...shown, icon("down"));
    const had = rows.contains(document.activeElement);
    // Rows that stay are kept, so that the focus is not lost at each poll.
    const held = new Map([...rows.children].map((row) => [row.dataset.name, row]));
    rows.replaceChildren(...models.all.map((each) => {
      const row = held.get(each.name) ?? line(each.name, group);
      row.querySelector("input").checked = each.name === name;
      row.querySelector(".dot").replaceWith(dot(each));
      row.querySelector("small").textContent = told(each);
      return row;
    }));
    if (had && !rows.contains(document.activeElement)) rows.querySelector("input:checked")?.focus();
  }

  models.addEventListener("change", draw);
  draw();
  return { node, get name() { return name; } };
}

function line(name, group) {
  const field = h("input", { type: "radio", name: group, value: name });
  return h("label.row", { "data-name": name }, field, h("span.dot"), h("span.words", {}, h("b", {}, name), h("small")));
}
