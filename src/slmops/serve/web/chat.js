// The conversation with one model. It lives in this tab alone: the server keeps none of it.

import { Answer, composer } from "./answer.js";
import { button, h, say } from "./dom.js";
import { models, picker, told } from "./models.js";
import { settings, store, stored } from "./settings.js";

const KEPT = 200;

export function chat() {
  const model = picker("chat.model", "Model");
  const wanted = settings("chat.settings", { temperature: "0.7" });
  const log = h("div.log", { tabindex: "0", role: "region", "aria-label": "Conversation" });
  const empty = h("div.empty");
  const tune = button("quiet", "settings", "Settings", () => {
    wanted.node.hidden = !wanted.node.hidden;
    tune.setAttribute("aria-expanded", String(!wanted.node.hidden));
  }, { "aria-expanded": "false" });
  const fresh = button("quiet", "add", "New chat", () => {
    running?.abort();
    turns = [];
    keep();
    draw();
    writer.field.focus();
    say("A new chat");
  });
  const writer = composer("Message", "Write a message", { send, stop });
  const hint = h("p.hint", {}, key("Enter"), " sends, ", key("Shift Enter"), " makes a new line, ", key("Escape"), " stops");
  const node = h("section.view.chat", { id: "chat", "aria-labelledby": "chat-title" },
    h("h1.unseen", { id: "chat-title" }, "Chat"),
    h("div.bar", {}, model.node, h("span.space"), tune, fresh),
    wanted.node, log, h("div.dock", {}, writer.node, hint));

  /** [{question, model, answer}]; answer as Answer.facts gives it. */
  let turns = (stored("chat.turns") ?? []).filter((one) => typeof one?.question === "string" && one.answer);
  let running = null, near = true;
  log.addEventListener("scroll", () => (near = log.scrollHeight - log.scrollTop - log.clientHeight < 60), { passive: true });

  function keep() {
    turns = turns.slice(-KEPT);
    store("chat.turns", turns);
  }

  function draw() {
    log.replaceChildren(...(turns.length ? turns.flatMap((one) => [asked(one.question), Answer.of(one.model, one.answer).node]) : [empty]));
    again();
    log.scrollTop = log.scrollHeight;
  }

  function welcome() {
    const one = models.get(model.name);
    const facts = !one ? "No model is served here." : one.loaded ? `${one.name}: ${told(one)}` : `${one.name} is loaded with the first question, which then takes longer.`;
    empty.replaceChildren(h("h2", {}, "What would you like to ask?"), h("p.quiet", {}, facts), h("p.quiet", {}, "What is said here stays in this tab."));
  }

  /** The last answer can be asked for once more. */
  function again() {
    log.querySelector(".retry")?.remove();
    const last = log.querySelector(".answer:last-child .actions");
    if (last && !running) last.append(button("bare.retry", "again", "Ask again", () => {
      const { question } = turns.pop();
      log.lastElementChild.remove();
      log.lastElementChild.remove();
      ask(question);
    }));
  }

  function send(text) {
    if (ask(text)) writer.clear();
  }

  function ask(question) {
    const name = model.name;
    if (!name || running) return false;
    // What failed without a word is shown, and not sent again: templates want turns in their order.
    const said = turns.filter((one) => one.answer.text).flatMap((one) => [
      { role: "user", content: one.question },
      { role: "assistant", content: one.answer.text },
    ]);
    const body = wanted.body(name, [...said, { role: "user", content: question }]);
    if (!body) return false;
    answer(name, question, body);
    return true;
  }

  async function answer(name, question, body) {
    const made = new Answer(name), own = new AbortController();
    running = own;
    empty.remove();
    again();
    log.append(asked(question), made.node);
    log.scrollTop = log.scrollHeight;
    writer.busy(true);
    say(`${name} is answering`);
    near = true;
    await made.run(body, own.signal, follow);
    if (running === own) {
      running = null;
      writer.busy(false);
    }
    if (!made.node.isConnected) return; // a new chat was begun meanwhile
    turns.push({ question, model: name, answer: made.facts });
    keep();
    again();
    made.announce();
  }

  /** Follows the end of what is written, unless it was scrolled away from. */
  function follow() {
    if (near) log.scrollTop = log.scrollHeight;
  }

  function stop() {
    running?.abort();
  }

  models.addEventListener("change", welcome);
  model.node.addEventListener("picked", welcome);
  welcome();
  draw();
  return { node, stop, shown: () => matchMedia("(pointer: fine)").matches && writer.field.focus() };
}

function asked(text) {
  return h("article.asked", { "aria-label": "You" }, h("p", {}, text));
}

function key(words) {
  return words.split(" ").flatMap((one, place) => [place ? "+" : null, h("kbd", {}, one)]);
}
