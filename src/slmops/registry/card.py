"""The model card of an artifact: Markdown under a header of metadata, as the Hugging Face Hub reads it.

https://huggingface.co/docs/hub/model-cards, metadata: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from slmops.core import licences, units
from slmops.registry import described
from slmops.registry.described import Described, Figure, plain
from slmops.registry.manifest import PLAIN

KIND = "card"
LIBRARIES = {"gguf": "gguf", "mlx": "mlx", "onnx": "onnxruntime-genai", "openvino": "openvino"}
"""The Hub's names of libraries; of other formats it is transformers."""


def card(one: Described) -> str:
    """The whole card; it ends with a line feed."""
    import yaml

    header = yaml.safe_dump(_header(one), sort_keys=False, allow_unicode=True, width=1000)
    title = ", ".join(_cell(part) for part in (one.name, one.format, one.scheme) if part)
    parts = [f"# {title}", _what(one), *_sections(one)]
    return f"---\n{header}---\n\n" + "\n\n".join(parts) + "\n"


def _header(one: Described) -> dict[str, Any]:
    quantized = bool(one.scheme) and one.scheme not in PLAIN
    tags = ["slmops", one.format.replace("_", "-"), *([one.scheme, "quantized"] if quantized else [])]
    found: dict[str, Any] = {
        **_licence(one.licence),
        "library_name": LIBRARIES.get(one.format, "transformers"),
        "pipeline_tag": "text-generation",
        "base_model": one.base[0] if one.base else None,
        "base_model_relation": ("quantized" if quantized else None) if one.base else None,
        "tags": [tag for tag in tags if tag],
    }
    if results := [figure for figure in one.figures if figure.place.startswith(("quality.", "answers."))]:
        found["model-index"] = [{"name": one.name, "results": [_result(one, results)]}]
    return {key: value for key, value in found.items() if value}


def _licence(expression: str | None) -> dict[str, str]:
    """The Hub writes SPDX's names small; what it does not know is `other`, with a name."""
    if expression is None:
        return {}
    if expression.startswith(licences.OWN) or licences.parts(expression) != [expression]:
        return {"license": "other", "license_name": expression.removeprefix(licences.OWN)}
    return {"license": expression.lower()}


def _result(one: Described, figures: Sequence[Figure]) -> dict[str, Any]:
    """An entry of the Hub's model-index."""
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": "text", "name": "the text and tasks given to slmops"},
        "metrics": [{"type": figure.place, "name": figure.name, "value": round(figure.value, 6)} for figure in figures],
    }


def _what(one: Described) -> str:
    config = one.config.get("config")
    held = config if isinstance(config, dict) else {}
    size = units.size(one.found.nbytes)
    base = f"[{one.base[0]}](https://huggingface.co/{one.base[0]})" if one.base else ""
    rows = [
        ("family", one.family),
        ("parameters", plain(held.get("paramSize"))),
        ("format", one.format),
        ("quantization", one.scheme),
        ("size", size),
        ("made from", base),
        ("licence", one.licence or "not stated"),
        ("digest", one.found.digest),
    ]
    return _table(("", ""), [(name, value if value is base else _cell(value)) for name, value in rows if value])


def _sections(one: Described) -> Iterable[str]:
    verb, parameters = described.step(one)
    made = [f"`slmops {verb}`" + (f" with `{parameters.replace('`', '')}`" if parameters else "")] if verb else []
    made += [f"{_cell(given.role)}: {_cell(given.label or given.parent)}" for given in one.inputs]
    made += [f"{_cell(name)} {_cell(version)}" for name, version in described.versions(one).items()]
    if made:
        yield "## How it was made\n\n" + _items(made)
    if one.figures:
        rows = [(figure.name, figure.said, _interval(figure), _cell(figure.engine) or "-") for figure in one.figures]
        where = f"\n\nMeasured on {_cell(one.machine)}." if one.machine else ""
        yield "## Measured\n\n" + _table(("figure", "value", "95 % interval", "engine"), rows) + where
    else:
        yield "## Measured\n\nNothing yet: `slmops measure --attach`, `slmops optimize --name`."
    if one.gates:
        marks = {True: "passed", False: "failed", None: "undecided"}
        verdicts = [(_cell(gate.gate), marks[gate.passed], _cell(gate.said)) for gate in one.gates]
        yield "## Gates\n\n" + _table(("gate", "verdict", "figure"), verdicts)
    if one.approvals:
        given = [[_cell(plain(each.get(key))) for key in ("by", "at", "note")] for each in one.approvals]
        yield "## Approvals\n\n" + _table(("by", "at", "note"), given)
    proven = one.found.ours("verified") == "true"
    limits = [*map(_cell, one.notes)]
    limits += [] if proven else ["It was not proven in its engine against its source."]
    limits += [] if one.licence else ["No licence is stated: ask its author before you use it."]
    limits += ["What it answers was not checked for truth, safety or bias: test it on your own cases (`slmops test`)."]
    yield "## Limits\n\n" + _items(limits)
    files = [(_cell(layer.path), units.size(layer.blob.size), f"`{layer.blob.digest}`") for layer in one.found.layers]
    yield "## Files\n\n" + _table(("file", "size", "digest"), files)


def _interval(figure: Figure) -> str:
    return f"{figure.low:,.4g} to {figure.high:,.4g}" if figure.low is not None and figure.high is not None else "-"


def _cell(text: str) -> str:
    """A stranger's text as nothing but text, in Markdown and in a table of it."""
    return re.sub(r"([\\`*_\[\]<>|#!~])", r"\\\1", plain(text))


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
