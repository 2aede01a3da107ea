"""The web page in a real browser (Playwright with the system's Chromium), on the real server and a real engine."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from browser import FOUND, needs_browser
from needs import needs
from serve.serving import ANSWER, ASKED, serving

pytestmark = [
    pytest.mark.slow,
    needs_browser,
    needs("playwright", "axe_playwright_python", "starlette", "uvicorn", "xllamacpp"),
]

QUESTION = ASKED[0]["content"]
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (one) => violations.push(`${one.violatedDirective} ${one.blockedURI}`));
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    """A registry of one source's artifacts, with figures by hand: onnx is larger than gguf, and openvino than onnx.

    So gguf and onnx are on both fronts, and openvino, slower and further off than onnx, is on none.
    """
    from slmops.registry import Registry, references

    root = tmp_path_factory.mktemp("registry")
    with Registry.open(root) as registry:
        for name, (kl, speed) in {"gguf": (0.008, 1500.0), "onnx": (0.0005, 900.0), "openvino": (0.0006, 800.0)}.items():
            digest = registry.add(made / name, references.named(f"home:{name}"))
            measured = {
                "engine": "llamacpp",
                "quality": {"kl": {"value": kl, "low": kl * 0.9, "high": kl * 1.1}, "retained": {"value": 0.99}},
                "speed": {"decode": speed, "first_token": 0.02},
                "peak": 1.2e8,
            }
            machine = {"processor": "a processor", "cores": 2, "system": "Linux"}
            registry.attach(digest, "measurement", {"measured": measured, "machine": machine})
    return root


@pytest.fixture(scope="module")
def served(made: Path, home: Path) -> Iterator[tuple[str, psutil.Process]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMOPS_HOME", str(home))
        with serving(f"home={made / 'gguf'}", made / "onnx", "--context", "1024") as (url, process):
            yield url, psutil.Process(process.pid)


@pytest.fixture(scope="module")
def server(served: tuple[str, psutil.Process]) -> str:
    return served[0]


@contextmanager
def halted(process: psutil.Process) -> Iterator[None]:
    """The engines stand still, in the middle of what they are at."""
    workers = process.children(recursive=True)
    for one in workers:
        one.suspend()
    try:
        yield
    finally:
        for one in workers:
            one.resume()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


Opened = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    """Opens the page; whatever it logs as an error, throws, or its policy refuses fails the test."""
    faults: list[str] = []
    pages: list[Any] = []

    def visit(url: str, at: str = "", expected: str = "", clock: bool = False) -> Any:
        context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
        context.add_init_script(WATCH)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.on(
            "console",
            lambda said: (
                faults.append(f"{said.type}: {said.text}")
                if said.type in ("error", "warning") and not (expected and expected in said.text)
                else None
            ),
        )
        if clock:
            page.clock.install()
        page.goto(f"{url}/{at}")
        pages.append(page)
        return page

    yield visit
    for page in pages:
        faults += page.evaluate("window.violations")
        page.context.close()
    assert not faults


def until(page: Any, holds: Callable[[], Any], pause: float = 0.1) -> None:
    """Playwright's own wait_for_function evaluates text in the page, which the policy forbids."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if holds():
            return
        page.wait_for_timeout(pause * 1000)
    raise AssertionError("it never came to hold")


def idle(page: Any) -> bool:
    """Whether the server computes nothing."""
    states = page.request.get(f"{page.url.partition('#')[0]}slmops/models").json()
    return not any(one["running"] or one["waiting"] for one in states)


def chosen(page: Any) -> None:
    """The list of models is open, and the keys go to it."""
    until(page, lambda: page.evaluate("document.activeElement.type") == "radio")


def view(page: Any, name: str) -> Any:
    page.get_by_role("navigation").get_by_role("link", name=name).click()
    found = page.locator(f"#{name.lower()}")
    found.wait_for()
    return found


def ask(page: Any, text: str) -> Any:
    """Ask in the chat; the last answer, ended."""
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")
    page.locator("#chat .send:not([data-busy])").wait_for()
    return page.locator("#chat .answer").last


@contextmanager
def answering(page: Any, text: str, pieces: int = 1) -> Iterator[None]:
    """Whatever is asked is answered with this text, in the server's own form: what no model can be made to say."""
    step = max(1, len(text) // pieces)
    parts = [text[place : place + step] for place in range(0, len(text), step)]
    chunks = [{"choices": [{"index": 0, "delta": {"content": one}, "finish_reason": None}]} for one in parts]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n"
    pattern = "**/v1/chat/completions"
    page.route(pattern, lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body))
    yield
    page.unroute(pattern)


def test_chat_streams_is_timed_and_goes_on(server: str, opened: Opened) -> None:
    page = opened(server)
    asked: list[Any] = []
    page.on("request", lambda one: asked.append(one.post_data_json) if one.url.endswith("/completions") else None)
    first = ask(page, QUESTION)
    assert json.loads(first.locator("code").inner_text()) == ANSWER
    stats = first.locator(".stats").inner_text()
    assert re.search(r"(ms|s) to (load and )?first token", stats) and re.search(r"\d tokens/s", stats), stats
    assert re.search(r"\b13 tokens", stats) and "24 in the prompt" in stats  # by the server's own count
    assert page.locator("#said").inner_text().startswith("home answered: {")
    ask(page, "and the bath to 5")
    assert [one["role"] for one in asked[-1]["messages"]] == ["user", "assistant", "user"]
    assert asked[-1]["temperature"] == 0.7 and asked[-1]["stream"] is True and "seed" not in asked[-1]
    # It stays in the tab over a reload, another tab has none of it, and a new chat has none either.
    page.reload()
    assert page.locator("#chat .answer").count() == 2 and page.locator("#chat .asked").first.inner_text() == QUESTION
    page.get_by_role("button", name="Ask again").click()
    page.locator("#chat .send:not([data-busy])").wait_for()
    assert page.locator("#chat .answer").count() == 2
    other = page.context.new_page()
    other.goto(server)
    other.locator("#chat .empty h2").wait_for()
    page.get_by_role("button", name="New chat").click()
    assert page.locator("#chat .answer").count() == 0


def test_an_answer_is_stopped_and_frees_its_place(served: tuple[str, psutil.Process], opened: Opened) -> None:
    server, process = served
    page = opened(server)
    ask(page, QUESTION)  # so that it is loaded
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Settings").click()
    heat, seed = (page.locator("#chat").get_by_label(name) for name in ("Temperature", "Seed"))
    page.locator("#chat").get_by_label("System prompt").fill("You are a house.")
    heat.fill("2")
    field, stats = page.get_by_role("textbox", name="Message"), page.locator("#chat .answer .stats").last

    # Before its first token, with the key.
    with halted(process):
        field.fill("x")
        with page.expect_request("**/v1/chat/completions") as sent:
            page.keyboard.press("Enter")
        body = sent.value.post_data_json
        assert body["messages"][0] == {"role": "system", "content": "You are a house."}
        assert body["temperature"] == 2 and "max_tokens" not in body
        page.get_by_role("button", name="Stop").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Send").wait_for(timeout=2000)
        assert "stopped by you" in stats.inner_text()
    until(page, lambda: idle(page))

    # In the middle, with the button. The sample says little: it is asked until one is caught under way.
    for number in range(30):
        seed.fill(str(number))
        field.fill(f"tell me {number}")
        page.keyboard.press("Enter")
        answer = page.locator("#chat .answer").last
        until(page, lambda answer=answer: "token" in answer.locator(".stats").inner_text(), 0.005)
        with halted(process):
            if page.locator("#chat .send[data-busy]").count():
                text = answer.locator(".md").inner_text()
                page.get_by_role("button", name="Stop").click()
                page.get_by_role("button", name="Send").wait_for(timeout=2000)
                assert text and "stopped by you" in stats.inner_text() and "tokens/s" in stats.inner_text()
                break
        page.locator("#chat .send:not([data-busy])").wait_for()
    else:
        raise AssertionError("none of 30 answers was caught under way")
    until(page, lambda: idle(page))
    assert json.loads(ask_again(page, heat).locator("code").inner_text()) == ANSWER

    heat.fill("3")
    count = page.locator("#chat .answer").count()
    field.fill("too warm")
    page.keyboard.press("Enter")
    assert page.locator("#chat .answer").count() == count  # the field says what is wrong, and nothing is sent


def ask_again(page: Any, heat: Any) -> Any:
    """What was stopped is no hindrance to the next question."""
    page.get_by_role("button", name="New chat").click()
    page.locator("#chat").get_by_label("System prompt").fill("")
    heat.fill("0")
    return ask(page, QUESTION)


def test_models_are_picked_with_keys_alone(server: str, opened: Opened) -> None:
    page = opened(server)
    ask(page, QUESTION)
    pick = page.locator("#chat .pick")
    pick.focus()
    page.keyboard.press("Enter")
    chosen(page)
    row = page.locator("#chat .row", has_text="home")
    assert "loaded" in row.inner_text() and "not loaded" in page.locator("#chat .row", has_text="onnx").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert pick.evaluate("(node) => node === document.activeElement") and "onnx" in pick.inner_text()
    answer = ask(page, QUESTION)
    assert answer.get_attribute("aria-label") == "Answer of onnx" and "to load and first token" in answer.inner_text()
    page.locator("#beside li", has_text="onnx").get_by_text(re.compile("^loaded")).wait_for()
    # Escape closes the list, and nothing else.
    page.keyboard.press("Shift+Tab")
    pick.click()
    page.keyboard.press("Escape")
    assert not page.locator("#chat .popup").is_visible()


def test_two_models_side_by_side(server: str, opened: Opened) -> None:
    page = opened(server, "#compare")
    page.get_by_role("textbox", name="Prompt for both").fill(QUESTION)
    page.keyboard.press("Enter")
    verdict = page.locator("#compare .verdict")
    verdict.wait_for()
    assert page.locator("#compare .side .pick .name").all_inner_texts() == ["home", "onnx"]
    assert "The answers are the same, word for word." in verdict.inner_text()
    rows = verdict.get_by_role("row")
    assert rows.count() == 4 and re.search(r"\d+ ms|\d s", rows.nth(1).inner_text())
    with answering(page, "the light is on"):
        page.route("**/v1/chat/completions", lambda route: _second(route), times=1)
        page.get_by_role("textbox", name="Prompt for both").fill("again")
        page.keyboard.press("Enter")
        page.get_by_text("The answers differ in 2 of 5 words.").first.wait_for()
    marked = [one.all_inner_texts() for one in (page.locator(".side").nth(place).locator("mark") for place in (0, 1))]
    assert sorted(marked) == [["off now"], ["on"]] or sorted(marked) == [["off", "now"], ["on"]]
    page.get_by_label("mark them").uncheck()
    assert page.locator("#compare mark").count() == 0 and page.locator("#compare .side .md").first.is_visible()
    # An answer does not stand under another model's name.
    page.locator("#compare .pick").first.click()
    chosen(page)
    page.keyboard.press("ArrowDown")
    until(page, lambda: page.locator("#compare .side .answer").count() == 1 and not verdict.is_visible())


def _second(route: Any) -> None:
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "the light is off now"}, "finish_reason": "stop"}]})
    route.fulfill(status=200, content_type="text/event-stream", body=f"data: {chunk}\n\ndata: [DONE]\n\n")


HOSTILE = """<img src=x onerror="window.pwned = 1"><script>window.pwned = 2</script>

[click](javascript:window.pwned=3) [data](data:text/html,<script>1</script>) <a href="javascript:1">x</a>
![spy](http://127.0.0.1:9/pixel?secret) [bank](https://evil.example/login) **bold** `code <b>` https://ok.example/a_b_c.

| a | b |
|---|:-:|
| <b>1</b> | 2 |

```html
<iframe src="javascript:window.pwned=4"></iframe>
```

- one
  1. two
"""


def test_a_hostile_answer_is_text(server: str, opened: Opened) -> None:
    page = opened(server)
    fetched: list[str] = []
    page.on("request", lambda one: fetched.append(one.url))
    with answering(page, HOSTILE, pieces=40):
        answer = ask(page, "<svg onload=window.pwned=5>")
    assert page.evaluate("window.pwned") is None
    assert answer.locator("img, script, iframe, b b, [onerror]").count() == 0 and page.locator(".asked svg").count() == 0
    text = answer.inner_text()
    assert '<img src=x onerror="window.pwned = 1">' in text and "[click](javascript:window.pwned=3)" in text
    links = answer.locator("a").evaluate_all("(all) => all.map((one) => [one.textContent, one.href, one.rel, one.target])")
    assert [one[1] for one in links] == [
        "http://127.0.0.1:9/pixel?secret",
        "https://evil.example/login",
        "https://ok.example/a_b_c",
    ]
    assert all("noopener" in one[2] and one[3] == "_blank" for one in links) and "(evil.example)" in text
    assert answer.locator("strong").inner_text() == "bold" and answer.locator("p code").inner_text() == "code <b>"
    assert (
        answer.locator("table td").all_inner_texts() == ["<b>1</b>", "2"]
        and answer.locator("ul ol li").inner_text() == "two"
    )
    assert "<iframe" in answer.locator("pre").inner_text()
    assert all(one.startswith(server) for one in fetched)


def test_text_that_would_keep_a_careless_parser_busy(server: str, opened: Opened) -> None:
    """Marks that never close, by the ten thousand: drawn within a second or so."""
    page = opened(server)
    for text in (
        "*a " * 9000, "``a`" * 9000, "[" * 20000, "> " * 9000 + "x", "- " * 9000 + "x", "# " + " #" * 20000,
        "a\n" + "|-" * 20000 + "\n", "_a" * 20000 + "(", "![](" * 9000, "# a" + " " * 40000 + "b",
    ):  # fmt: skip
        with answering(page, text):
            page.get_by_role("button", name="New chat").click()
            page.evaluate("() => { window.began = performance.now(); }")
            ask(page, "x")
            took = page.evaluate("performance.now() - window.began")
        assert took < 4000, (text[:20], took)


def test_faults_are_told_and_nothing_is_lost(server: str, opened: Opened) -> None:
    page = opened(server, expected="Failed to load resource")
    answer = ask(page, "light " * 9000)
    assert "the context" in answer.locator(".fault").inner_text()
    page.route("**/v1/chat/completions", lambda route: route.abort(), times=1)
    assert "cannot be reached" in ask(page, QUESTION).locator(".fault").inner_text()
    body = 'data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}\n\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
        times=1,
    )
    torn = ask(page, QUESTION)
    assert "half" in torn.inner_text() and "The connection ended before the answer did" in torn.inner_text()
    headers = {"retry-after": "7", "content-type": "application/json"}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, headers=headers, body="{}"), times=1)
    assert "Try again in 7 s." in ask(page, QUESTION).inner_text()
    page.get_by_role("button", name="New chat").click()
    assert json.loads(ask(page, QUESTION).locator("code").inner_text()) == ANSWER


def test_the_registry_its_front_and_its_table(server: str, opened: Opened) -> None:
    page = opened(server, "#registry")
    view_of = page.locator("#registry")
    view_of.locator("svg.plane").wait_for()
    assert "3 artifacts" in view_of.inner_text()
    named = view_of.locator("svg.plane").get_attribute("aria-label")
    assert "3 artifacts" in named and re.search(r"On the front: home:(gguf, home:onnx|onnx, home:gguf)\.", named)
    assert view_of.locator(".point.best").count() == 2 and view_of.locator("path.front").count() == 1
    rows = view_of.locator("tbody tr")
    assert rows.count() == 3 and "home:gguf" in rows.first.inner_text() and "1,500" in rows.first.inner_text()
    assert view_of.locator("th[aria-sort=descending]").inner_text().startswith("tokens/s")
    page.get_by_role("button", name="KL").click()
    assert view_of.locator("th[aria-sort=descending]").inner_text().startswith("KL")
    assert rows.locator("button").all_inner_texts() == ["home:gguf", "home:openvino", "home:onnx"]
    assert [one.inner_text() for one in rows.locator(".star").all()] == ["★", "", "★"]
    page.get_by_role("button", name="home:openvino").click()
    about = view_of.locator(".about").inner_text()
    assert "a processor, 2 cores" in about and "0.0006" in about and "made from" in about
    page.get_by_label("Quality against").select_option("speed")
    assert view_of.locator(".point.best").count() == 2
    page.get_by_label("Find").fill("home:onnx")
    assert rows.count() == 1


def test_the_load_is_polled_only_while_it_is_seen(server: str, opened: Opened) -> None:
    page = opened(server, "#load", clock=True)
    page.locator("#load tbody tr").nth(1).wait_for()
    assert page.locator("#load .tile").count() == 4 and "home" in page.locator("#load tbody").inner_text()
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.clock.run_for(3000)
    until(page, lambda: any(one.endswith("/slmops/models") for one in asked))
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_timeout(300)
    asked.clear()
    page.clock.run_for(60_000)
    page.wait_for_timeout(300)
    assert not asked
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    until(page, lambda: asked)


def test_tokens_a_second_are_those_of_the_metrics(server: str, opened: Opened) -> None:
    page = opened(server, clock=True)
    counts = iter([100, 140, 180, 5, 25])
    metrics = '# TYPE slmops_generation_tokens_total counter\nslmops_generation_tokens_total{{model_name="home"}} {}.0\n'
    metrics += 'slmops_prompt_tokens_total{{model_name="home"}} 7.0\nslmops_generation_tokens_total{{model_name="b"}} 1.0\n'
    page.route("**/metrics", lambda route: route.fulfill(body=metrics.format(next(counts))))
    sees = {"name": "anyone", "role": "admin", "session": False, "sees": ["/slmops/models", "/metrics"]}
    page.route("**/slmops/session", lambda route: route.fulfill(json=sees))
    page.reload()
    page.clock.pause_at(datetime.now() + timedelta(minutes=1))
    tile = view(page, "Load").locator(".tile", has_text="tokens/s").locator(".value")
    for wanted in ("20", "20", "–", "10"):  # 40 tokens in 2 s, again, a server that began anew, 20 in 2 s
        page.wait_for_timeout(300)
        page.clock.run_for(2000)
        until(page, lambda wanted=wanted: tile.inner_text() == wanted)


def test_axe_finds_nothing_and_nothing_overflows(server: str, opened: Opened) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(server)
    found: list[str] = []

    def look(view: str) -> None:
        """In light and dark, on a phone and a desk."""
        for width, colours in ((1280, "dark"), (360, "dark"), (360, "light"), (1280, "light")):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=colours)
            judge(f"{view}, {width}, {colours}")

    def judge(where: str) -> None:
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
        for one in Axe().run(page, options=rules).response["violations"]:
            found.append(f"{where}: {one['id']}: {[node['target'] for node in one['nodes']][:3]}")
        # What may be wider than the page scrolls by itself.
        out = page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility()
              && one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".md .wide, .md .code, .unseen, svg"))
              .map((one) => `${one.tagName} ${one.className} ${one.textContent.slice(0, 30)}`)"""
        )
        found.extend(f"{where}: too wide: {one}" for one in out[:3])

    ask(page, QUESTION)
    with answering(page, HOSTILE):
        ask(page, "hello")
    page.get_by_role("button", name="Settings").click()
    look("chat")
    page.locator("#chat .pick").click()
    look("picker")
    page.keyboard.press("Escape")
    compared = view(page, "Compare")
    page.get_by_role("textbox", name="Prompt for both").fill(QUESTION)
    page.keyboard.press("Enter")
    compared.locator(".verdict").wait_for()
    look("compare")
    view(page, "Registry").locator("svg.plane").wait_for()
    look("registry")
    view(page, "Load").locator("tbody tr").first.wait_for()
    look("load")
    assert not found


def test_everything_is_reached_with_the_keyboard(server: str, opened: Opened) -> None:
    """Each stop of Tab has a name and a ring that is seen; the first leads past the rail."""
    page = opened(server)
    page.locator("#chat .empty h2").wait_for()
    stops: dict[str, bool] = {}
    for _ in range(24):  # all the way round
        page.keyboard.press("Tab")
        name, ring = page.evaluate(
            """() => {
              const one = document.activeElement, style = getComputedStyle(one), form = one.closest("form");
              const ring = style.outlineStyle !== "none" || (form && getComputedStyle(form).outlineStyle !== "none");
              return [one === document.body ? "" : one.getAttribute("aria-label") || one.textContent.trim(), ring];
            }"""
        )
        stops[name] = ring
    wanted = ["Skip to the content", "slmops", "Chat", "Compare", "Registry", "Load"]
    wanted += ["Settings", "New chat", "Conversation", "Message", "Send"]
    order = [name for name in stops if name in wanted]
    first = order.index(wanted[0])
    assert order[first:] + order[:first] == wanted
    assert all(ring for name, ring in stops.items() if name), stops
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
    field = page.get_by_role("textbox", name="Message")
    field.focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert field.input_value() == "one\ntwo" and page.locator("#chat .asked").count() == 0


def test_colours_are_chosen_and_kept(server: str, opened: Opened) -> None:
    page = opened(server)
    shade = "getComputedStyle(document.querySelector('main')).backgroundColor"
    light = page.evaluate(shade)
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate(shade) == light
    page.get_by_role("button", name="Colours").click()
    dark = page.evaluate(shade)
    assert dark != light
    page.reload()
    assert page.evaluate(shade) == dark


def test_signing_in_with_a_key(made: Path, tmp_path: Path, opened: Opened) -> None:
    from slmops.serve import keys
    from slmops.serve.request import Caller

    held = {"ann": "slm_ann-" + "x" * 40, "bob": "slm_bob-" + "y" * 40}
    roles = {"ann": Caller("ann", "operator"), "bob": Caller("bob", "user", ("home",))}
    keys.write(tmp_path / "keys.yaml", {name: keys.Key(roles[name], keys.mark(key)) for name, key in held.items()})
    with serving(f"home={made / 'gguf'}", made / "onnx", "--keys", tmp_path / "keys.yaml") as (url, _):
        page = opened(url, "#registry", expected="401 (Unauthorized)", clock=True)
        field = page.get_by_label("Key")
        field.wait_for()
        assert not page.locator(".rail").is_visible() and page.evaluate("document.activeElement.id") == "key"
        for wrong in ("nobody's key", "nobodys-key", held["ann"] + "x"):
            field.fill(wrong)
            page.keyboard.press("Enter")
            page.get_by_role("alert").filter(has_text="key").first.wait_for()
        field.fill(held["ann"])
        page.keyboard.press("Enter")
        page.locator("#registry h2").first.wait_for()
        assert page.locator(".who").inner_text() == "ann"
        cookies = page.context.cookies()
        assert len(cookies) == 1 and cookies[0]["httpOnly"] and cookies[0]["sameSite"] == "Strict"
        everything = page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, document.documentElement.outerHTML])"
        )
        assert held["ann"] not in everything and cookies[0]["value"] not in everything
        assert field.count() == 0
        view(page, "Chat")
        assert json.loads(ask(page, QUESTION).locator("code").inner_text()) == ANSWER
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Key").wait_for()
        assert page.context.cookies() == [] and page.evaluate("sessionStorage.length") == 0
        # A key for one model sees that one, and is told what it does not see; nothing is asked that is refused.
        page.get_by_label("Key").fill(held["bob"])
        page.keyboard.press("Enter")
        page.locator("#chat .pick .name").wait_for()
        assert page.locator("#beside b").all_inner_texts() == ["home"]
        assert "operator" in view(page, "Registry").inner_text() and "operator" in view(page, "Load").inner_text()
        # When its session ends elsewhere, the door is shown again, and what was said is still there after it.
        view(page, "Chat")
        ask(page, QUESTION)
        page.context.clear_cookies()
        page.clock.run_for(6000)
        page.get_by_label("Key").wait_for()
        page.get_by_label("Key").fill(held["bob"])
        page.keyboard.press("Enter")
        page.locator("#chat .answer").wait_for()
        # But not where another signs in then, on the page as it stands or once it was loaded anew.
        for anew in (False, True):
            page.context.clear_cookies()
            page.clock.run_for(6000)
            page.get_by_label("Key").wait_for()
            if anew:
                page.reload()
            page.get_by_label("Key").fill(held["bob" if anew else "ann"])
            page.keyboard.press("Enter")
            page.locator(".who", has_text="bob" if anew else "ann").wait_for()
            page.locator("#chat .empty").wait_for()
            assert page.locator("#chat .answer").count() == 0
            assert "kitchen" not in page.evaluate("JSON.stringify({...sessionStorage})")
            ask(page, QUESTION)


def test_no_registry_is_no_fault(made: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "none"))
    with serving(f"home={made / 'gguf'}") as (url, _):
        page = opened(url, "#registry")
        page.get_by_text("There is no registry yet").wait_for()
        assert not (tmp_path / "none").exists()
