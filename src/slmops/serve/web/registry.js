import { h } from "./dom.js";
export function registry() {
  const node = h("section.view", { id: "registry" }, h("h1", {}, "Registry"));
  return { node };
}
