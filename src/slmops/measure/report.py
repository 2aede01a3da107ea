"""A report of a search or a measurement: one HTML file that works offline, made from the facts that --json prints.

No script, nothing from a network (a content policy says so), every text escaped: names, paths, templates and errors are
strangers' words. Figures stand in <data value="..."> as they were taken, beside the rounded text.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

import slmops
from slmops import prove
from slmops.core import receipt, roles, store, units
from slmops.core.errors import OutputExists, SlmopsError, SourceNotFound
from slmops.core.model import Model
from slmops.measure import _charts, _figures, layers
from slmops.measure._charts import Point, Row, axis

MOST_BYTES = 1_000_000
MOST_LISTED, RECEIPT = 128, 400
"""Members of a list that are shown, and characters of a receipt for each of them."""
DEEPEST = 32
FLOOR = 1e-5
"""Nats of divergence below which points stand on the lower edge of a chart."""
MARKER = '<meta name="generator" content="slmops'


def heading(command: str, source: Model | None) -> dict[str, Any]:
    """What every set of facts begins with: the command, when and by what it was run, and the model that it is about."""
    model = None
    if source is not None:
        origin = {key: source.source[key] for key in ("hub", "revision", "path") if key in source.source}
        model = {"name": source.name, "source": origin, "parameters": source.parameters, "licence": source.licence}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"slmops": slmops.__version__, "when": when, "command": command, "model": model}


def inputs(**paths: str | Path | None) -> dict[str, Any]:
    """Name -> path, bytes and sha256 of each file that was read, so that others can tell whether theirs is the same."""
    given = {name: Path(path) for name, path in paths.items() if path is not None}
    return {
        name: {"path": str(path), "bytes": path.stat().st_size, "sha256": store.file_digest(path)}
        for name, path in given.items()
    }


def artifact(where: str, source: Model | None = None) -> dict[str, Any]:
    """The receipt of the artifact in a folder, without what only verify needs, and its matrices beside the source's."""
    folder = Path(where)
    kept = {key: value for key, value in receipt.load(folder).items() if key not in ("tensors", "probes")}
    try:
        tensors, absent = layers.held(folder, source), None
    except SlmopsError as error:
        tensors, absent = [], str(error)
    proof = None
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):  # of another version, or a stranger's
        proof = prove.summary(kept["verification"])
    found: dict[str, Any] = plain({"folder": where, "receipt": kept, "proof": proof, "tensors": tensors, "absent": absent})
    return found


def plain(value: Any, depth: int = 0) -> Any:
    """As JSON holds it: dataclasses as objects, tuples as lists, NaN and infinity, which it has not, as null.

    What lies deeper than DEEPEST (in a stranger's receipt) is left out.
    """
    if depth > DEEPEST:
        return "..."
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, depth + 1) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check(path: Path) -> None:
    """Raises, before the long work, where the report could not be written: no folder, or something else stands there."""
    if not path.absolute().parent.is_dir():
        raise SourceNotFound(f"there is no folder {path.parent} for the report", "make it, or give another --report")
    if path.is_dir():
        raise OutputExists(f"{path} is a folder", "give the path of a file: --report out.html")
    if path.exists() and not _ours(path):
        raise OutputExists(f"{path} is there and is no report of slmops", "give another --report, or remove it")


def _ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return MARKER.encode() in handle.read(1000)


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """The report of these facts, whole or not at all, in place of an earlier report."""
    check(path)
    store.write_whole(path, page(facts))


def page(facts: Mapping[str, Any]) -> str:
    """The facts of `slmops optimize` or `slmops measure` as one HTML document of at most MOST_BYTES.

    Where it would be larger, long lists and receipts are cut, and the page says so.
    """
    listed, document = MOST_LISTED, ""
    while not document or (len(document.encode()) > MOST_BYTES and listed > 1):
        # A path or a stranger's JSON may hold half a character.
        document = _rendered(facts, listed).encode("utf-8", "replace").decode("utf-8")
        listed //= 2
    return document


def _rendered(facts: Mapping[str, Any], most: int) -> str:
    """most: members of each list that are shown."""
    import jinja2

    text, style = (
        importlib.resources.files("slmops.measure").joinpath(f"report.{kind}").read_text("utf-8") for kind in ("html", "css")
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": _figures.figure, "interval": _figures.interval, "name": _name, "words": _figures.words}
    environment.filters |= {"brief": _figures.brief, "cut": _figures.cut, "size": units.size, "count": units.count}
    every = facts.get("trials") or [{"measured": one} for one in facts.get("measured", ())]
    trials = _ordered([{"number": number, **_complete(one)} for number, one in enumerate(every)])[:most]
    return environment.from_string(text).render(
        facts=facts,
        most=most,
        style=Markup(style),
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        trials=trials,
        left_out=len(every) - len(trials),
        answered=any(one["measured"] and one["measured"]["answers"] for one in trials),
        engines=list(enumerate(_engines(trials))),
        effective=_effective(trials),
        charts=_planes(trials, facts.get("wanted")),
        latencies=_latencies(trials),
        artifacts=[{**one, "grid": _grid(one["tensors"])} for one in facts["artifacts"][:most]],
        receipt=lambda one: _figures.cut(json.dumps(one, indent=1, ensure_ascii=False), RECEIPT * most),
    )


def _complete(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as optimize has it; measure gives only what was measured."""
    taken = trial["measured"]
    named = {key: taken[key] for key in ("format", "scheme", "engine", "kv")} if taken else {}
    rest: dict[str, Any] = {"passed": None, "chosen": False, "front": False, "verdicts": [], "failure": None}
    return {**rest, **named, **trial}


def _ordered(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choice, then the front, then those that passed; as they were measured where all are alike."""
    return sorted(trials, key=lambda one: (not one["chosen"], not one["front"], not one["passed"]))


def _engines(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({one["engine"] for one in trials})


def _effective(trials: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Each engine's version and settings, without what is each candidate's own."""
    return {
        _where(one): {
            key: value for key, value in one["measured"]["effective"].items() if key not in ("weights", "activations")
        }
        for one in trials
        if one["measured"]
    }


def _where(trial: Mapping[str, Any]) -> str:
    """The engine, with a KV cache that is not its usual one."""
    kv = trial.get("kv", "auto")
    return str(trial["engine"]) if kv == "auto" else f"{kv} KV, {trial['engine']}"


def _name(trial: Mapping[str, Any]) -> str:
    return _figures.brief(f"{trial['format'].replace('_', '-')} {trial['scheme']} in {_where(trial)}", 48)


def _label(trial: Mapping[str, Any]) -> str:
    return _figures.brief(trial["scheme"] or trial["format"], 18)


def _planes(trials: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Quality kept and divergence, each against size and against speed."""
    able = [one for one in trials if _placed(one["measured"])]
    if not able:
        return []
    sizes = [float(one["measured"]["bytes"]) for one in able]
    speeds = [one["measured"]["speed"]["decode"] for one in able]
    kept = [one["measured"]["quality"]["retained"]["value"] for one in able]
    divergences = [max(one["measured"]["quality"]["kl"]["value"], FLOOR) for one in able]
    bound = wanted["quality"] if wanted else None
    rows = (
        (
            "quality kept",
            "retained",
            axis("quality kept", [*kept, *([bound] if bound else [])], _figures.percent_tick),
            bound,
        ),
        (
            "divergence",
            "kl",
            axis(
                "KL divergence, nats a token (lower is better)",
                divergences,
                _figures.power,
                True,
                FLOOR,
            ),
            None,
        ),
    )
    columns = (
        ("size", axis("size of the artifact", sizes, units.size)),
        ("speed", axis("decoding, tokens a second", speeds, _figures.rate)),
    )
    colours = _engines(trials)
    drawn = []
    for about, key, up, gate in rows:
        for against, across in columns:
            points = [_point(one, key, against, colours.index(one["engine"]) % 6) for one in able]
            says = f"asked: {_figures.percent(gate)}" if gate else ""
            drawn.append({"title": f"{about} against {against}", "svg": _charts.scatter(points, across, up, gate, says)})
    return drawn


def _placed(taken: Mapping[str, Any] | None) -> bool:
    """Whether it has a place in all planes: a broken artifact's divergence is no number."""
    if not taken or not taken["quality"] or not taken["speed"] or not taken["speed"]["decode"]:
        return False
    return all(taken["quality"][key]["value"] is not None for key in ("kl", "retained"))


def _point(trial: Mapping[str, Any], key: str, against: str, colour: int) -> Point:
    taken = trial["measured"]
    quality, speed = taken["quality"], taken["speed"]
    found = quality[key]
    kept, spread = quality["retained"], speed["spread"]
    ends = _figures.bounds(kept)
    form, scheme = (_figures.brief(taken[key], 20) for key in ("format", "scheme"))
    details = [
        f"{form.replace('_', '-')} {scheme} in {_figures.brief(_where(trial), 16)}",
        f"{units.size(taken['bytes'])}, {units.size(taken['peak'])} at the peak",
        f"keeps {_figures.percent(kept['value'])}"
        + (f" ({_figures.percent(ends[0])} to {_figures.percent(ends[1])})" if ends else ""),
        f"KL {_figures.number(quality['kl']['value'])} nats a token",
        f"{_figures.rate(speed['decode'])} tokens/s, spread {spread:.0%}"
        if spread is not None
        else f"{_figures.rate(speed['decode'])} tokens/s",
        f"first token {_figures.milliseconds(speed['first_token'])}",
        _standing(trial),
    ]
    return Point(
        x=float(taken["bytes"]) if against == "size" else speed["decode"],
        y=found["value"],
        x_range=None if against == "size" or len(speed["decodes"]) < 2 else (min(speed["decodes"]), max(speed["decodes"])),
        y_range=_figures.bounds(found),
        label=_label(trial),
        details=tuple(line for line in details if line),
        target=f"t{trial['number']}",
        colour=colour,
        mark=_mark(trial),
    )


def _mark(trial: Mapping[str, Any]) -> str:
    """What it is drawn as; artifacts that were only measured have neither choice nor front, and stand like a front."""
    if trial["chosen"]:
        return "choice"
    if trial["passed"] is None or (trial["passed"] and trial["front"]):
        return "front"
    return "passed" if trial["passed"] else "failed"


def _standing(trial: Mapping[str, Any]) -> str:
    lacks = [
        one["gate"] for one in trial["verdicts"] if one["blocks"] and one.get("applies", True) and one["passed"] is not True
    ]
    if lacks:
        return _figures.brief(f"lacks {', '.join(lacks)}", 44)
    return "the choice" if trial["chosen"] else "passed its gates" if trial["passed"] else ""


def _latencies(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Time to the first token, run by run, and the time between tokens, by its percentiles."""
    first, between = [], []
    colours = _engines(trials)
    for one in trials:
        speed = one["measured"]["speed"] if one["measured"] else None
        if not speed or speed["first_token"] is None:
            continue
        common = {"name": _name(one), "chosen": one["chosen"], "colour": colours.index(one["engine"]) % 6}
        runs = tuple(speed["first_tokens"])
        said = f"median {_figures.milliseconds(speed['first_token'])}"
        first.append(Row(says=said, dots=runs or (speed["first_token"],), **common))
        if speed["itl"] and None not in (tail := [speed["itl"][key]["value"] for key in ("p50", "p95", "p99")]):
            p50, p95, p99 = tail
            said = " / ".join(map(_figures.milliseconds, (p50, p95, p99)))
            between.append(Row(says=said, bar=(p50, p95, p99), **common))
    drawn = []
    for title, rows in (("time to the first token, each run", first), ("between tokens: p50 / p95 / p99", between)):
        values = [value for row in rows for value in (*row.dots, *(row.bar or ()))]
        if values:
            drawn.append(
                {
                    "title": title,
                    "svg": _charts.strips(rows, axis("logarithmic scale", values, _figures.milliseconds, True, 1e-6)),
                }
            )
    return drawn


def _grid(tensors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Matrices as rows (layers) and columns (kinds), with a shade for bits, one for errors and one for their cost."""
    inside: dict[int, dict[str, Any]] = {}
    outside, kinds = [], {}
    most = max((one["nats"] for one in tensors if one["nats"]), default=1.0)
    for one in tensors:
        bits, error, nats = one["bits"], one["error"], one["nats"]
        # Shades 0 to 7: from 2 to 16 bits, an error of 0.1 % to 50 %, a cost to 1 % of the largest; on logarithmic scales.
        shade = {
            "bits": _shade(bits, 2, 16),
            "error": _shade(error, 1e-3, 0.5) if error else 0,
            "nats": _shade(nats, most / 100, most) if nats else 0,
        }
        cell = {**one, "shade": shade}
        layer = roles.layer(one["role"])
        if layer is None:
            outside.append(cell)
        else:
            kind = roles.kind(one["role"])
            kinds[kind] = kind.rsplit(".", 1)[-1].replace("_", " ")
            inside.setdefault(layer, {})[kind] = cell
    return {"kinds": kinds, "layers": sorted(inside.items()), "outside": outside}


def _shade(value: float, low: float, high: float) -> int:
    return round(7 * min(1.0, max(0.0, math.log(value / low) / math.log(high / low))))
