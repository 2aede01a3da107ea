"""The report: parsed as a stranger would, beside the facts that it was made from; and looked at in a real browser."""

from __future__ import annotations

import copy
import html
import html.parser
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import browser
from slmops import compile as compiler
from slmops import source
from slmops.cli import optimize as verb
from slmops.core.errors import OutputExists, SourceNotFound
from slmops.core.scheme import load as scheme
from slmops.measure import gates, report, statistics
from slmops.measure.artifact import Measured
from slmops.measure.quality import Quality
from slmops.measure.speed import Speed
from slmops.measure.statistics import Estimate
from slmops.optimize import Found
from slmops.plan import hardware
from slmops.plan.decide import Candidate, Limits
from slmops.trials import Trial, Wanted

Toy = Callable[..., Path]
EVIL = "</style></script></pre>\"'><img src=x onerror=alert(1)><script>pwned=1</script>{{ 7*7 }}"
VOID = {"meta", "br", "img", "link", "input", "hr"}


def taken(folder: Path, number: int, engine: str, name: str) -> Measured:
    """Figures that no two candidates share."""
    kl = statistics.mean([0.001 * number * (1 + 0.1 * (one % 3)) for one in range(1, 33)])
    kept = Estimate(1 - 0.007 * number, 1 - 0.008 * number, 1 - 0.006 * number, 8160, 32)
    top = Estimate(1 - 0.01 * number, 0.9, 0.99, 8192, 32)
    quality = Quality(kl, 1e-5, kl, top, Estimate(2.8, 2.7, 2.9, 8160, 32), 2.8, kept, None, 8192, 32, (0.1, 0.2))
    decodes = tuple(100.0 * number + one for one in (-20, 0, 20))
    times = tuple(0.01 * number * one for one in (1, 1.1, 1.5))
    itl = statistics.Percentiles(*(Estimate(x / decodes[1], 0.0, 0.0, 3, 3) for x in (1, 1.4, 3)))
    speed = Speed(times[1], decodes[1], 128 / times[1], 40 / decodes[1], 128, 64, 3, decodes, first_tokens=times, itl=itl)
    size = 300_000 + 1_234_567 * number
    return Measured(str(folder), "gguf", name, engine, size, quality, None, speed, 7_654_321 * (9 + number), 1, 0.5)


def candidate(name: str, engine: str, dropped: str = "") -> Candidate:
    return Candidate("gguf", name, engine, 123_456, 4.5, None, (10.0, 20.0, 30.0), dropped)


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy as GGUF, and its text."""
    out = tmp_path_factory.mktemp("report")
    compiler.convert(source.load(toy("qwen3")), ["gguf"], "q4", out / "q4", verify=False)
    (out / "text.txt").write_text("a text")
    return out


def found(made: Path, said: str = "q4", count: int = 5) -> Found:
    trials = []
    for number in range(1, count + 1):
        name, engine = f"{said}-{number}", "llamacpp" if number % 2 else "openvino"
        one = taken(made / "q4", number, engine, name)
        verdicts = (*gates.quality(one), gates.steady(one), gates.Verdict(said, None, False, said))
        trials.append(Trial(candidate(name, engine), one, verdicts))
    trials.append(Trial(candidate(said, "llamacpp"), None, (), f"failed: {said}"))
    passed = [one for one in trials if one.passed]
    return Found(
        tuple(trials), passed[-1] if passed else None, tuple(passed[:2]), (candidate("unreached", "openvino"),),
        (candidate("dropped", "llamacpp", f"too large: {said}"),), (f"relax {said}",), hardware.Machine(said, "linux",
        "x86_64", said, 2, 1 << 34, 1 << 33, 1e10), 12.5, said,
    )  # fmt: skip


def facts(made: Path, toy: Toy, said: str = "q4", count: int = 5) -> dict[str, Any]:
    wanted = Wanted(Limits(size=9_000_000), 0.95)
    model = source.load(toy("qwen3"))
    return verb._facts(
        found(made, said, count), model, wanted, f"slmops optimize '{said}'", report.inputs(text=made / "text.txt")
    )


@pytest.fixture(scope="module")
def plain(made: Path, toy: Toy) -> dict[str, Any]:
    return facts(made, toy)


class Tree(html.parser.HTMLParser):
    """Every tag with its attributes, and that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def harmless(tree: Tree) -> None:
    """Nothing that runs, nothing from elsewhere."""
    for tag, attributes in tree.tags:
        assert tag not in {
            "script",
            "img",
            "link",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "use",
            "image",
            "foreignobject",
        }
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in {"src", "srcset", "style", "action", "xlink:href", "poster"}
            assert key != "href" or re.fullmatch(r"#t\d+", value)
    assert sum(tag == "style" for tag, _ in tree.tags) == 1


def row(text: str, number: int) -> str:
    match = re.search(rf'<tr id="t{number}".*?</tr>', text, re.S)
    assert match is not None
    return match[0]


def figures(text: str) -> list[tuple[float, str]]:
    return [(float(value), said) for value, said in re.findall(r'<data value="([^"]+)">([^<]*)</data>', text)]


def read(said: str) -> float:
    """The rounded figure as a reader takes it: 1.55 MB, 99.4%, 42.3 ms."""
    number, unit = re.fullmatch(r"([\d.,e+-]+)\s*(%|ms|s|B|kB|MB|GB)?", said).groups()  # type: ignore[union-attr]
    factor = {None: 1, "%": 0.01, "ms": 1e-3, "s": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    return float(number.replace(",", "")) * factor


def test_every_figure_is_the_facts(plain: dict[str, Any]) -> None:
    text = report.page(plain)
    assert sum(one["measured"] is not None for one in plain["trials"]) == 5
    for number, trial in enumerate(plain["trials"]):
        measured = trial["measured"]
        if measured is None:
            assert trial["failure"] in row(text, number) and not figures(row(text, number))
            continue
        quality, speed = measured["quality"], measured["speed"]
        wanted = [measured["bytes"], quality["kl"]["value"], quality["top1"]["value"], quality["retained"]["value"],
                  speed["decode"], speed["first_token"], measured["peak"]]  # fmt: skip
        shown = figures(row(text, number))
        assert [value for value, _ in shown] == wanted
        for value, said in shown:
            assert read(said) == pytest.approx(value, rel=0.006)
        for verdict in trial["verdicts"]:
            assert verdict["said"] in row(text, number)
    choice = plain["choice"]["measured"]
    tiles = figures(text[text.index('<dl class="tiles">') : text.index("</dl>")])
    assert [value for value, _ in tiles][:3] == [
        choice["bytes"], choice["quality"]["retained"]["value"], choice["quality"]["kl"]["value"]
    ]  # fmt: skip
    for said in (
        plain["stopped"],
        "too large: q4",
        "unreached",
        plain["command"].split()[0],
        plain["inputs"]["text"]["sha256"],
    ):
        assert said in text


def charts(text: str) -> Iterator[tuple[str, ElementTree.Element]]:
    for caption, svg in re.findall(r"<figure><figcaption>([^<]*)</figcaption>(<svg.*?</svg>)", text, re.S):
        yield caption, ElementTree.fromstring(svg)


@pytest.mark.parametrize("against", ["size", "speed"])
@pytest.mark.parametrize("about", ["quality kept", "divergence"])
def test_points_stand_where_the_ticks_say(plain: dict[str, Any], about: str, against: str) -> None:
    svg = dict(charts(report.page(plain)))[f"{about} against {against}"]
    logarithmic = about == "divergence"
    places: list[dict[str, tuple[float, float]]] = []
    for kind, axis in (("x-tick", "x"), ("y-tick", "y")):
        ticks = [(float(one.get(axis, "")), read(one.text or "")) for one in svg.iter("text") if one.get("class") == kind]
        scale = math.log if logarithmic and axis == "y" else float
        (p, a), (q, b) = ticks[0], ticks[-1]
        offset = 4 if axis == "y" else 0  # text hangs below its line
        values = {}
        for hit in svg.iter("a"):
            place = float(hit.find("circle").get("c" + axis, "")) + offset  # type: ignore[union-attr]
            values[hit.get("href", "")] = scale(a) + (place - p) / (q - p) * (scale(b) - scale(a)), abs(scale(b) - scale(a))
        places.append(values)  # type: ignore[arg-type]
    for number, trial in enumerate(plain["trials"]):
        if (measured := trial["measured"]) is None:
            assert f"#t{number}" not in places[0]
            continue
        x = measured["bytes"] if against == "size" else measured["speed"]["decode"]
        y = measured["quality"]["kl" if logarithmic else "retained"]["value"]
        for (value, whole), true in zip(
            (held[f"#t{number}"] for held in places), (x, math.log(y) if logarithmic else y), strict=True
        ):
            assert abs(value - true) < 0.01 * whole


def test_layers_are_those_of_the_artifact(plain: dict[str, Any], toy: Toy) -> None:
    (one,) = plain["artifacts"]
    text = report.page(plain)
    cells = re.findall(r'<td class="h\d" title="([^:]+): ([^"]+)"><data value="([^"]+)">', text)
    bits = {role: float(value) for role, _, value in cells[: len(one["tensors"])]}
    assert bits == {held["role"]: held["bits"] for held in one["tensors"]} and set(bits.values()) == {4.5}
    assert [float(value) for _, _, value in cells[len(bits) :]] == [held["error"] for held in _in_grid(one["tensors"])]
    assert len(bits) == 1 + 7 * source.load(toy("qwen3")).spec.layers
    assert scheme("q4").bits == 4


def _in_grid(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(tensors, key=lambda held: not held["role"].startswith("layers."))


def test_nothing_runs_and_nothing_comes_from_elsewhere(plain: dict[str, Any]) -> None:
    text = report.page(plain)
    harmless(Tree(text))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None and html.unescape(policy[1]).startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1] and "script-src" not in policy[1]
    assert "url(" not in text and "@import" not in text


def hostile(made: Path, toy: Toy) -> dict[str, Any]:
    """Every text of the facts is an attack, keys of the receipt and of the machine included."""
    result = facts(made, toy, EVIL)

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poison(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [poison(one, key) for one in value]
        return EVIL if isinstance(value, str) and key not in ("role", "shape") else value

    result = poison(result)
    result["artifacts"][0]["receipt"] |= {EVIL: EVIL, "notes": {EVIL: [EVIL]}, "versions": [EVIL], "step": EVIL, "source": 7}
    result["machine"][EVIL] = EVIL
    return result


def test_hostile_words_are_text(made: Path, toy: Toy) -> None:
    text = report.page(hostile(made, toy))
    tree = Tree(text)
    harmless(tree)
    assert "<script" not in text and "<img" not in text
    assert sum("onerror=alert(1)" in one for one in tree.text) > 20
    assert "49" not in "".join(one for one in tree.text if "7*7" in one).replace("{{ 7*7 }}", "")


def test_it_stays_small(made: Path, toy: Toy) -> None:
    """Even so: 300 candidates, each text of the kind that grows most when it is escaped, 80 layers, a receipt of 5 MB."""
    many = facts(made, toy, "<" * 3000, 300)
    (one,) = many["artifacts"]
    one["receipt"]["chat_template"] = "x" * 5_000_000
    one["tensors"] = [{**held, "role": held["role"].replace("layers.0.", f"layers.{layer}.")} for layer in range(80)
                      for held in one["tensors"] if held["role"].startswith("layers.0.")]  # fmt: skip
    many["dropped"] *= 500
    text = report.page(many)
    assert len(text.encode()) < report.MOST_BYTES
    assert re.search(r"\d+ are shown; \d+ more are in the facts", text) and "more are in the facts" in text
    harmless(Tree(text))


def test_without_a_choice_without_intervals_and_with_half_a_character(made: Path, toy: Toy) -> None:
    one = found(made)
    nothing = Found(one.trials, None, (), (), (), ("give up a limit",), one.machine, 1.0, "\udce9 nothing is left")
    text = report.page(verb._facts(nothing, source.load(toy("qwen3")), Wanted(Limits()), "slmops", {}))
    assert "Nothing passed its gates" in text and "give up a limit" in text and "? nothing is left" in text
    assert "Layers" not in text
    single = Estimate(0.5, -math.inf, math.inf, 1, 1)
    kept = report.plain({"quality": single, "spread": math.nan})
    assert kept == {"quality": {"value": 0.5, "low": None, "high": None, "samples": 1, "clusters": 1}, "spread": None}
    facts_of = verb._facts(one, source.load(toy("qwen3")), Wanted(Limits()), "slmops", {})
    bare = copy.deepcopy(facts_of)
    for trial in (*bare["trials"], bare["choice"]):
        if trial["measured"]:
            for key in ("kl", "retained") if trial["measured"]["bytes"] > 2_000_000 else ():
                trial["measured"]["quality"][key] |= {"low": None, "high": None}
            trial["measured"]["quality"]["top1"]["value"] = None
            trial["measured"]["speed"] |= {"spread": None, "itl": None}
    broken = bare["trials"][0]["measured"]["quality"]
    broken["kl"]["value"] = broken["retained"]["value"] = None
    text = report.page(bare)
    assert "no interval: one sample" in text and not any('href="#t0"' in svg for svg in text.split("<svg"))
    json.dumps(bare, allow_nan=False)
    measured_only = {key: bare[key] for key in ("slmops", "when", "command", "machine")}
    failed = [{**trial["measured"], "quality": None, "speed": None} for trial in bare["trials"][:1]]
    text = report.page({**measured_only, "model": None, "inputs": {}, "measured": failed, "compared": [], "artifacts": []})
    harmless(Tree(text))


def test_an_earlier_report_is_replaced_and_nothing_else(plain: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    report.write(path, plain)
    report.write(path, {**plain, "stopped": "another end"})
    assert "another end" in path.read_text() and [one.name for one in tmp_path.iterdir()] == ["out.html"]
    path.write_text("precious")
    with pytest.raises(OutputExists):
        report.write(path, plain)
    assert path.read_text() == "precious"
    with pytest.raises(OutputExists):
        report.check(tmp_path)
    with pytest.raises(SourceNotFound):
        report.check(tmp_path / "nowhere" / "out.html")


CONTRAST = """
(() => {
  const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  // A canvas turns any colour that CSS knows into the bytes that are drawn.
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const bytes = colour => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data;
  };
  const light = b => .2126 * channel(b[0]) + .7152 * channel(b[1]) + .0722 * channel(b[2]);
  const ground = one => {
    const b = bytes(getComputedStyle(one).backgroundColor);
    return b[3] == 255 ? b : ground(one.parentElement);
  };
  let worst = [99, ''];
  for (const one of document.querySelectorAll('body *')) {
    if (![...one.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(one), svg = one instanceof SVGElement;
    if (one.closest('.tip')) continue;
    const [a, b] = [light(bytes(svg ? style.fill : style.color)), light(ground(one))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, one.outerHTML.slice(0, 200)];
  }
  return worst;
})()
"""
"""The lowest contrast of any text, as WCAG 2 defines it, and where."""
SMALLEST = """
Math.min(...[...document.querySelectorAll('body *')].filter(one => one.getClientRects().length
  && [...one.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())).map(one =>
  parseFloat(getComputedStyle(one).fontSize) * (one instanceof SVGElement ? one.getScreenCTM().a : 1)))
"""
OUTSIDE = """
[...document.querySelectorAll('main *, header *')].filter(one => {
  const box = one.getBoundingClientRect();
  return one.getClientRects().length && !one.closest('.tip') && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => one.outerHTML.slice(0, 150))
"""
TIPS = """
[...document.querySelectorAll('.tip')].filter(one => getComputedStyle(one).visibility == 'visible')
.map(one => one.textContent)
"""
MARK = """
(box => [box.x + box.width / 2, box.y + box.height / 2 + scrollY])(
  document.querySelector('.hit circle').getBoundingClientRect())
"""
SEEN = """
(box => box.top >= -1 && box.bottom <= innerHeight + 1)(document.querySelector(location.hash).getBoundingClientRect())
"""


@pytest.mark.slow
@browser.needs_browser
def test_in_a_real_browser(plain: dict[str, Any], made: Path, toy: Toy, tmp_path: Path) -> None:
    path, attack = tmp_path / "out.html", tmp_path / "attack.html"
    report.write(path, plain)
    report.write(attack, hostile(made, toy))
    with browser.browser() as page:
        for width in (390, 1280):
            for dark in (False, True):
                for one in (path, attack) if dark == (width == 390) else (path,):
                    page.open(one, width, dark=dark)
                    assert page.value("document.documentElement.scrollWidth <= innerWidth"), (one.name, width)
                    assert page.value(OUTSIDE) == []
                    assert page.value("typeof pwned") == "undefined"
                    asked = [
                        event["params"]["request"]["url"]
                        for event in page.events
                        if event["method"] == "Network.requestWillBeSent"
                    ]
                    assert asked == [one.as_uri()]
                    assert not [
                        event for event in page.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
                    ]
                    assert page.value("document.styleSheets[0].cssRules.length") > 50  # the policy lets the one style in
                page.open(path, width, dark=dark)
                assert page.value("getComputedStyle(document.body).backgroundColor") == (
                    "rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)"
                )
                ratio, where = page.value(CONTRAST)
                assert ratio >= 4.5, where
                assert page.value(SMALLEST) > 9
        assert page.value(TIPS) == []
        for _ in range(60):
            page.press("Tab")
            if page.value("document.activeElement.classList.contains('hit')"):
                break
        (tip,) = page.value(TIPS)
        assert tip.startswith(f"gguf {plain['choice']['scheme']} in {plain['choice']['engine']}") and "keeps" in tip
        page.press("Enter")
        assert plain["trials"][int(page.value("location.hash").removeprefix("#t"))]["chosen"]
        assert page.value(SEEN)
        page.value("document.activeElement.blur()")
        x, y = page.value(MARK)
        page.value(f"scrollTo(0, {y} - 200)")
        page.point(x, y - page.value("scrollY"))
        assert len(page.value(TIPS)) == 1
        assert page.printed().startswith(b"%PDF")
