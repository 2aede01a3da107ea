// Elements are made of nodes and text alone: nothing here reads HTML, so no text of a model or a stranger becomes one.

const SVG = "http://www.w3.org/2000/svg";

/** An element: h("p.quiet", {id: "x", onclick: f}, "text", another). null and false are left out. */
export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name.split(".")[0]), name, attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name.split(".")[0]), name, attributes, children);
}

function filled(node, name, attributes, children) {
  const classes = name.split(".").slice(1);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat(4).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

const PATHS = {
  chat: "M4 5h16v11H9l-5 4z",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z",
  registry: "M4 7l8-4 8 4v10l-8 4-8-4zM4 7l8 4 8-4M12 11v10",
  load: "M3 13h4l3-8 4 14 3-6h4",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  again: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4h4",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  add: "M12 5v14M5 12h14",
  down: "M6 9l6 6 6-6",
  done: "M5 13l4 4L19 7",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  dark: "M20 14.5A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.5z",
  system: "M3 5h18v11H3zM9 20h6M12 16v4",
  leave: "M14 4h5v16h-5M3 12h11M10 8l4 4-4 4",
};

/** A line icon; it says nothing to screen readers, the words beside it do. */
export function icon(name) {
  return svg("svg.icon", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}

let numbered = 0;
/** An id that is no other's. */
export const unique = (word) => `${word}-${++numbered}`;

/** Tell screen readers, once, without moving the focus. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** A button with an icon; `words` are shown, or said where only the icon is. */
export function button(kind, sign, words, onclick, attributes = {}) {
  const only = kind.includes("bare");
  const held = only ? { "aria-label": words, title: words } : {};
  return h(`button.${kind}`, { type: "button", onclick, ...held, ...attributes }, icon(sign), only ? null : h("span", {}, words));
}

/** A button that copies what `text()` gives; none where the browser has no clipboard (plain HTTP from elsewhere). */
export function copier(text, words) {
  if (!navigator.clipboard) return null;
  const made = button("bare", "copy", words, async () => {
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      say("The browser did not let this be copied");
      return;
    }
    say("Copied");
    made.replaceChildren(icon("done"));
    setTimeout(() => made.replaceChildren(icon("copy")), 1500);
  });
  return made;
}
