// What goes with every question of a view: system prompt, temperature, most tokens, seed.

import { h, unique } from "./dom.js";

/** `first`: the values it begins with. `kept`: a name in the tab's storage. */
export function settings(kept, first) {
  const held = { ...first, ...stored(kept) };
  const system = h("textarea", { rows: "3", maxlength: "20000", placeholder: "None: the model's own" });
  const heat = number(0, 2, 0.1), most = number(1, 131072, 1), seed = number(0, 2147483647, 1);
  const fields = { system, temperature: heat, most, seed };
  for (const [key, field] of Object.entries(fields)) {
    field.value = held[key] ?? "";
    field.addEventListener("change", () => store(kept, Object.fromEntries(Object.entries(fields).map(([name, one]) => [name, one.value]))));
  }
  const node = h("div.settings", { hidden: true, role: "group", "aria-label": "Settings" },
    labelled("System prompt", system, "tall"),
    labelled("Temperature", heat, "", "0 always takes the likeliest token"),
    labelled("Most tokens", most, "", "empty: as many as fit"),
    labelled("Seed", seed, "", "empty: another each time"));
  return {
    node,
    /** The body of a request, or null where a field is wrong, which then has the focus. */
    body(model, messages) {
      const wrong = Object.values(fields).find((one) => !one.checkValidity());
      if (wrong) {
        node.hidden = false;
        wrong.reportValidity();
        return null;
      }
      const words = system.value.trim();
      const body = { model, messages: words ? [{ role: "system", content: words }, ...messages] : messages };
      if (heat.value !== "") body.temperature = Number(heat.value);
      if (most.value !== "") body.max_tokens = Number(most.value);
      if (seed.value !== "") body.seed = Number(seed.value);
      return body;
    },
  };
}

function number(min, max, step) {
  return h("input", { type: "number", min, max, step, inputmode: step < 1 ? "decimal" : "numeric" });
}

function labelled(words, field, kind = "", hint = "") {
  const id = unique("field");
  field.id = id;
  const told = hint ? h("small", { id: `${id}-hint` }, hint) : null;
  if (told) field.setAttribute("aria-describedby", told.id);
  return h(`div.field${kind ? `.${kind}` : ""}`, {}, h("label", { for: id }, words), field, told);
}

/** What the tab keeps (sessionStorage): gone when it is closed or its owner signs out. */
export function stored(name) {
  try {
    return JSON.parse(sessionStorage.getItem(`slmops.${name}`) ?? "null");
  } catch {
    return null;
  }
}

export function store(name, value) {
  try {
    sessionStorage.setItem(`slmops.${name}`, JSON.stringify(value));
  } catch { /* storage is off or full: it lives as long as the page */ }
}

export function forget() {
  try {
    sessionStorage.clear();
  } catch { /* storage is off */ }
}
