// The Markdown that models write, as nodes: headings, lists, code, quotes, tables, emphasis, links.
//
// It is a stranger's text. Everything becomes text nodes; a link leads to http, https or mailto and shows where to; an image
// is never fetched (its address could carry away what was said), it is a link too. No pattern here can run away: each
// looks at a line once, and depth has an end.

import { copier, h } from "./dom.js";

const DEEPEST = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,}) *([^\s`]{0,40})[^`]*$/;
const HEADING = /^ {0,3}(#{1,6}) +(.+)$/;
const RULE = /^ {0,3}(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)]) +(?=\S)/;
const DASHES = /^ *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;
const BARE = /^https?:\/\/[^\s<>"'`]+/;

/** A node that shows Markdown which grows: blocks that did not change stay as they are, so a selection does too. */
export class Markdown {
  #blocks = [];

  constructor(node) {
    this.node = node;
  }

  set(text) {
    const found = blocks(text.replace(/\r\n?/g, "\n").split("\n"));
    let same = 0;
    while (same < found.length && same < this.#blocks.length && found[same].source === this.#blocks[same].source) same++;
    while (this.node.children.length > same) this.node.lastElementChild.remove();
    this.node.append(...found.slice(same).map((one) => one.node()));
    this.#blocks = found;
  }
}

/** What a text is made of: [{source, node()}]. */
function blocks(lines, depth = 0) {
  const found = [];
  let at = 0;
  const add = (end, node) => {
    const source = lines.slice(at, end).join("\n");
    found.push({ source, node });
    at = end;
  };
  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (!line.trim()) at++;
    else if ((match = FENCE.exec(line))) fence(match);
    else if ((match = HEADING.exec(line))) {
      const [, marks, words] = match;
      // The page has h1, a view h2: an answer's own begin below.
      add(at + 1, () => h(`h${Math.min(6, marks.length + 2)}`, {}, inline(words.replace(/ +#+ *$/, ""))));
    } else if (RULE.test(line)) add(at + 1, () => h("hr"));
    else if (QUOTE.test(line) && depth < DEEPEST) {
      const end = until((one) => !QUOTE.test(one));
      const inner = lines.slice(at, end).map((one) => one.replace(QUOTE, ""));
      add(end, () => h("blockquote", {}, blocks(inner, depth + 1).map((one) => one.node())));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const end = listEnd();
      const inner = lines.slice(at, end);
      add(end, () => list(inner, depth));
    } else if (line.includes("|") && DASHES.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      const end = until((one) => !one.includes("|"));
      const rows = lines.slice(at, end);
      add(end, () => table(rows));
    } else {
      const end = until((one) => !one.trim() || FENCE.test(one) || HEADING.test(one) || RULE.test(one) || QUOTE.test(one) || ITEM.test(one));
      const inner = lines.slice(at, end);
      add(end, () => h("p", {}, inner.flatMap((one, place) => (place ? [h("br"), ...inline(one)] : inline(one)))));
    }
  }
  return found;

  function until(ends) {
    let end = at + 1;
    while (end < lines.length && !ends(lines[end])) end++;
    return end;
  }

  function fence([, marks, language]) {
    let end = at + 1;
    const closes = (one) => one.trim().length >= marks.length && one.trim() === marks[0].repeat(one.trim().length);
    while (end < lines.length && !closes(lines[end])) end++;
    const inner = lines.slice(at + 1, end).join("\n");
    add(Math.min(end + 1, lines.length), () => code(inner, language));
  }

  /** A list goes on over empty lines while what follows is indented or another item. */
  function listEnd() {
    let end = at + 1;
    while (end < lines.length) {
      const one = lines[end];
      if (one.trim()) {
        if (!lines[end - 1].trim() && !ITEM.test(one) && !/^ {2,}/.test(one)) break;
        if (FENCE.test(one) && !/^ {2,}/.test(one)) break;
        if (HEADING.test(one)) break;
      }
      end++;
    }
    return end;
  }
}

/** A block of code, with what copies it. */
export function code(text, language = "") {
  const bar = h("div.code-bar", {}, h("span", {}, language || "text"), copier(() => text, "Copy the code"));
  return h("div.code", {}, bar, h("pre", { tabindex: "0", role: "group", "aria-label": `code, ${language || "text"}` }, h("code", {}, text)));
}

function list(lines, depth) {
  const first = ITEM.exec(lines[0]);
  const indent = first[1].length, ordered = /\d/.test(first[2]);
  const items = [];
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && match[1].length <= indent + 1) items.push([line.slice(match[0].length)]);
    else items.at(-1).push(line.replace(new RegExp(`^ {0,${indent + (ordered ? 3 : 2)}}`), ""));
  }
  const start = ordered ? Number.parseInt(first[2], 10) : 1;
  return h(ordered ? "ol" : "ul", start !== 1 ? { start } : {}, items.map((one) => h("li", {}, item(one, depth))));
}

/** What an item holds: a line alone stands without a paragraph around it. */
function item(lines, depth) {
  const found = blocks(lines, depth + 1).map((one) => one.node());
  if (found.length && found[0].tagName === "P") return [...found[0].childNodes, ...found.slice(1)];
  return found;
}

function table(rows) {
  const cells = (line) => {
    const text = line.trim().replace(/^\|/, "").replace(/\|$/, "");
    return text.split("|").slice(0, 64).map((one) => one.trim());
  };
  const sides = cells(rows[1]).map((one) => (/^:-+:$/.test(one) ? "middle" : /-:$/.test(one) ? "right" : "left"));
  const row = (line, tag) => h("tr", {}, cells(line).map((one, place) => h(`${tag}.${sides[place] ?? "left"}`, {}, inline(one))));
  const head = h("thead", {}, row(rows[0], "th")), body = h("tbody", {}, rows.slice(2).map((one) => row(one, "td")));
  return h("div.wide", { tabindex: "0", role: "group", "aria-label": "table" }, h("table", {}, head, body));
}

const WRAPS = [["***", "strong"], ["**", "strong"], ["__", "strong"], ["~~", "s"], ["*", "em"], ["_", "em"]];

/** What a line holds, as text nodes and elements. */
function inline(text, depth = 0) {
  const found = [], hopeless = new Set();
  let plain = "", at = 0;
  const put = (node, length) => {
    if (plain) found.push(plain);
    plain = "";
    found.push(node);
    at += length;
  };
  while (at < text.length) {
    const letter = text[at];
    if (letter === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
      continue;
    }
    if (letter === "`" && ticks()) continue;
    if ((letter === "*" || letter === "_" || letter === "~") && depth < DEEPEST && emphasis()) continue;
    if ((letter === "[" || (letter === "!" && text[at + 1] === "[")) && depth < DEEPEST && bracket()) continue;
    if (letter === "h" && !/[\p{L}\p{N}]/u.test(text[at - 1] ?? "") && bare()) continue;
    plain += letter;
    at++;
  }
  if (plain) found.push(plain);
  return found;

  function ticks() {
    let length = 1;
    while (text[at + length] === "`") length++;
    const marks = "`".repeat(length);
    const end = hopeless.has(marks) ? -1 : text.indexOf(marks, at + length);
    if (end < 0) {
      hopeless.add(marks);
      plain += marks;
      at += length;
      return true;
    }
    put(h("code", {}, text.slice(at + length, end).trim() || " "), end + length - at);
    return true;
  }

  function emphasis() {
    for (const [marks, tag] of WRAPS) {
      if (!text.startsWith(marks, at) || hopeless.has(marks) || !/\S/.test(text[at + marks.length] ?? " ")) continue;
      // snake_case and 2*3*4 are no emphasis.
      if (marks[0] === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? "")) continue;
      const end = text.indexOf(marks, at + marks.length + 1);
      if (end < 0) {
        hopeless.add(marks);
        continue;
      }
      if (/\s/.test(text[end - 1]) || (marks[0] === "_" && /[\p{L}\p{N}]/u.test(text[end + marks.length] ?? ""))) continue;
      const inner = inline(text.slice(at + marks.length, end), depth + 1);
      put(marks === "***" ? h("strong", {}, h("em", {}, inner)) : h(tag, {}, inner), end + marks.length - at);
      return true;
    }
    return false;
  }

  function bracket() {
    const open = letterIs("!") ? at + 1 : at;
    const middle = hopeless.has("](") ? -1 : text.indexOf("](", open);
    const end = middle < 0 ? -1 : text.indexOf(")", middle);
    if (middle < 0) hopeless.add("](");
    if (end < 0) return false;
    const words = text.slice(open + 1, middle), address = safe(text.slice(middle + 2, end).trim().split(/\s/)[0]);
    if (!address || words.includes("[")) return false;
    const shown = open > at ? [`image: ${words || "without words"}`] : inline(words, depth + 1);
    put(link(address, shown, words), end + 1 - at);
    return true;
  }

  function letterIs(sought) {
    return text[at] === sought;
  }

  function bare() {
    const match = BARE.exec(text.slice(at, at + 2000));
    const words = match?.[0].replace(/[.,;:!?)\]}*_~]+$/, "");
    const address = words && safe(words);
    if (!address) return false;
    put(link(address, [words], words), words.length);
    return true;
  }
}

/** The address, if it is one that a page may lead to; else null. */
function safe(text) {
  if (text.length > 2000) return null;
  try {
    const found = new URL(text);
    return ["http:", "https:", "mailto:"].includes(found.protocol) ? found : null;
  } catch {
    return null;
  }
}

/** A link of a stranger: where it leads is said, unless its words say so. */
function link(address, shown, words) {
  const place = address.protocol === "mailto:" ? address.pathname : address.host;
  const told = words.includes(place) ? null : h("span.leads", {}, ` (${place})`);
  const rules = { href: address.href, target: "_blank", rel: "noopener noreferrer nofollow", referrerpolicy: "no-referrer" };
  return h("span", {}, h("a", rules, shown), told);
}
