"""Quantize once, write several formats, prove each: as `slmops convert` does. What another run, or the verb, filed already
is recalled, format by format."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from slmops import compile as compiler
from slmops.core import units
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.passes.calibrate import TOKENS, Calibration
from slmops.passes.merge import merge
from slmops.passes.quantize import packed
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import COUNT, FLAG, STRING, Foreseen, Made, texts, told
from slmops.source import adapter

HELP = "quantize a model once and write it in one or more formats, each proven in its engine"
SCHEMA: dict[str, Any] = {
    "properties": {
        "model": told(STRING, "a model: ${steps.NAME.model}, a path, a name of the registry or of the Hub"),
        "to": told(texts(), "formats: gguf, onnx, openvino, mlx, compressed-tensors, huggingface"),
        "quantize": told(STRING, "q4, q8, f16, a format's own, mixed:4.5bpw or keep (default: keep codes, else q4)"),
        "calibrate": told(STRING, "a text of the model's own domain, by which codes are solved for"),
        "calibrate_tokens": told(COUNT, f"of that text ({TOKENS})"),
        "tune": told(COUNT, "passes over that text that move scales and norms (0)"),
        "requantize": told(FLAG, "allow to quantize what is quantized already (false)"),
        "adapter": told(STRING, "a folder of a LoRA (PEFT's) to merge first"),
        "provider": told({"enum": ["cpu", "cuda", "dml", "qnn"]}, "ONNX Runtime's (cpu)"),
    },
    "required": ["model", "to"],
}
INPUTS = {"model": "model", "calibrate": "file", "adapter": "folder"}
CODE = compiler.WRITERS_CODE
REMEMBERED, JUDGES, ACTS = True, False, False


def check(keys: dict[str, Any]) -> None:
    compiler.check_names(_formats(keys) or compiler.writable(), keys.get("quantize", "q4"))
    if keys.get("tune") and "calibrate" not in keys:
        raise UsageError("`tune` needs a text", "add `calibrate`")


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    formats = keys.get("to")
    if not isinstance(formats, list) or any(one.startswith("${") for one in formats):
        one = len(formats) == 1 if isinstance(formats, list) else True
        return {"artifacts": {"*": "artifact"}, "scheme": "text", **({"artifact": "artifact"} if one else {})}
    known = {"artifacts": dict.fromkeys(formats, "artifact"), "scheme": "text"}
    return known | ({"artifact": "artifact"} if len(formats) == 1 else {})


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    model = desk.outline(keys["model"])
    planned = compiler.plan(
        model,
        _formats(keys),
        _scheme(keys, model),
        requantize=keys.get("requantize", False),
        provider=keys.get("provider", "cpu"),
    )
    sizes = [f"{form.replace('_', '-')} {units.size(layout.nbytes)}" for form, layout in planned.layouts.items()]
    return Foreseen(f"{planned.scheme}: {', '.join(sizes)}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    model, formats, provider = desk.model(keys["model"]), _formats(keys), keys.get("provider", "cpu")
    if "adapter" in keys:
        model = merge(model, adapter(desk.path(keys["adapter"]), model))
    scheme, registry = _scheme(keys, model), desk.registry
    with contextlib.ExitStack() as stack:
        scratch: Path = stack.enter_context(registry.scratch())
        calibration = None
        if "calibrate" in keys:
            content, tokens = desk.calibration(keys["calibrate"], model), keys.get("calibrate_tokens", TOKENS)
            calibration = Calibration(model, content, scratch / "moments", tokens, tune=keys.get("tune", 0))
        step = compiler.step_of(model, scheme, provider, calibration)
        known = {form: digest for form in formats if (digest := registry.made(step.key, form)) is not None}
        todo = [form for form in formats if form not in known]
        made = compiler.convert(
            model,
            todo,
            scheme,
            scratch / "made",
            requantize=keys.get("requantize", False),
            provider=provider,
            calibration=calibration,
            watch=desk.watch,
        ) if todo else []  # fmt: skip
        # Those that hold are filed before another's failure ends the step: the next try recalls them.
        digests = known | {one.format: registry.add(one.folder, take=True) for one in made if one.failure is None}
        for one in made:
            if one.failure is not None:
                raise one.failure
    sizes = [f"{form.replace('_', '-')} {units.size(registry.manifest(digests[form]).nbytes)}" for form in formats]
    found: dict[str, Any] = {"artifacts": {form.replace("_", "-"): digests[form] for form in formats}, "scheme": scheme}
    only = {"artifact": digests[formats[0]]} if len(formats) == 1 else {}
    return Made(found | only, f"{scheme}: {', '.join(sizes)}")


def _formats(keys: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.replace("-", "_") for name in keys.get("to", ())))


def _scheme(keys: dict[str, Any], model: Model) -> str:
    return str(keys.get("quantize") or (compiler.KEEP if packed(model) else "q4"))
