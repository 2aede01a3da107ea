"""slmops compare: what differs between two artifacts, two receipts, or two saved measurements."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

HELP = "say what differs between two artifacts, receipts or saved --json; it reads, and measures nothing (measure does)"
EXAMPLE = "slmops compare out/gguf out/onnx"
APART = ("tensors", "files", "probes")
"""Keys of a receipt that are not compared word by word."""
FIGURES = ("bytes", "peak", "load", "quality.kl", "quality.retained", "quality.top1", "speed.decode", "speed.first_token")
LONGEST = 48
"""Characters of a value on the terminal."""


def add(parser: argparse.ArgumentParser) -> None:
    what = "a folder that slmops wrote, its slmops.json, a name of the registry, or --json of measure or optimize"
    parser.add_argument("a", metavar="A", help=what)
    parser.add_argument("b", metavar="B", help="another of its kind")


def run(arguments: argparse.Namespace) -> int:
    import json

    from slmops.cli import _reference, _text
    from slmops.core.errors import CorruptInput

    try:
        found = facts(_reference.folder(arguments.a), _reference.folder(arguments.b))
    except RecursionError:
        raise CorruptInput("one of the two is nested too deeply", "make it again") from None
    print(_text.harmless(json.dumps(found, indent=1) if arguments.json else text(found)))
    return 0


def facts(a: Path, b: Path) -> dict[str, Any]:
    """Everything that the verb says, as data. Raises SourceNotFound, CorruptInput or UsageError."""
    from slmops.core.errors import UsageError

    (kind, first), (other, second) = _read(a), _read(b)
    if kind != other:
        raise UsageError(f"{a} holds {kind}, {b} {other}", "compare two of a kind")
    found: dict[str, Any] = {"a": str(a), "b": str(b), "kind": kind}
    if kind == "measurements":
        (said, trials), (again, others) = _measured(first, a), _measured(second, b)
        return {**found, **_differing(said, again), "measured": dict(_figures(trials, others))}
    found |= _differing(_facts(first), _facts(second))
    return {**found, "tensors": _tensors(first["tensors"], second["tensors"]), "files": dict(_files(a, b, first, second))}


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    from slmops.core import receipt
    from slmops.core.errors import CorruptInput, SourceNotFound

    if path.is_dir():
        return "an artifact", receipt.load(path)
    if not path.is_file():
        raise SourceNotFound(f"there is nothing at {path}", "give an artifact's folder, its slmops.json, or saved --json")
    value = receipt.parse(path)
    if receipt.misfit(value, receipt.FORM) is None:
        return "an artifact", value
    if any(receipt.misfit(value, {key: [dict]}) is None for key in ("trials", "measured")):
        return "measurements", value
    raise CorruptInput(
        f"{path} is neither a receipt nor measurements",
        "give a slmops.json, or what measure or optimize printed with --json",
    )


def _facts(held: Mapping[str, Any]) -> dict[str, Any]:
    """A receipt without its tensors and files; of the probes, the digests."""
    from slmops.core import store

    probes = {f"probes.{key}": store.digest(value) for key, value in held["probes"].items()}
    return {key: value for key, value in held.items() if key not in APART} | probes


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Keys whose values are the same, and both values of those that are not, by dotted name. What one lacks is None."""
    same = [key for key in a if key in b and a[key] == b[key]]
    return {"same": same, "different": dict(_pairs(a, b, ""))}


def _pairs(a: Any, b: Any, place: str) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            yield from _pairs(a.get(key), b.get(key), f"{place}.{key}" if place else key)
    elif a != b:
        yield place, [a, b]


def _tensors(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """By the digests (CRC-32) that the writer took of codes, scales and zero points, or of plain numbers."""
    same, different, numbers, alike = [], {}, 0, 0
    for role in dict.fromkeys((*a, *b)):
        first, second = a.get(role), b.get(role)
        because = _because(first, second)
        size = _elements(first if first is not None else second)
        numbers += size
        if because is None:
            same.append(role)
            alike += size
        else:
            stored = [one["stored"] if one and isinstance(one.get("stored"), str) else None for one in (first, second)]
            different[role] = {"because": because, "stored": stored}
    return {"same": same, "numbers": numbers, "same_numbers": alike, "different": different}


def _because(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> str | None:
    """Why two tensors are not the same; None where they are.

    A tensor has digests in every form that some format of its conversion holds it in: those in common tell.
    """
    if a is None or b is None:
        return "only in b" if a is None else "only in a"
    if a["shape"] != b["shape"]:
        return "shape"
    common = [form for form in a["crc"] if form in b["crc"]]
    if common and all(a["crc"][form] == b["crc"][form] for form in common):
        return None
    return "numbers" if common else "scheme"


def _elements(tensor: Any) -> int:
    from slmops.core.tensor import elements

    return elements(tuple(tensor["shape"]))


def _files(a: Path, b: Path, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bytes of each file, and whether they are the same: read where both folders are here, else unknown (None)."""
    import filecmp

    for name in sorted({*first["files"], *second["files"]}):
        sizes = [held["files"].get(name) for held in (first, second)]
        same: bool | None = None if sizes[0] == sizes[1] else False
        if same is None and (a / name).is_file() and (b / name).is_file():
            same = filecmp.cmp(a / name, b / name, shallow=False)
        yield name, {"bytes": sizes, "same": same}


def _measured(held: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What was asked and where, and the figures by candidate."""
    import collections

    from slmops.core.errors import CorruptInput

    rows = [one.get("measured") for one in held["trials"]] if "trials" in held else held["measured"]
    trials: dict[str, dict[str, Any]] = {}
    seen: collections.Counter[str] = collections.Counter()
    for taken in filter(None, rows):
        if not isinstance(taken, dict):
            raise CorruptInput(f"{path} holds something else in the place of a measurement", "measure again")
        name = " ".join(str(taken.get(key)) for key in ("format", "scheme", "engine"))
        seen[name] += 1
        trials[f"{name}, number {seen[name]}" if seen[name] > 1 else name] = {key: _at(taken, key) for key in FIGURES}
    choice = held.get("choice")
    told = {key: held.get(key) for key in ("slmops", "command", "model", "inputs", "wanted", "machine", "stopped")}
    told["choice"] = (
        " ".join(str(choice.get(key)) for key in ("format", "scheme", "engine")) if isinstance(choice, dict) else None
    )
    return told, trials


def _at(taken: Mapping[str, Any], place: str) -> Any:
    """The value at a dotted place; None where there is none."""
    value: Any = taken
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _figures(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each candidate's figures in both; where both have intervals, whether these lie apart."""
    for name in dict.fromkeys((*a, *b)):
        pairs = {key: [held.get(name, {}).get(key) for held in (a, b)] for key in FIGURES}
        kept = {
            key: {"values": pair, "apart": _apart(*pair)}
            for key, pair in pairs.items()
            if any(one is not None for one in pair)
        }
        yield name, kept


def _apart(a: Any, b: Any) -> bool | None:
    try:
        return bool(a["high"] < b["low"] or b["high"] < a["low"])
    except (KeyError, TypeError):
        return None


def text(found: Mapping[str, Any]) -> str:
    """The facts for people."""
    from slmops.cli import _text

    lines = [_text.pairs([("A", found["a"]), ("B", found["b"])])]
    if "tensors" in found:
        lines.append("\n".join(_of_tensors(found["tensors"])))
        lines.append("\n".join(_of_files(found["files"])))
    else:
        lines.append(_of_figures(found["measured"]))
    rows = [[key, *map(_short, pair)] for key, pair in found["different"].items()]
    lines.append(_text.table(["differs", "A", "B"], rows, "lll") if rows else "nothing else differs")
    lines.append(f"the same: {', '.join(found['same']) or 'nothing'}")
    return "\n\n".join(lines)


def _of_tensors(found: Mapping[str, Any]) -> Iterator[str]:
    same, different = found["same"], found["different"]
    share = found["same_numbers"] / max(1, found["numbers"])
    both = f"{len(same)} of {len(same) + len(different)} are the same"
    yield f"tensors: {both} ({share:.1%} of the numbers, by the receipts' CRC-32)"
    groups: dict[str, list[str]] = {}
    for role, one in different.items():
        a, b = one["stored"]
        said = {"scheme": f"{a} in A, {b} in B", "numbers": f"other numbers, {a} in A, {b} in B"}.get(
            one["because"], one["because"]
        )
        groups.setdefault(said, []).append(role)
    for said, members in groups.items():
        yield f"  {len(members)} {said}: {', '.join(members[:3])}{' ...' if len(members) > 3 else ''}"


def _of_files(found: Mapping[str, Any]) -> Iterator[str]:
    from slmops.cli import _text

    words = {True: "the same bytes", False: "other bytes", None: "the same size (not read: one of them is not here)"}
    for name, one in found.items():
        a, b = (None if size is None else _text.size(size) for size in one["bytes"])
        both = f"{a} in A, {b} in B, {words[one['same']]}"
        yield f"file {name}: {both if a and b else f'{a}, only in A' if a else f'{b}, only in B'}"


def _of_figures(found: Mapping[str, Any]) -> str:
    """Figures that differ of candidates that were measured in both, and the names of the others."""
    from slmops.cli import _text

    said = {True: "intervals apart", False: "intervals overlap", None: ""}
    rows, only = [], []
    for name, figures in found.items():
        lacking = [place for place in (0, 1) if all(one["values"][place] is None for one in figures.values())]
        if lacking:
            only.append(f"only in {'BA'[lacking[0]]}: {name}")
            continue
        for key, one in figures.items():
            pair = one["values"]
            shown = map(_text.size, pair) if key in ("bytes", "peak") and None not in pair else map(_short, pair)
            if pair[0] != pair[1]:
                rows.append([name, key, *shown, said[one["apart"]]])
    table = _text.table(["candidate", "figure", "A", "B", ""], rows, "lllll") if rows else "no figure differs"
    return "\n".join([table, *only])


def _short(value: Any) -> str:
    """A value on one line, not too long."""
    if isinstance(value, dict) and isinstance(value.get("value"), float):
        ends = [value.get(key) for key in ("low", "high")]
        known = all(isinstance(end, float) for end in ends)
        return f"{value['value']:.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if known else "")
    said = "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return said if len(said) <= LONGEST else said[: LONGEST - 3] + "..."
