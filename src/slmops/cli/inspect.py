"""slmops inspect: what a model is and what it will take, without reading a weight."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmops.core.model import Model
    from slmops.formats._quantization import Quantization
    from slmops.formats.huggingface import Survey

HELP = "say what a model is and how much memory it will take in each format; reads no weight, downloads none"
EXAMPLE = "slmops inspect samples/home"
SCHEMES = ("q4", "q8", "f16")
"""Of the memory table: the two portable quantizations, and none."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="a folder or file, a name in the registry, or one of Hugging Face: org/name (@revision)"
    )
    parser.add_argument("--context", type=int, metavar="N", help="predict memory for N tokens of context")


def run(arguments: argparse.Namespace) -> int:
    import json

    from slmops.cli import _reference

    found = facts(_reference.source(arguments.source), arguments.context)
    print(json.dumps(found, indent=1) if arguments.json else text(found))
    return 0


def facts(source: str, context: int | None = None) -> dict[str, Any]:
    """Everything that the verb says, as data: bytes are whole numbers, absent facts are None."""
    from slmops import source as sources
    from slmops.core.errors import Unsupported, UsageError
    from slmops.formats import _quantization, huggingface

    if context is not None and context < 1:
        raise UsageError(f"a context of {context} tokens makes no sense", "give 1 or more")
    path = sources.local(source)
    name = sources.format_of(path) if path is not None else "huggingface"
    if name != "huggingface":
        try:
            return _of_model(sources.load(source), name, context)
        except Unsupported:
            # Quantized by someone else: what its own format does not read can still be described.
            if path is None or not huggingface.detect(path):
                raise
    survey = sources.survey(source)
    quantization = _quantization.describe(survey.config)
    if quantization is not None:
        return _of_quantized(survey, quantization, context)
    return _of_model(huggingface.assemble(survey), name, context)


def _of_model(model: Model, format_name: str, context: int | None) -> dict[str, Any]:
    from slmops.core.scheme import Packed, stored_as
    from slmops.core.tensor import elements
    from slmops.formats._quantization import precision
    from slmops.plan import memory

    stored: dict[str, int] = {}
    bits: dict[str, float] = {}
    sizes: dict[str, int] = {}
    packed = False
    for role, tensor in model.tensors.items():
        kind = stored_as(tensor)
        if isinstance(tensor, Packed):
            packed, bits[kind], size = True, tensor.scheme.bits, tensor.scheme.nbytes(tensor.shape)
        else:
            bits[kind], size = tensor.dtype.itemsize * 8, elements(tensor.shape) * tensor.dtype.itemsize
        sizes[role] = size
        stored[kind] = stored.get(kind, 0) + size
    main = max(stored, key=lambda kind: stored[kind])
    lengths = memory.contexts(model.spec, context)
    if packed:
        # Codes are never quantized again: what is predicted is this artifact in its own engine.
        total = sum(sizes.values())
        found = (memory.of(model.spec, format_name, main, length, total, model.parameters) for length in lengths)
        predicted = [_as_dict(one) for one in found]
    else:
        predicted = [_as_dict(one) for one in memory.predict(model, SCHEMES, lengths)]
    return {
        **_common(model, model.spec),
        "format": format_name,
        "parameters": model.parameters,
        "tier": _tier(model.parameters),
        "stored": stored,
        "quantization": {"method": main, "bits": bits[main]} if packed else None,
        "precision": precision(bits[main]),
        "steps": len(model.steps),
        "bytes": _by_group(sizes),
        "memory": predicted,
        "notes": list(model.source.get("notes", ())),
    }


def _of_quantized(survey: Survey, quantization: Quantization, context: int | None) -> dict[str, Any]:
    """A checkpoint whose codes slmops does not read (yet): its shape from config.json, its bytes from the headers."""
    from slmops.core import plugins
    from slmops.core.tensor import elements
    from slmops.plan import memory

    spec = survey.spec
    architecture = plugins.load("architectures", spec.family)
    parameters = sum(elements(shape) for shape in architecture.shapes(spec).values())
    roles = {name.removesuffix(".weight"): role for role, name in architecture.names(spec).items()}
    sizes: dict[str, int] = {}
    stored: dict[str, int] = {}
    for name, tensor in survey.tensors.items():
        # x.qweight, x.scales, x.weight_packed ... all belong to the module x.
        role = roles.get(name.removesuffix(".weight")) or roles.get(name.rpartition(".")[0], "other")
        size = elements(tensor.shape) * tensor.dtype.itemsize
        sizes[role] = sizes.get(role, 0) + size
        stored[tensor.dtype.name] = stored.get(tensor.dtype.name, 0) + size
    predicted = [
        _as_dict(memory.of(spec, quantization.method, quantization.method, length, sum(sizes.values()), parameters))
        for length in memory.contexts(spec, context)
    ]
    return {
        **_common(survey, spec),
        "format": "huggingface",
        "parameters": parameters,
        "tier": _tier(parameters),
        "stored": stored,
        "quantization": {
            "method": quantization.method,
            "bits": quantization.bits,
            "group": quantization.group,
            "details": list(quantization.details),
        },
        "precision": quantization.precision,
        "bytes": _by_group(sizes),
        "memory": predicted,
        "notes": ["quantized already: it can be inspected, but not converted"],
    }


def _common(found: Model | Survey, spec: Any) -> dict[str, Any]:
    from slmops.formats import _tokenizer

    tokens = _tokenizer.count(found.tokenizer) if found.tokenizer is not None else None
    return {
        "name": found.name,
        "source": dict(found.source),
        "family": spec.family,
        "layers": spec.layers,
        "hidden": spec.hidden,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "tied": spec.tied,
        "context": spec.context,
        "vocabulary": {"tokens": tokens, "rows": spec.vocab},
        "licence": found.licence,
        "chat_template": found.chat_template is not None,
    }


def _tier(parameters: int) -> str:
    from slmops.plan.tiers import tier

    return tier(parameters)


def _by_group(sizes: dict[str, int]) -> dict[str, int]:
    from slmops.core import roles

    result = dict.fromkeys(("embedding", "head", "attention", "mlp", "norm"), 0)
    for role, size in sizes.items():
        heading = roles.group(role)
        result[heading] = result.get(heading, 0) + size
    return {heading: size for heading, size in result.items() if size}


def _as_dict(one: Any) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(one), "total": one.total, "low": one.low, "high": one.high}


def text(found: dict[str, Any]) -> str:
    """The facts for people."""
    from slmops.cli import _text

    vocabulary = found["vocabulary"]
    tokens = "" if vocabulary["tokens"] is None else f"{vocabulary['tokens']:,} tokens in "
    quantization = found["quantization"]
    how = [found["precision"], *([quantization["method"]] if quantization else [])]
    if quantization and quantization.get("group"):
        how.append(f"groups of {quantization['group']}")
    if found.get("steps"):
        how.append(f"the inputs of {found['steps']} matrices rounded to 8 bits by steps")
    stored = ", ".join(f"{kind} {_text.size(size)}" for kind, size in found["stored"].items())
    source = found["source"]
    pairs = [
        ("name", found["name"]),
        ("source", str(source.get("hub") or source.get("path") or "")),
        ("format", found["format"].replace("_", "-")),
        ("family", f"{found['family']}, {found['layers']} layers of {found['hidden']}, {found['heads']} heads sharing "
                   f"{found['kv_heads']} key-value heads of {found['head_dim']}"),
        ("parameters", f"{_text.count(found['parameters'])} ({found['parameters']:,})"),
        ("tier", found["tier"]),
        ("context", f"{found['context']:,} tokens"),
        ("vocabulary", f"{tokens}{vocabulary['rows']:,} rows{', shared with the head' if found['tied'] else ''}"),
        ("precision", ", ".join(how)),
        ("stored as", stored),
        ("weights", ", ".join(f"{heading} {_text.size(size)}" for heading, size in found["bytes"].items())),
        ("licence", found["licence"] or "not stated"),
        ("chat template", "yes" if found["chat_template"] else "none"),
        ("notes", "\n".join(found["notes"])),
    ]  # fmt: skip
    lengths = sorted({one["context"] for one in found["memory"]})
    rows: dict[tuple[str, str], list[str]] = {}
    for one in found["memory"]:
        row = rows.setdefault((one["format"].replace("_", "-"), one["scheme"]), [_text.size(one["weights"])])
        row.append(_text.size(one["total"]))
    header = ["format", "scheme", "weights", *(f"at {length:,}" for length in lengths)]
    shown = _text.table(header, [[*key, *row] for key, row in rows.items()], "ll" + "r" * (len(lengths) + 1))
    title = "memory at run time: weights + KV cache + engine, predicted, by tokens of context"
    return f"{_text.pairs(pairs)}\n\n{title}\n{shown}"
