"""Prove an artifact: read it back code for code, open it in its engines, compare logits, token ids and chat texts."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from slmops import stream
from slmops.core import chat, plugins, receipt, store
from slmops.core.errors import CorruptInput, EngineCrashed, EngineFailed, VerificationFailed
from slmops.core.model import Model
from slmops.core.scheme import stored_as
from slmops.engines import Options, _host, _installed
from slmops.ops.numpy import Reference

PROOF_BOUND = 1e-4
"""Relative error of logits in proof mode (f32 everywhere): the graph computes what the reference computes."""
DEFAULT_BOUND = 0.15
"""Relative error as people will run it: engines quantize activations to 8 bits and keep the KV cache in 16 or 8."""
REPORT = "this is a fault of slmops or of the engine's version: please report it with the model's config.json"
TOO_COARSE = "its activations do not bear steps of 8 bits that are the same for all calls: use --quantize w8a8"
SLOW_EMULATION = 64 << 20
"""Above so many parameters MLX on a system that is not macOS would take minutes a token."""

Say = Callable[[str], None]


def verify(
    folder: Path,
    *,
    device: str = "auto",
    engines: Sequence[str] | None = None,
    threads: int | None = None,
    reference: Path | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Check an artifact and return what was found; raises VerificationFailed on the first thing that is not as it must be.

    reference: a .npy file of the reference's logits for the receipt's probe ids, when the caller has it already.
    engines: names; by default every installed engine that opens the format.
    """
    facts = receipt.load(folder)
    form: str = facts["format"]
    module = plugins.load("formats", form)
    say(f"{form}: reading back")
    model: Model = module.read(folder)
    check_files(folder, facts)
    check_tensors(model, facts)
    check_template(facts)
    result: dict[str, Any] = {"read_back": {"tensors": len(model.tensors), "identical": True}, "engines": {}, "skipped": {}}
    chosen = list(engines) if engines is not None else _installed.engines_for(form)
    with store.scratch("verify") as scratch:
        for name in chosen:
            found = _installed.require(name) if engines is not None else _installed.installed(name)
            if found is None:
                result["skipped"][name] = f"not installed: {_installed.install_command(name)}"
                continue
            if (reason := impractical(name, model)) is not None:
                result["skipped"][name] = reason
                continue
            if reference is None:
                say(f"{form}: computing the reference")
                reference = scratch / "reference.npy"
                np.save(reference, Reference(model).logits(facts["probes"]["ids"]))
            result["engines"][name] = _engine(name, folder, module, model, facts, reference, scratch, device, threads, say)
    return result


def emulated(engine: str) -> bool:
    """Whether the engine only stands in here for the machine that it is made for: right numbers, no speed."""
    return engine == "mlx" and platform.system() != "Darwin"


def impractical(engine: str, model: Model) -> str | None:
    """Why an engine that is installed is left out for this model, or None."""
    if emulated(engine) and model.parameters > SLOW_EMULATION:
        return "mlx computes on the CPU here, at well under a token a second for a model of this size: verify on a Mac"
    return None


def too_large(model: Model, scratch: Path) -> str | None:
    """Why the proof in f32 is left out: four bytes a weight fit neither here nor there. None where they do."""
    needed = model.parameters * 4 * 5 // 4
    if needed > (memory := psutil.virtual_memory().available):
        return f"left out: f32 weights need {needed / 1e9:.0f} GB of memory, {memory / 1e9:.0f} GB are free"
    if needed > (free := shutil.disk_usage(scratch).free):
        return f"left out: an f32 twin needs {needed / 1e9:.0f} GB in {scratch.parent}, {free / 1e9:.0f} GB are free"
    return None


def check_files(folder: Path, facts: Mapping[str, Any]) -> None:
    """Every file that the receipt names is there with its size."""
    for name, size in facts.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise CorruptInput(f"{name} is missing from {folder}", "convert the source again")
        if path.stat().st_size != size:
            raise CorruptInput(
                f"{name} has {path.stat().st_size} bytes, the receipt says {size}", "convert the source again"
            )


def check_tensors(model: Model, facts: Mapping[str, Any]) -> None:
    """Codes, scales and zero points of every block are those that were written (CRC-32 a block)."""
    expected: Mapping[str, Any] = facts["tensors"]
    if dict(model.steps) != facts.get("steps", {}):
        raise VerificationFailed("the steps of activations differ between file and receipt", "convert the source again")
    if set(expected) != set(model.tensors):
        odd = sorted(set(expected) ^ set(model.tensors))
        raise VerificationFailed(f"tensors differ between file and receipt: {', '.join(odd[:4])}", "convert again")

    def check(role: str) -> str | None:
        tensor, entry = model.tensors[role], expected[role]
        if list(tensor.shape) != entry["shape"]:
            return f"{role} has shape {list(tensor.shape)}, written was {entry['shape']}"
        grid = list(stream.blocks(tensor, model.spec.row_multiple))
        form = stream.form_of(tensor)
        if form not in entry["crc"]:
            return f"{role} is held as {form}, written was {' and '.join(entry['crc'])}"
        if len(grid) != len(entry["crc"][form]):
            return f"{role} has {len(grid)} blocks, written were {len(entry['crc'][form])}"
        for (start, stop), crc in zip(grid, entry["crc"][form], strict=True):
            if stream.digest(stream.pull(tensor, start, stop), stream.offset_of(model, role)) != crc:
                return f"{role}, rows {start} to {stop}: what is read ({stored_as(tensor)}) is not what was written"
        return None

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for fault in pool.map(check, model.tensors):
            if fault is not None:
                raise VerificationFailed(fault, "the file was changed or damaged: convert the source again")


def check_template(facts: Mapping[str, Any]) -> None:
    """The receipt's own chat template, which `slmops run` renders with, still says what the source's said."""
    special = facts["tokenizer"].get("special", {})
    for messages, expected in facts["probes"]["conversations"]:
        if chat.render(facts.get("chat_template") or "", messages, special=special) != expected:
            raise VerificationFailed("the receipt's chat template is not the source's", "convert the source again")


def _engine(
    name: str,
    folder: Path,
    module: Any,
    model: Model,
    facts: Mapping[str, Any],
    reference: Path,
    scratch: Path,
    device: str,
    threads: int | None,
    say: Say,
) -> dict[str, Any]:
    """All checks in one engine."""
    engine = plugins.load("engines", name)
    ids: list[int] = facts["probes"]["ids"]
    chunks = [len(ids) * 2 // 5, len(ids) - len(ids) * 2 // 5]
    found: dict[str, Any] = {}
    context = min(model.spec.context, 512)
    bound = getattr(engine, "ROUGH", {}).get(model.spec.activation, PROOF_BOUND)
    # Loading an engine takes seconds: its process is used again, unless it chooses its device once and for all.
    again = not getattr(engine, "ONCE", False) or device == "cpu" or emulated(name)
    try:
        with contextlib.ExitStack() as stack:
            worker: _host.Worker | None = None
            if "logits" in engine.CAN and (reason := too_large(model, scratch)) is not None:
                found["proof"] = reason
            elif "logits" in engine.CAN:
                proof_folder = folder
                if hasattr(module, "twin"):
                    proof_folder = scratch / "twin"
                    if not proof_folder.exists():
                        say(f"{facts['format']}: making the twin for the proof")
                        proof_folder.mkdir()
                        module.twin(folder, proof_folder)
                say(f"{facts['format']}: proving in {name}")
                worker = stack.enter_context(_host.Worker(name, proof_folder, Options(True, "cpu", threads, context)))
                distance = worker.compare(ids, chunks, reference)
                found["proof"] = {**distance, "bound": bound, "effective": worker.effective}
                _within(name, "proof mode", distance["relative_error"], bound)
            say(f"{facts['format']}: running in {name}")
            usual = Options(False, device, threads, context)
            if worker is not None and again:
                worker.open(folder, usual)
            else:
                stack.close()
                worker = stack.enter_context(_host.Worker(name, folder, usual))
            if "logits" in engine.CAN:
                distance = worker.compare(ids, chunks, reference)
                found["default"] = {**distance, "bound": DEFAULT_BOUND}
                _within(
                    name, "default mode", distance["relative_error"], DEFAULT_BOUND, TOO_COARSE if model.steps else REPORT
                )
            found["effective"] = worker.effective
            found["tokenizer"] = _tokenizer(name, worker, facts) if "encode" in engine.CAN else "the engine has none"
            found["chat_template"] = _template(name, worker, facts) if "render" in engine.CAN else "the engine has none"
    except (EngineFailed, EngineCrashed) as error:
        raise VerificationFailed(f"{folder.name} does not run in {name}: {error}", error.cure) from error
    return found


def _within(engine: str, mode: str, error: float, bound: float, cure: str = REPORT) -> None:
    # Written so that NaN fails.
    if not error <= bound:
        raise VerificationFailed(
            f"{engine} in {mode}: relative error of logits {error:.3g}, the bound is {bound:g}",
            cure,
        )


def _tokenizer(engine: str, worker: _host.Worker, facts: Mapping[str, Any]) -> dict[str, Any]:
    texts: list[tuple[str, list[int]]] = facts["probes"]["texts"]
    actual = worker.encode([text for text, _ in texts])
    for (text, expected), ids in zip(texts, actual, strict=True):
        if ids != expected:
            raise VerificationFailed(
                f"{engine} tokenizes {text!r} as {ids[:12]}, the source as {expected[:12]}",
                "this tokenizer is not supported in this engine: use another format",
            )
    return {"texts": len(texts), "identical": True}


def _template(engine: str, worker: _host.Worker, facts: Mapping[str, Any]) -> dict[str, Any] | str:
    conversations: list[tuple[list[dict[str, str]], str]] = facts["probes"]["conversations"]
    if not conversations:
        return "the model has none"
    rendered = worker.render([messages for messages, _ in conversations])
    if any(text is None for text in rendered):
        return "the engine has none"
    for (_, expected), text in zip(conversations, rendered, strict=True):
        if text != expected:
            raise VerificationFailed(f"{engine} renders a conversation as {text!r}, the source as {expected!r}", "use --raw")
    return {"conversations": len(conversations), "identical": True}


def summary(found: Mapping[str, Any]) -> list[str]:
    """The result in lines for a person."""
    lines = [f"read back: {found['read_back']['tensors']} tensors, codes and scales identical"]
    for name, engine in found["engines"].items():
        parts = []
        if "default" in engine:
            proof = engine["proof"]
            parts.append(
                f"proof mode {proof}" if isinstance(proof, str) else f"logits {proof['relative_error']:.1e} in proof mode"
            )
            parts.append(f"{engine['default']['relative_error']:.1e} by default")
        if isinstance(engine["tokenizer"], dict):
            parts.append(f"{engine['tokenizer']['texts']} texts tokenized alike")
        if isinstance(engine["chat_template"], dict):
            parts.append("chat template alike")
        lines.append(f"{name}: {', '.join(parts)}")
        if fallback := engine["effective"].get("fallback"):
            lines.append(f"{name}: {fallback}")
    lines += [f"{name}: not opened, {reason}" for name, reason in found["skipped"].items()]
    return lines
