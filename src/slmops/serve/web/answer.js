// One answer: asked, shown as it is written, and how fast it came.

import { copier, h, icon, say } from "./dom.js";
import { streamed } from "./api.js";
import { models } from "./models.js";
import { Markdown, code } from "./markdown.js";

/** How an object or a list begins; a link does otherwise. */
const OBJECT = /^\s*(?:\{\s*(?:["}]|$)|\[\s*(?:["{[\d\]-]|$))/;
const REASONS = { length: "cut at the most tokens", stop: "", stopped: "stopped by you", tool_calls: "a tool call" };

/** Seconds for people. */
export function seconds(value) {
  if (value === null) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

/** A rate for people, three figures. */
export function rate(value) {
  return value === null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

/** Speeds as this page sees them: the way through the network and the server is in them. */
class Clock {
  asked = performance.now();
  first = null;
  last = null;
  pieces = 0;
  tokens = null;
  prompt = null;
  /** Whether the model was to be loaded first. */
  cold = false;

  piece() {
    this.last = performance.now();
    this.first ??= this.last;
    this.pieces++;
  }

  /** Time to the first token, in seconds. */
  get ttft() {
    return this.first === null ? null : (this.first - this.asked) / 1000;
  }

  get count() {
    return this.tokens ?? this.pieces;
  }

  /** Tokens a second after the first: what comes once the prompt was read. */
  get rate() {
    const span = (this.last - this.first) / 1000;
    return this.count > 1 && span > 0 ? (this.count - 1) / span : null;
  }
}

export class Answer {
  text = "";
  thought = "";
  reason = null;
  fault = null;
  clock = null;
  #drawing = 0;
  #next = 0;

  /** `speed`: whether a line below tells how fast it came. */
  constructor(name, { speed = true } = {}) {
    this.name = name;
    this.body = h("div.md");
    this.stats = h("p.stats", { hidden: !speed });
    this.actions = h("span.actions");
    this.foot = h("div.foot", {}, this.stats, this.actions);
    this.node = h("article.answer", { "aria-label": `Answer of ${name}`, "aria-busy": "false" }, this.body, this.foot);
    this.markdown = new Markdown(this.body);
  }

  /** One that was kept: what `facts` gave. */
  static of(name, facts) {
    const made = new Answer(name);
    made.text = String(facts.text ?? "");
    made.thought = String(facts.thought ?? "");
    made.reason = facts.reason ?? null;
    made.fault = facts.fault ? { message: String(facts.fault), wait: null } : null;
    made.clock = { ttft: null, rate: null, count: 0, prompt: null, ...facts.clock };
    made.draw();
    return made;
  }

  get facts() {
    const { ttft, rate: speed, count, prompt, cold } = this.clock;
    return { text: this.text, thought: this.thought, reason: this.reason, fault: this.fault?.message ?? null, clock: { ttft, rate: speed, count, prompt, cold } };
  }

  /** Ask, and show what comes until it ends, fails or `signal` stops it; says which. */
  async run(body, signal, grown = () => {}) {
    this.clock = new Clock();
    this.clock.cold = models.get(this.name)?.loaded === false;
    this.node.setAttribute("aria-busy", "true");
    this.body.replaceChildren(h("p.waiting", {}, h("span.unseen", {}, "Waiting for the first token"), h("i"), h("i"), h("i")));
    try {
      for await (const chunk of streamed(body, signal)) {
        const choice = chunk.choices?.[0], text = choice?.delta?.content ?? "", thought = choice?.delta?.reasoning_content ?? "";
        if (text || thought) {
          this.clock.piece();
          this.text += text;
          this.thought += thought;
          this.#soon(grown);
        }
        this.reason = choice?.finish_reason ?? this.reason;
        if (chunk.usage) {
          this.clock.tokens = chunk.usage.completion_tokens;
          this.clock.prompt = chunk.usage.prompt_tokens;
        }
      }
    } catch (error) {
      if (error.name === "AbortError") this.reason = "stopped";
      else this.fault = error;
    }
    cancelAnimationFrame(this.#drawing);
    this.#drawing = -1;
    this.draw();
    grown();
    models.refresh().catch(() => {}); // it may be loaded now
    return this;
  }

  /** At most once a frame, and less often where drawing takes long. */
  #soon(grown) {
    if (this.#drawing) return;
    this.#drawing = requestAnimationFrame(() => {
      this.#drawing = 0;
      const now = performance.now();
      if (now < this.#next) return this.#soon(grown);
      this.#show();
      this.#tell();
      this.#next = performance.now() + 4 * (performance.now() - now);
      grown();
    });
  }

  /** As it stands when it has ended. */
  draw() {
    this.node.setAttribute("aria-busy", "false");
    this.#show();
    if (this.fault) {
      const wait = this.fault.wait ? ` Try again in ${this.fault.wait} s.` : "";
      this.body.append(h("p.fault", {}, `${this.fault.message}.${wait}`.replace(/\.\./, ".")));
    } else if (!this.text) {
      this.body.append(h("p.quiet", {}, this.reason === "stopped" ? "Stopped before the first token." : "The model answered with nothing."));
    }
    this.#tell();
    const copy = this.text ? copier(() => this.text, "Copy the answer") : null;
    this.actions.replaceChildren(...[copy].filter(Boolean));
  }

  #show() {
    // The server tells thoughts apart where the model's template knows of them; else they stand in the text.
    const [told, text] = split(this.text), thought = this.thought || told;
    // A tool call, or another object: letters of one width keep its form, and no mark in it is taken for emphasis.
    if (OBJECT.test(text)) {
      const held = this.body.querySelector(":scope > .code code");
      if (held) held.textContent = text.trim();
      else this.body.replaceChildren(code(text.trim(), "json"));
    } else this.markdown.set(text);
    if (thought === null) return;
    const held = this.body.previousElementSibling?.matches(".thought") ? this.body.previousElementSibling : null;
    const details = held ?? h("details.thought", {}, h("summary", {}, "Thinking"), h("p"));
    details.lastElementChild.textContent = thought.trim();
    if (!held) this.body.before(details);
  }

  /** The line of figures. */
  #tell() {
    const { ttft, rate: speed, count, prompt, cold } = this.clock, said = [];
    if (ttft !== null) said.push(figure(seconds(ttft), cold ? "to load and first token" : "to first token"), figure(rate(speed), "tokens/s"), figure(count, count === 1 ? "token" : "tokens"));
    if (prompt !== null) said.push(figure(prompt, "in the prompt"));
    if (REASONS[this.reason]) said.push(h("span.reason", {}, REASONS[this.reason]));
    this.stats.replaceChildren(...said);
  }

  /** The end of it for who hears the page: once, not each token. */
  announce() {
    const { text } = this;
    if (this.fault) say(`${this.name}: ${this.fault.message}`);
    else say(`${this.name} ${this.reason === "stopped" ? "was stopped" : "answered"}: ${text.length > 600 ? `${text.slice(0, 600)}, and more` : text}`);
  }
}

function figure(value, words) {
  return h("span.figure", {}, h("b", {}, String(value)), ` ${words}`);
}

/** What a model thought first, between <think> and </think> (Qwen3 and others), and what it then says. */
function split(text) {
  const begin = /^\s*<think>/.exec(text);
  if (!begin) return [null, text];
  const end = text.indexOf("</think>");
  return end < 0 ? [text.slice(begin[0].length), ""] : [text.slice(begin[0].length, end), text.slice(end + 8)];
}

/** The button that sends, and stops while something runs. */
export function sender(stop) {
  const node = h("button.send", { type: "submit", "aria-label": "Send", title: "Send (Enter)" }, icon("send"));
  node.addEventListener("click", (event) => {
    if (!node.dataset.busy) return;
    event.preventDefault();
    stop();
  });
  return {
    node,
    busy(on) {
      if (on) node.dataset.busy = "yes";
      else delete node.dataset.busy;
      node.setAttribute("aria-label", on ? "Stop" : "Send");
      node.title = on ? "Stop (Escape)" : "Send (Enter)";
      node.replaceChildren(icon(on ? "stop" : "send"));
    },
  };
}

/** A text field that grows, sends with Enter and makes a new line with Shift+Enter; Escape stops, wherever the focus is. */
export function composer(label, placeholder, { send, stop }) {
  const field = h("textarea", { rows: "1", placeholder, "aria-label": label, maxlength: "200000", autocomplete: "off", enterkeyhint: "send" });
  const press = sender(stop);
  const form = h("form.composer", {}, field, press.node);
  const grow = () => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, 220)}px`;
  };
  field.addEventListener("input", grow);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!press.node.dataset.busy) form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text || press.node.dataset.busy) return;
    send(text);
  });
  return {
    node: form,
    field,
    busy: press.busy,
    clear() {
      field.value = "";
      grow();
    },
  };
}
