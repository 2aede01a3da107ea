"""convert: quantize once, write several formats in one pass over the weights, prove each, publish what holds."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import slmops
from slmops import calibrated, probes, prove, stream
from slmops.core import plugins, receipt, roles, scheme, store
from slmops.core.errors import CorruptInput, OutputExists, Unsupported, UsageError, VerificationFailed
from slmops.core.layout import Layout
from slmops.core.model import Model
from slmops.core.scheme import Chooser, stored_as
from slmops.core.step import Step
from slmops.core.watch import Watch as Watch
from slmops.ops.numpy import Reference
from slmops.passes import activations, mix, smooth, solve, tune
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import chooser, left_dense, quantize
from slmops.passes.quantize import packed as is_packed
from slmops.quantize import _solve

SMALL = 64 << 20
"""Parameters below which two formats are proven at a time."""

KEEP = "keep"
"""In place of a scheme's name: everything as it was read, codes as codes."""

WRITERS_CODE = "2"
"""Raised whenever the bytes that a writer or a scheme makes change: remembered steps of other codes are made anew."""


@dataclass(frozen=True)
class Plan:
    """What a conversion will write, known before a weight is read."""

    model: Model
    """With every matrix in the scheme that it will be stored in."""
    scheme: str
    layouts: Mapping[str, Layout]
    notes: tuple[str, ...]
    sensitivities: Callable[[], Mapping[str, float]] = field(default=dict)
    """What each matrix's codes cost in divergence, once they are made; empty where no gradients tell."""

    @property
    def nbytes(self) -> int:
        return sum(layout.nbytes for layout in self.layouts.values())

    @property
    def read_bytes(self) -> int:
        """What `stream.write` reports in all as progress."""
        return sum(_block_bytes(tensor) for tensor in self.model.tensors.values())


@dataclass(frozen=True)
class Converted:
    """What became of one format."""

    format: str
    folder: Path
    receipt: Mapping[str, Any]
    fresh: bool
    """False: it was there already, made by the same step."""
    failure: VerificationFailed | None = None


def plan(
    model: Model,
    formats: Sequence[str],
    scheme_name: str = KEEP,
    *,
    requantize: bool = False,
    provider: str = "cpu",
    choose: Chooser | None = None,
) -> Plan:
    """Lay every format out. Raises Unsupported for a pair that cannot be, before anything is read or written.

    choose: the scheme of each matrix, where its name alone does not say it (a mix). The model's steps of activations go to
    formats that hold them, where everything is kept or the scheme asks for steps; without them its codes go nowhere.
    """
    check_names(formats, scheme_name)
    keep = scheme_name == KEEP
    if choose is None and not keep:
        choose = chooser(scheme_name)
    packed = model if choose is None else quantize(model, choose, requantize)
    rounds = bool(model.steps) if keep else activations.told(scheme_name)
    if model.steps and not rounds:
        # Without steps nothing would say so, and an adapter beside it would be served with wrong answers.
        raise Unsupported(
            f"{model.name} has its channels evened out for the steps of its activations",
            "convert the checkpoint that it was made from",
        )
    kept = {role: step for role, step in packed.steps.items() if rounds and isinstance(packed.tensors[role], scheme.Packed)}
    packed = dataclasses.replace(packed, steps=kept)
    used = sorted({stored_as(tensor) for role, tensor in packed.tensors.items() if roles.facts(role).quantize})
    layouts: dict[str, Layout] = {}
    for name in formats:
        module = plugins.load("formats", name)
        if rounds:
            activations.refuse_without_place(name)
        layouts[name] = module.plan(packed, provider=provider) if name == "onnx" else module.plan(packed)
    notes = []
    if requantize and is_packed(model):
        notes.append(f"quantized a second time: from {', '.join(sorted(_schemes(model)))} to {scheme_name}")
    if rounds and packed.steps:
        notes.append(f"the inputs of {len(kept)} matrices are rounded to 8 bits by steps that a text told")
    if choose is not None and (dense := left_dense(model, choose)):
        left = f"{len(dense)} matrices keep their dtype" if len(dense) > 1 else "one matrix keeps its dtype"
        notes.append(f"{left}: groups of {scheme_name} do not divide the rows ({dense[0]})")
    # A model of several schemes goes by the one that most of its matrices have.
    most = max(used, key=[stored_as(tensor) for tensor in packed.tensors.values()].count)
    named = scheme_name if not keep else f"{most}_static" if rounds else most
    return Plan(packed, named, layouts, tuple(notes))


def _schemes(model: Model) -> set[str]:
    return {tensor.scheme.name for tensor in model.tensors.values() if isinstance(tensor, scheme.Packed)}


def check_names(formats: Sequence[str], scheme_name: str) -> None:
    """Raises UsageError for a format or a scheme that there is not."""
    if not formats:
        raise UsageError("no format is asked for", f"--to {','.join(writable())}")
    for name in formats:
        if name not in writable():
            raise UsageError(f"{name!r} is not a format that can be written", f"one of: {', '.join(writable())}")
    if scheme_name != KEEP and mix.bits(scheme_name) is None:
        chooser(scheme_name)  # refuses what is not there, and what cannot be made


def writable(*, codes: bool = False) -> list[str]:
    """Names of the formats that can be written: those whose file has a `plan`; of those that hold `codes`, if asked for."""
    wanted = ("plan", "forms") if codes else ("plan",)
    return [name for name in plugins.names("formats") if all(hasattr(plugins.load("formats", name), one) for one in wanted)]


def convert(
    model: Model,
    formats: Sequence[str],
    scheme_name: str,
    out: Path,
    *,
    verify: bool = True,
    requantize: bool = False,
    replace: bool = False,
    device: str = "auto",
    provider: str = "cpu",
    calibration: Calibration | None = None,
    watch: Watch | None = None,
) -> list[Converted]:
    """Write `model` in every format. One format: `out` is its folder; several: out/FORMAT.

    Each folder appears whole or not at all. A format that fails its proof is not published; its Converted carries the
    failure, the others stand. A folder that the same step made before is left as it is.
    calibration: a text by which codes are solved for, not rounded to; the layouts, and so the bytes' places, stay the same.
    """
    check_names(formats, scheme_name)
    watch = watch or Watch()
    targets = {name: out if len(formats) == 1 else out / name for name in dict.fromkeys(formats)}
    step = step_of(model, scheme_name, provider, calibration)
    made: dict[str, Converted] = {}
    if not replace:
        for name, final in targets.items():
            if (known := _same_step(final, step, name, verify)) is not None:
                made[name] = Converted(name, final, known, fresh=False)
            else:
                store.refuse_existing(final)
    todo = [name for name in targets if name not in made]
    if todo:
        choose = calibrated.mixed(model, todo, scheme_name, calibration, watch)
        rounds = activations.told(scheme_name)
        if rounds:
            text = calibrated.text_for_steps(model, scheme_name, calibration)
            plan(model, todo, scheme_name, requantize=requantize)  # what cannot be is refused before the text is read
            model = calibrated.stepped(model, text, watch)
        planned = plan(model, todo, scheme_name, requantize=requantize, provider=provider, choose=choose)
        with store.scratch("solve") as scratch:
            if calibration is not None and not rounds:
                done = calibrated.solved(planned.model, model, scheme_name, calibration, scratch, watch)
                notes = (*planned.notes, *done.notes)
                planned = dataclasses.replace(planned, model=done.model, notes=notes, sensitivities=done.sensitivities)
            for result in _make(planned, {name: targets[name] for name in todo}, step, verify, replace, device, watch):
                made[result.format] = result
    return [made[name] for name in targets]


def step_of(model: Model, scheme_name: str, provider: str, calibration: Calibration | None = None) -> Step:
    """The conversion as a step: what tells whether a folder is already what would be made."""
    inputs, parameters = {"source": fingerprint(model)}, {"scheme": scheme_name, "provider": provider}
    if calibration is not None:
        inputs["calibration"] = calibration.digest
        how = "weighted" if calibration.weighted else "plain"
        parameters["solver"] = f"{solve.CODE}, {calibration.tokens} tokens, {how}, damping {_solve.DAMPING}"
        if activations.told(scheme_name):
            parameters["solver"] = f"steps {activations.CODE}, smoothing {smooth.CODE}, {calibration.tokens} tokens"
        if calibration.tune:
            parameters["tuning"] = f"{tune.CODE}, {calibration.tune} passes"
    return Step("convert", inputs, parameters, WRITERS_CODE)


def fingerprint(model: Model) -> str:
    """Identity of a source without reading its weights: files with sizes and times, config, tokenizer, template."""
    files = {}
    root = Path(str(model.source.get("path", "")))
    for name, size in sorted(dict(model.source.get("files", {})).items()):
        path = root / name
        files[name] = [size, path.stat().st_mtime_ns if path.exists() else 0]
    return store.digest(
        {
            "files": files,
            "config": dict(model.config),
            "generation": dict(model.generation),
            "template": model.chat_template,
            "tokenizer": hashlib.sha256(model.tokenizer.json).hexdigest(),
            "adapter": [model.source.get("adapter"), model.adapter is not None],
            **({"pruned": model.source["pruned"]} if "pruned" in model.source else {}),
        }
    )


def _same_step(final: Path, step: Step, form: str, verify: bool) -> Mapping[str, Any] | None:
    if not (final / receipt.NAME).is_file():
        return None
    try:
        facts = receipt.load(final)
    except CorruptInput as fault:
        raise OutputExists(str(fault), "--force replaces it") from fault
    if facts.get("step", {}).get("key") != step.key or facts["format"] != form:
        raise OutputExists(f"{final} holds something else ({facts['format']}, {facts.get('scheme')})", "--force replaces it")
    return facts if "verification" in facts or not verify else None


def _make(
    planned: Plan,
    targets: Mapping[str, Path],
    step: Step,
    verify: bool,
    replace: bool,
    device: str,
    watch: Watch,
) -> Iterator[Converted]:
    began = time.perf_counter()
    with contextlib.ExitStack() as all_or_nothing:
        stacks = {name: all_or_nothing.enter_context(contextlib.ExitStack()) for name in targets}
        folders = {name: stacks[name].enter_context(store.staged(final, replace)) for name, final in targets.items()}
        watch.begin(planned.read_bytes)
        try:
            digests = stream.write(planned.model, planned.layouts, folders, watch.advance)
        finally:
            watch.end()
        seconds = time.perf_counter() - began
        truth = probes.truth(planned.model)
        nats = {role: float(f"{value:.4g}") for role, value in planned.sensitivities().items()}
        facts = {name: _receipt(planned, name, folders[name], step, digests, truth, seconds) for name in targets}
        for name in targets if nats else ():
            facts[name]["sensitivities"] = nats
        for name in targets:
            receipt.save(folders[name], facts[name])
        failures: dict[str, VerificationFailed] = {}
        if verify:
            with store.scratch("reference") as scratch:
                watch.say("computing the reference")
                reference = scratch / "reference.npy"
                np.save(reference, Reference(planned.model).logits(truth["ids"]))

                def check(name: str) -> VerificationFailed | None:
                    try:
                        found = prove.verify(folders[name], device=device, reference=reference, say=watch.say)
                    except VerificationFailed as failure:
                        return failure
                    facts[name]["verification"] = found
                    receipt.save(folders[name], facts[name])
                    return None

                # Small models spend the proof on starting engines: two at a time. Large ones want all the memory.
                together = 2 if planned.model.parameters < SMALL else 1
                with concurrent.futures.ThreadPoolExecutor(max_workers=together) as pool:
                    outcomes = dict(zip(targets, pool.map(check, targets), strict=True))
                failures = {name: failure for name, failure in outcomes.items() if failure is not None}
        for name, final in targets.items():
            if name in failures:
                stacks[name].__exit__(VerificationFailed, failures[name], None)
            else:
                stacks[name].close()
            yield Converted(name, final, facts[name], fresh=True, failure=failures.get(name))


def _receipt(
    planned: Plan,
    form: str,
    folder: Path,
    step: Step,
    digests: stream.Digests,
    truth: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    model = planned.model
    return {
        "slmops": slmops.__version__,
        "format": form,
        "name": model.name,
        "scheme": planned.scheme,
        "source": dict(model.source),
        "licence": model.licence,
        "step": {"key": step.key, **step.facts()},
        "config": dict(model.config),
        "generation": dict(model.generation),
        "tokenizer": {
            "bos": model.tokenizer.bos,
            "eos": list(model.tokenizer.eos),
            "pad": model.tokenizer.pad,
            "adds_bos": model.tokenizer.adds_bos,
            "special": probes.special_names(model.tokenizer),
        },
        "chat_template": model.chat_template,
        "tensors": digests,
        **({"steps": dict(model.steps)} if model.steps else {}),
        "files": {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        },
        "probes": dict(truth),
        "notes": [*planned.notes, *planned.layouts[form].notes],
        "machine": receipt.machine(),
        "versions": versions(),
        "seconds": round(seconds, 3),
    }


def versions() -> dict[str, str]:
    """Versions of what computes the bytes."""
    found = {"slmops": slmops.__version__}
    for name in ("numpy", "numba", "ml_dtypes", "onnx", "openvino", "openvino-tokenizers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _block_bytes(tensor: Any) -> int:
    if isinstance(tensor, scheme.Packed):
        rows, columns = tensor.shape
        return rows * columns * tensor.scheme.bits // 8 + rows * columns // tensor.scheme.group * 4
    return int(np.prod(tensor.shape)) * int(tensor.dtype.itemsize)
