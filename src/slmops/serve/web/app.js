// The page: its views, which of them is shown (by the address's #), who is signed in, and light or dark.

import { Fault, enter, get, leave, refused } from "./api.js";
import { chat } from "./chat.js";
import { compare } from "./compare.js";
import { button, h, icon, say } from "./dom.js";
import { load } from "./load.js";
import { dot, models, told } from "./models.js";
import { poll } from "./poll.js";
import { registry } from "./registry.js";
import { forget, store, stored } from "./settings.js";

const SECONDS = 5;
const main = document.getElementById("main"), beside = document.getElementById("beside"), tools = document.getElementById("tools");
const links = [...document.querySelectorAll("nav a")];

function theme() {
  const order = { system: "light", light: "dark", dark: "system" };
  let now = document.documentElement.dataset.theme ?? "system";
  const made = button("bare.theme", now, "", () => {
    now = order[now];
    if (now === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    try {
      localStorage.setItem("slmops.theme", now);
    } catch { /* storage is off: it holds until the page is left */ }
    draw();
    say(`Colours: ${now === "system" ? "as the system has them" : now}`);
  });
  function draw() {
    made.replaceChildren(icon(now));
    made.title = `Colours: ${now === "system" ? "as the system has them" : now}`;
    made.setAttribute("aria-label", made.title);
  }
  draw();
  return made;
}

/** Where a key is asked for. It goes to the server once; what the browser then has is a cookie that no script can read. */
function signin(entered) {
  const field = h("input", { type: "password", id: "key", name: "key", autocomplete: "current-password", required: true, maxlength: "8192", spellcheck: "false" });
  const fault = h("p.fault", { role: "alert", id: "key-fault" });
  const press = h("button.primary", { type: "submit" }, "Sign in");
  const form = h("form.card", {},
    h("img", { src: document.querySelector("link[rel=icon]").href, alt: "", width: "40", height: "40" }),
    h("h1", { id: "signin-title" }, "Sign in"),
    h("p.quiet", {}, "This server asks for a key. It is sent once and not kept in this page."),
    // For those who keep keys in a password manager, which wants a name beside.
    h("input", { type: "text", name: "username", autocomplete: "username", value: location.host, hidden: true, "aria-hidden": "true" }),
    h("label", { for: "key" }, "Key"), field, fault, press);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    press.disabled = true;
    fault.textContent = "";
    try {
      await enter(field.value.trim());
      field.value = "";
      entered();
    } catch (error) {
      fault.textContent = error.status === 401 ? "This key is not known here." : error.message;
      field.setAttribute("aria-invalid", "true");
      field.setAttribute("aria-describedby", "key-fault");
      field.select();
      field.focus();
    } finally {
      press.disabled = false;
    }
  });
  return { node: h("section.view.signin", { "aria-labelledby": "signin-title" }, form), field };
}

const views = { chat: chat(), compare: compare(), registry: registry(), load: load() };
const door = signin(begin);
const notice = h("p.notice", { role: "alert", hidden: true });
main.replaceChildren(notice, ...Object.values(views).map((one) => one.node));
let shown = null, stopped = () => {}, outside = false, known = false, owner = stored("owner");

function route() {
  const wanted = location.hash.slice(1), name = Object.hasOwn(views, wanted) ? wanted : "chat";
  if (outside || name === shown) return;
  if (shown) views[shown].left?.();
  const first = shown === null;
  shown = name;
  for (const [key, one] of Object.entries(views)) one.node.hidden = key !== name;
  for (const one of links) {
    const own = one.hash === `#${name}`;
    if (own) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
    if (own) document.title = `${one.textContent} · slmops`;
  }
  views[name].shown?.();
  if (!first) main.scrollTop = 0;
}

/** The list beside the views; small, for it is always there. */
function list() {
  const rows = models.all.slice(0, 12).map((one) => h("li", {}, dot(one), h("span.words", {}, h("b", {}, one.name), h("small", {}, told(one, true)))));
  const more = models.all.length > rows.length ? h("li.quiet", {}, `and ${models.all.length - rows.length} more`) : null;
  beside.replaceChildren(h("h2", {}, "Models"), h("ul", {}, rows, more));
  // What scrolls must be reached by keys; what does not is no stop on the way.
  if (beside.scrollHeight > beside.clientHeight) beside.tabIndex = 0;
  else beside.removeAttribute("tabindex");
}

/** Nothing of what was said or listed stays in the tab. */
function away() {
  forget();
  location.reload();
}

/** Who is signed in, and what they may see. Throws Fault. */
async function who(signal) {
  const found = await get("/slmops/session", signal);
  if (owner !== null && owner !== found.name) return away(); // after a session that ended by itself: what was said is another's
  store("owner", owner = found.name);
  models.sees = found.sees;
  known = true;
  const out = found.session ? button("bare.leave", "leave", `Sign out ${found.name}`, async () => {
    await leave().catch(() => {});
    away();
  }) : null;
  tools.replaceChildren(...[theme(), out ? h("span.who", {}, found.name) : null, out].filter(Boolean));
}

function refuse() {
  if (outside) return;
  outside = true;
  stopped();
  for (const one of Object.values(views)) {
    one.stop?.();
    one.left?.();
    one.node.hidden = true;
  }
  shown = null;
  document.body.classList.add("outside");
  main.append(door.node);
  document.title = "Sign in · slmops";
  door.field.focus();
}

function begin() {
  if (outside) say("Signed in");
  outside = false;
  door.node.remove();
  document.body.classList.remove("outside");
  known = false;
  stopped = poll(SECONDS, async (signal) => {
    try {
      if (!known) await who(signal);
      await models.refresh(signal);
      notice.hidden = true;
      if (shown === null) route();
    } catch (error) {
      if (error instanceof Fault && error.status !== 401) { // else the door is open already
        notice.textContent = error.message;
        notice.hidden = false;
      }
      throw error;
    }
  });
}

for (const one of links) one.prepend(icon(one.dataset.icon));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the # is the view's
  main.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector(":popover-open")) return;
  views[shown]?.stop?.();
});
refused.addEventListener("refused", refuse);
models.addEventListener("change", list);
addEventListener("hashchange", route);
for (const one of Object.values(views)) one.node.hidden = true;
tools.replaceChildren(theme());
begin();
