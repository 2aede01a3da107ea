// Two models, or two quantizations of one, on the same prompt: their answers side by side, where they differ, and how fast.

import { Answer, composer, rate, seconds } from "./answer.js";
import { difference } from "./diff.js";
import { button, h, say } from "./dom.js";
import { picker } from "./models.js";
import { settings } from "./settings.js";

export function compare() {
  // The likeliest token each time: else answers differ by chance.
  const wanted = settings("compare.settings", { temperature: "0" });
  const sides = ["A", "B"].map((letter, place) => side(letter, place));
  const verdict = h("div.verdict", { hidden: true });
  const question = h("p.question", { hidden: true });
  const turns = h("input", { type: "checkbox" });
  const marks = h("input", { type: "checkbox", checked: true });
  const tune = button("quiet", "settings", "Settings", () => {
    wanted.node.hidden = !wanted.node.hidden;
    tune.setAttribute("aria-expanded", String(!wanted.node.hidden));
  }, { "aria-expanded": "false" });
  const writer = composer("Prompt for both", "Ask both the same", { send, stop });
  const node = h("section.view.compare", { id: "compare", "aria-labelledby": "compare-title" },
    h("div.bar", {}, h("h1", { id: "compare-title" }, "Compare"), h("span.space"),
      h("label.check", { title: "Neither takes the processor from the other: what each can do alone" }, turns, "one after the other"), tune),
    wanted.node,
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Answers" }, question, verdict, h("div.sides", {}, sides.map((one) => one.node))),
    h("div.dock", {}, writer.node));
  let running = null;

  marks.addEventListener("change", show);
  // An answer does not stand under another model's name.
  for (const one of sides) one.model.node.addEventListener("picked", () => {
    if (running) return;
    one.clear();
    verdict.hidden = true;
  });

  async function send(text) {
    const bodies = sides.map((one) => wanted.body(one.name, [{ role: "user", content: text }]));
    if (running || bodies.some((one) => !one) || sides.some((one) => !one.name)) return;
    const own = running = new AbortController();
    writer.busy(true);
    writer.clear();
    verdict.hidden = true;
    question.hidden = false;
    question.textContent = text;
    say("Both are answering");
    for (const one of sides) one.begin();
    if (turns.checked) for (const [place, one] of sides.entries()) await one.run(bodies[place], own.signal);
    else await Promise.all(sides.map((one, place) => one.run(bodies[place], own.signal)));
    running = null;
    writer.busy(false);
    judge();
    show();
  }

  function stop() {
    running?.abort();
  }

  let found = null;

  function judge() {
    const [a, b] = sides.map((one) => one.answer);
    const whole = [a, b].every((one) => !one.fault && one.reason !== "stopped");
    found = whole ? difference(a.text, b.text) : null;
    const words = !whole ? "Not both have answered to the end."
      : !found ? "The answers are too long to be compared word by word."
      : found.same ? "The answers are the same, word for word."
      : !found.differ ? "The words are the same; marks or spaces differ."
      : `The answers differ in ${found.differ} of ${found.of} words.`;
    const kept = a.clock?.first && b.clock?.first;
    verdict.replaceChildren(h("div.differ", {}, h("p", {}, words), found && !found.same ? h("label.check", {}, marks, "mark them") : null), kept ? table(sides.map((one) => one.letter), a, b) : "");
    verdict.hidden = false;
    say(words);
  }

  function show() {
    const marked = marks.checked && found && !found.same;
    sides.forEach((one, place) => one.mark(marked ? [found.left, found.right][place] : null));
  }

  return { node, stop, shown: () => matchMedia("(pointer: fine)").matches && writer.field.focus() };
}

/** One of the two. */
function side(letter, place) {
  const model = picker(`compare.${letter}`, `Model ${letter}`, place);
  const held = h("div.held");
  const node = h("section.side", { "aria-label": `Side ${letter}` }, h("header", {}, h("span.letter", { "aria-hidden": "true" }, letter), model.node), held);
  const it = {
    letter, node, model, answer: null,
    clear() {
      it.answer = null;
      held.replaceChildren(h("p.quiet", {}, "Its answer will stand here."));
    },
    get name() { return model.name; },
    begin() {
      it.answer = new Answer(model.name);
      held.replaceChildren(it.answer.node);
    },
    run: (body, signal) => it.answer.run(body, signal),
    /** The text with what only this side says marked; null: as it was. */
    mark(parts) {
      held.querySelector(".marked")?.remove();
      if (!it.answer) return;
      it.answer.body.hidden = Boolean(parts);
      if (parts) it.answer.body.after(h("p.marked", {}, parts.map((one) => (one.same ? one.text : h("mark", {}, one.text)))));
    },
  };
  it.clear();
  return it;
}

/** Speeds beside each other, with bars: longer is more. */
function table(letters, a, b) {
  const rows = [
    ["first token", (one) => one.clock.ttft, seconds, false],
    ["tokens/s", (one) => one.clock.rate, rate, true],
    ["tokens", (one) => one.clock.count, String, null],
  ];
  const body = rows.map(([words, value, shown, more]) => {
    const values = [a, b].map(value), most = Math.max(...values.map((one) => one ?? 0)) || 1;
    const cells = values.map((one) => {
      const bar = h("i.bar-of");
      bar.style.width = `${(100 * (one ?? 0)) / most}%`;
      return h("td", {}, h("span.bar-in", { "aria-hidden": "true" }, bar), h("span.of", {}, shown(one)));
    });
    return h("tr", {}, h("th", { scope: "row" }, words), cells, h("td.against", {}, against(letters, values, more)));
  });
  const head = [["A", a], ["B", b]].map(([letter, one]) => h("th", { scope: "col" }, `${letter} `, h("small", {}, one.name)));
  return h("table.speeds", {}, h("caption.unseen", {}, "Speeds of both"), h("thead", {}, h("tr", {}, h("td"), head, h("td"))), h("tbody", {}, body));
}

function against(letters, [a, b], more) {
  if (more === null || !a || !b) return "";
  const ratio = more ? a / b : b / a;
  if (ratio > 0.95 && ratio < 1.05) return "about the same";
  const better = ratio > 1 ? letters[0] : letters[1];
  return `${better} is ${(ratio > 1 ? ratio : 1 / ratio).toFixed(1)}× as fast`;
}
