"""One pass, several formats: the same numbers in every container, and nothing half done whatever happens."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from slmops import compile as compiler
from slmops import prove, stream
from slmops.core import plugins, receipt, scheme
from slmops.core.adapter import Adapter
from slmops.core.errors import CorruptInput, NoSpace, OutputExists, Unsupported, UsageError, VerificationFailed
from slmops.passes.calibrate import Calibration
from slmops.passes.merge import beside
from slmops.source import load

FORMATS = compiler.writable()
Toy = Callable[..., Path]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith(".partial"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme_name", ["q4", "q8", "q4a"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_format_holds_the_same_codes(toy: Toy, tmp_path: Path, family: str, scheme_name: str) -> None:
    """Quantized once: what each format's own reader finds are the very codes, scales and zero points of the scheme."""
    model = load(toy(family))
    made = compiler.convert(model, FORMATS, scheme_name, tmp_path / "out", verify=False)
    assert [result.format for result in made] == FORMATS
    chosen = scheme.load(scheme_name)
    for result in made:
        back = plugins.load("formats", result.format).read(result.folder)
        prove.check_tensors(back, result.receipt)
        assert back.spec == model.spec
        for role, tensor in back.tensors.items():
            source = model.tensors[role].rows(0, model.tensors[role].shape[0]).astype(np.float32)
            quantized = len(source.shape) == 2
            expected = chosen.dequantize(chosen.quantize(source)) if quantized else source
            assert (tensor.rows(0, tensor.shape[0]).astype(np.float32) == expected).all(), (result.format, role)
    assert not left_over(tmp_path)


def test_groups_that_do_not_divide_stay_dense(toy: Toy, tmp_path: Path) -> None:
    """Hidden 80 is no multiple of 32: those matrices keep their numbers, the others are quantized."""
    folder = toy("qwen3", hidden_size=80, intermediate_size=96)
    model = load(folder)
    made = compiler.convert(model, ["gguf", "mlx"], "q4", tmp_path / "out", verify=False)
    for result in made:
        stored = {role: entry["stored"] for role, entry in result.receipt["tensors"].items()}
        assert stored["layers.0.mlp.up"] == "bf16" and stored["layers.0.mlp.down"] == "q4"
        assert any("keep their dtype" in note for note in result.receipt["notes"])
        back = plugins.load("formats", result.format).read(result.folder)
        prove.check_tensors(back, result.receipt)


def test_plan_knows_the_bytes(toy: Toy, tmp_path: Path) -> None:
    planned = compiler.plan(load(toy("qwen3")), FORMATS, "q4")
    made = compiler.convert(load(toy("qwen3")), FORMATS, "q4", tmp_path / "out", verify=False)
    for result in made:
        layout = planned.layouts[result.format]
        for name, size in layout.sizes.items():
            assert (result.folder / name).stat().st_size == size == result.receipt["files"][name]


def test_the_same_step_is_not_done_twice(toy: Toy, tmp_path: Path) -> None:
    model = load(toy("qwen3"))
    first = compiler.convert(model, ["gguf"], "q4", tmp_path / "out", verify=False)[0]
    before = (tmp_path / "out" / receipt.NAME).stat().st_mtime_ns
    second = compiler.convert(model, ["gguf"], "q4", tmp_path / "out", verify=False)[0]
    assert first.fresh and not second.fresh
    assert (tmp_path / "out" / receipt.NAME).stat().st_mtime_ns == before
    with pytest.raises(OutputExists, match="something else"):
        compiler.convert(model, ["gguf"], "q8", tmp_path / "out", verify=False)
    replaced = compiler.convert(model, ["gguf"], "q8", tmp_path / "out", verify=False, replace=True)[0]
    assert replaced.fresh and receipt.load(tmp_path / "out")["scheme"] == "q8"


def test_nan_is_named_and_nothing_is_left(toy: Toy, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in toy("qwen3").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    weights = load_file(source / "model.safetensors")
    for name, role in (("model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up"), ("model.norm.weight", "norm")):
        poisoned = {key: value.copy() for key, value in weights.items()}
        poisoned[name].reshape(-1)[5] = np.nan
        save_file(poisoned, source / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CorruptInput, match=f"{role}.*NaN"):
            compiler.convert(load(source), ["gguf", "mlx"], "q4", tmp_path / "out", verify=False)
        assert not (tmp_path / "out" / "gguf").exists() and not left_over(tmp_path)


def test_no_room_is_said_before_a_byte_is_written(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(NoSpace, match="are needed"):
        compiler.convert(load(toy("qwen3")), ["gguf"], "q4", tmp_path / "out", verify=False)
    assert not list(tmp_path.iterdir())


def test_what_makes_no_sense_is_said_while_planning(toy: Toy, tmp_path: Path) -> None:
    model = load(toy("qwen3"))
    for formats, name in ((["pickle"], "q4"), (["gguf"], "q17"), ([], "q4")):
        with pytest.raises(UsageError):
            compiler.convert(model, formats, name, tmp_path / "out")
    with pytest.raises(Unsupported):
        compiler.plan(model, ["onnx"], "bf16")
    with pytest.raises(UsageError):
        compiler.plan(model, ["onnx"], "q4", provider="abacus")


TEXT = "The heating in the bedroom is on. Turn the light in the kitchen off, please! " * 60


@pytest.mark.slow
def test_steps_of_activations_come_from_a_text_and_go_where_there_is_a_place(toy: Toy, tmp_path: Path) -> None:
    model = load(toy("qwen3"))
    told = Calibration(model, TEXT, tmp_path / "moments")
    with pytest.raises(UsageError, match="needs a text"):
        compiler.convert(model, ["openvino"], "w8a8_static", tmp_path / "none", verify=False)
    with pytest.raises(Unsupported, match=r"GGUF has no place for the steps"):
        compiler.convert(model, ["openvino", "gguf"], "w8a8_static", tmp_path / "none", calibration=told, verify=False)
    with pytest.raises(UsageError, match="cannot be tuned"):
        tuned = Calibration(model, TEXT, tmp_path / "moments", tune=1)
        compiler.convert(model, ["openvino"], "w8a8_static", tmp_path / "none", calibration=tuned, verify=False)
    assert not (tmp_path / "none").exists()
    (made,) = compiler.convert(model, ["openvino"], "w8a8_static", tmp_path / "a", calibration=told, verify=False)
    (again,) = compiler.convert(model, ["openvino"], "w8a8_static", tmp_path / "a", calibration=told, verify=False)
    assert made.fresh and made.receipt["scheme"] == "w8a8_static" and len(made.receipt["steps"]) == 22
    back = load(tmp_path / "a")
    assert back.steps == made.receipt["steps"]
    prove.check_tensors(back, made.receipt)
    # Kept where everything is; refused where there is no place, and without them: adapters do not go beside such codes.
    (kept,) = compiler.convert(back, ["openvino"], compiler.KEEP, tmp_path / "b", verify=False)
    assert kept.receipt["scheme"] == "w8a8_static" and load(tmp_path / "b").steps == back.steps
    with pytest.raises(Unsupported, match="no place for the steps") as refused:
        compiler.plan(back, ["mlx"])
    assert "--quantize w8a8" in refused.value.cure
    for again_as, anew in (("w8a8", False), ("q4", True)):
        with pytest.raises(Unsupported, match="channels evened out"):
            compiler.plan(back, ["openvino"], again_as, requantize=anew)
    assert not again.fresh


@pytest.mark.slow
def test_other_steps_are_found_and_an_adapter_does_not_go_beside(toy: Toy, tmp_path: Path) -> None:
    model = load(toy("qwen3"))
    told = Calibration(model, TEXT, tmp_path / "moments")
    (made,) = compiler.convert(model, ["openvino"], "w8a8_static", tmp_path / "a", calibration=told, verify=False)
    back = load(tmp_path / "a")
    other = dataclasses.replace(back, steps={**back.steps, "embedding": 2 * back.steps["embedding"]})
    with pytest.raises(VerificationFailed, match="steps of activations differ"):
        prove.check_tensors(other, made.receipt)
    adapter = Adapter("a", {}, "sha256:0")
    with pytest.raises(Unsupported, match="no adapter goes beside"):
        beside(back, adapter)
    with pytest.raises(Unsupported, match="no place for an adapter"):
        compiler.convert(beside(model, adapter), ["openvino"], "w8a8_static", tmp_path / "b", calibration=told)


@pytest.mark.parametrize("form", FORMATS)
def test_a_flipped_byte_is_found(toy: Toy, tmp_path: Path, form: str) -> None:
    made = compiler.convert(load(toy("qwen3")), [form], "q4", tmp_path / "out", verify=False)[0]
    largest = max(made.folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) * 3 // 4] ^= 0x10
    largest.write_bytes(content)
    with pytest.raises((VerificationFailed, CorruptInput)):
        prove.verify(made.folder)


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_artifact_is_found(toy: Toy, tmp_path: Path, form: str) -> None:
    made = compiler.convert(load(toy("qwen3")), [form], "q4", tmp_path / "out", verify=False)[0]
    largest = max(made.folder.iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("rb+") as handle:
        handle.truncate(largest.stat().st_size // 2)
    with pytest.raises((VerificationFailed, CorruptInput)):
        prove.verify(made.folder)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_at_any_moment_nothing_stands_under_the_final_name(toy: Toy, tmp_path: Path, number: int) -> None:
    """Signals at several moments of a run; afterwards the same command goes through and sweeps up."""
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "slmops",
        "convert",
        str(toy("qwen3")),
        "--to",
        "gguf,mlx",
        "--no-verify",
        "-o",
        str(out),
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    whole = time.perf_counter() - began
    for share in (0.3, 0.6, 0.8, 0.9, 0.95):
        shutil.rmtree(out, ignore_errors=True)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * share)
        child.send_signal(number)
        code = child.wait(timeout=60)
        for form in ("gguf", "mlx"):
            if (out / form).exists():
                plugins.load("formats", form).read(out / form)
        if number != signal.SIGKILL and code != 0:
            assert code in (130, 143, -signal.SIGINT, -signal.SIGTERM) and not left_over(tmp_path)
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert not left_over(tmp_path)


STRANGERS = {"bitnet": ("gguf", "mlx")}
"""Formats whose engine does not know a family."""


@pytest.mark.slow
@pytest.mark.parametrize("family", plugins.names("architectures"))
def test_every_family_is_proven_in_every_engine(toy: Toy, tmp_path: Path, family: str) -> None:
    """The whole job on a toy of every family: logits, token ids and chat texts of every engine that is installed."""
    model = load(toy(family))
    for form in STRANGERS.get(family, ()):
        with pytest.raises(Unsupported, match=r"llama\.cpp|mlx-lm"):
            compiler.plan(model, [form], "q4")
    formats = [form for form in FORMATS if form not in STRANGERS.get(family, ())]
    made = compiler.convert(model, formats, "q4", tmp_path / "out")
    assert len(made) == len(formats)
    for result in made:
        assert result.failure is None, result.failure
        verification = json.loads((result.folder / receipt.NAME).read_text())["verification"]
        assert verification["engines"], verification["skipped"]
        for engine in verification["engines"].values():
            if "proof" in engine:
                rough = family == "gemma3_text" and engine is verification["engines"].get("llamacpp")
                assert engine["proof"]["relative_error"] < (5e-3 if rough else 1e-4) and engine["proof"]["positions"] >= 64


@pytest.mark.slow
def test_longrope_is_proven_in_every_engine_that_has_it(toy: Toy, tmp_path: Path) -> None:
    """Within the original context: past it llama.cpp goes by its context's size, the others by the length of each call."""
    factors = {"short_factor": [1.0 + 0.05 * i for i in range(8)], "long_factor": [1.0 + 0.9 * i for i in range(8)]}
    scaling = {"type": "longrope", **factors}
    model = load(toy("phi3", rope_scaling=scaling, original_max_position_embeddings=1024, max_position_embeddings=4096))
    with pytest.raises(Unsupported, match="longrope"):
        compiler.plan(model, ["mlx"], "q4")
    for result in compiler.convert(model, ["gguf", "onnx", "openvino", "compressed_tensors"], "q4", tmp_path / "out"):
        assert result.failure is None, result.failure
        verification = json.loads((result.folder / receipt.NAME).read_text())["verification"]
        assert all(engine["proof"]["relative_error"] < 1e-4 for engine in verification["engines"].values())
