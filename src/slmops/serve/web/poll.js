// Asking again and again, politely: never while the tab is hidden, never twice at once, and more slowly while it fails.

const SLOWEST = 60;

/** Calls `work(signal)` now and every so many seconds until what is returned is called. */
export function poll(seconds, work) {
  let timer = 0, over = false, busy = false, pause = seconds;
  const controller = new AbortController();
  async function go() {
    clearTimeout(timer);
    if (over || busy || document.hidden) return;
    busy = true;
    try {
      await work(controller.signal);
      pause = seconds;
    } catch {
      pause = Math.min(SLOWEST, pause * 2);
    }
    busy = false;
    if (!over && !document.hidden) timer = setTimeout(go, pause * 1000);
  }
  const seen = () => (document.hidden ? clearTimeout(timer) : go());
  document.addEventListener("visibilitychange", seen);
  go();
  return () => {
    over = true;
    clearTimeout(timer);
    controller.abort();
    document.removeEventListener("visibilitychange", seen);
  };
}
