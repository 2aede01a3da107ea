// The server's routes: JSON asked whole, and an answer read as it is written (server-sent events).

/** What the server, or the way to it, says is wrong. */
export class Fault extends Error {
  constructor(message, status = 0, wait = null) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

/** Told when a request was refused for want of a key. */
export const refused = new EventTarget();

async function answered(path, options) {
  let found;
  try {
    found = await fetch(path, { cache: "no-store", credentials: "same-origin", redirect: "error", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("The server cannot be reached. Is it still running?");
  }
  if (found.ok) return found;
  let said = "";
  try {
    const body = await found.json();
    said = String(body?.error?.message ?? body?.error ?? "");
  } catch { /* no JSON: the status says it */ }
  if (found.status === 401 && !options.headers?.authorization) refused.dispatchEvent(new Event("refused"));
  const wait = Number(found.headers.get("retry-after")) || null;
  throw new Fault(said.slice(0, 600) || `The server answered ${found.status}`, found.status, wait);
}

const json = { "content-type": "application/json" };

export async function get(path, signal) {
  return (await answered(path, { signal })).json();
}

export async function text(path, signal) {
  return (await answered(path, { signal })).text();
}

/** Sign in: the key goes this once, and the answer sets a cookie that no script can read. */
export async function enter(key) {
  // A header holds no other letters, and no key has them.
  if (!/^[!-~]+$/.test(key)) throw new Fault("A key has letters, digits and signs of ASCII alone, and no spaces.");
  await answered("/slmops/session", { method: "POST", headers: { authorization: `Bearer ${key}` } });
}

export async function leave() {
  await answered("/slmops/session", { method: "DELETE" });
}

/** The chunks of a streamed chat completion. Throws Fault, and AbortError when `signal` ends it. */
export async function* streamed(body, signal) {
  const wanted = { ...body, stream: true, stream_options: { include_usage: true } };
  const found = await answered("/v1/chat/completions", { method: "POST", headers: json, body: JSON.stringify(wanted), signal });
  for await (const data of events(found.body)) {
    if (data === "[DONE]") return;
    let chunk;
    try {
      chunk = JSON.parse(data);
    } catch {
      throw new Fault("The server sent something that is not JSON");
    }
    if (chunk.error) throw new Fault(String(chunk.error.message ?? chunk.error).slice(0, 600));
    yield chunk;
  }
  throw new Fault("The connection ended before the answer did");
}

/** The data of each server-sent event: lines of `data:`, ended by an empty one; comments are skipped. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [];
  try {
    for (;;) {
      let read;
      try {
        read = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Fault("The connection was lost");
      }
      if (read.done) return;
      const lines = (rest + read.value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
