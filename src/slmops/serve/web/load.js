import { h } from "./dom.js";
export function load() {
  const node = h("section.view", { id: "load" }, h("h1", {}, "Load"));
  return { node };
}
