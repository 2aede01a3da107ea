"""Calibration against moments computed by hand, and what solving by them does to a real model."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import slmops
from slmops import cli, probes
from slmops.core import roles
from slmops.core.errors import CorruptInput, NoSpace, SourceNotFound, UsageError
from slmops.core.scheme import Packed
from slmops.core.tensor import to_numpy
from slmops.ops.numpy import Reference
from slmops.passes import _moments, calibrate, solve
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import chooser, quantize
from slmops.source import load

Toy = Callable[..., Path]
TEXT = "turn the kitchen light to thirty percent and set a timer for ten minutes; play some music then. " * 30
SAMPLE = Path(slmops.__file__).resolve().parents[2] / "samples" / "home"


def test_the_first_layers_moments_by_hand(toy: Toy, tmp_path: Path) -> None:
    """Its attention sees the normed embedding: E[x x^T] over the very ids, in f64."""
    model = load(toy("qwen3"))
    found = Calibration(model, TEXT, tmp_path / "moments", tokens=512, weighted=False)
    ids = model.tokenizer.encoder.encode(TEXT, add_special_tokens=False).ids[:512]
    assert found.tokens == 512
    x = to_numpy(model.tensors["embedding"])[ids].astype(np.float64)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + model.spec.norm_eps)
    x = x * to_numpy(model.tensors["layers.0.attention.norm"])
    expected = x.T @ x / len(x)
    (moments,) = np.load(found.moments["layers.0.attention.query"].path)
    assert np.allclose(moments, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_disk_that_is_full_is_said(tmp_path: Path) -> None:
    """Files of moments take their blocks at once; a limit on a file's size stands for the disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(NoSpace):
            _moments.zeros(tmp_path / "a.npy", (1, 1024, 1024))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_roles_that_share_an_input_share_a_file(toy: Toy, tmp_path: Path) -> None:
    model = load(toy("llama"))
    found = Calibration(model, TEXT, tmp_path, tokens=256, weighted=False)
    layer, files = "layers.1.", {role: held.path for role, held in found.moments.items()}
    assert files[layer + "attention.query"] == files[layer + "attention.value"]
    assert files[layer + "mlp.gate"] == files[layer + "mlp.up"] != files[layer + "mlp.down"]
    multiplied = {role for role in model.tensors if roles.facts(role).quantize}
    assert set(files) == multiplied  # the tied embedding as the head
    again, other = (Calibration(model, text, tmp_path / "again", tokens=256) for text in (TEXT, TEXT[7:]))
    assert again.digest == found.digest != other.digest and not (tmp_path / "again").exists()  # nothing was computed yet


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scheme", ["q4_k", "q4", "q4a", "int4-g64-zero-f16", "int4-g64-bias-bf16", "iq4_xs"])
def test_a_solved_model_is_nearer_and_its_blocks_are_one(toy: Toy, tmp_path: Path, scheme: str, weighted: bool) -> None:
    """Than rounding, on the text that it was solved by (random weights carry nothing over; the sample's do, below)."""
    if weighted:
        pytest.importorskip("torch")
    model = load(toy("qwen3", hidden_size=256))
    moments = Calibration(model, TEXT, tmp_path / "moments", tokens=1024, weighted=weighted).moments
    rounded = quantize(model, chooser(scheme))
    (tmp_path / "cache").mkdir()
    solved = solve.solve(rounded, model, moments, tmp_path / "cache")
    ids = model.tokenizer.encoder.encode(TEXT).ids[:96]
    truth = Reference(model).logits(ids)
    errors = [float(np.square(Reference(one).logits(ids) - truth).mean()) for one in (rounded, solved)]
    assert errors[1] < 0.8 * errors[0]
    tensor = solved.tensors["layers.0.mlp.up"]
    assert isinstance(tensor, Packed)
    whole, part = tensor.block(0, tensor.shape[0]), tensor.block(32, 96)
    assert np.array_equal(whole.codes[32:96], part.codes) and np.array_equal(whole.scales[32:96], part.scales)


def test_what_has_no_grid_to_stay_on_is_left(toy: Toy, tmp_path: Path) -> None:
    model = load(toy("qwen3"))
    moments = Calibration(model, TEXT, tmp_path / "moments", tokens=256, weighted=False).moments
    for scheme in ("f16", "bf16"):
        plain = quantize(model, chooser(scheme))
        assert solve.solve(plain, model, moments, tmp_path).tensors == plain.tensors


def test_texts(tmp_path: Path, toy: Toy) -> None:
    model = load(toy("llama"))

    def read(path: Path) -> str:
        return calibrate.read(path, lambda messages: probes.conversation(model, messages))

    (tmp_path / "a.txt").write_text("plain")
    assert read(tmp_path / "a.txt") == "plain"
    rows = [{"text": "one"}, {"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "three"}]}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "b.jsonl").startswith("one\n\n<|im_start|>user\ntwo<|im_end|>")  # as the template has it
    model = dataclasses.replace(model, chat_template=None)
    assert read(tmp_path / "b.jsonl") == "one\n\ntwo\nthree"
    for content in ("[1]", "{", '{"other": 1}', '{"messages": 3}'):
        (tmp_path / "c.jsonl").write_text(content)
        with pytest.raises(CorruptInput):
            read(tmp_path / "c.jsonl")
    with pytest.raises(SourceNotFound):
        read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="256 are the least"):
        Calibration(model, "short", tmp_path)


@pytest.mark.slow
def test_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sample, solved by its calibration file: half the divergence, the same bytes, proven in the engine."""
    kl, sizes = {}, {}
    for name, more in (("plain", []), ("solved", ["--calibrate", str(SAMPLE / "eval" / "calibration.jsonl")])):
        out = str(tmp_path / name)
        assert cli.main(["convert", str(SAMPLE), "--to", "onnx", "--quantize", "q4", "-o", out, *more, "--json"]) == 0
        made = json.loads(capsys.readouterr().out)[0]
        assert made["verification"]["engines"]["onnxruntime"]["proof"]["relative_error"] < 1e-4
        sizes[name] = (tmp_path / name / "model.onnx.data").stat().st_size
        text = ["--against", str(SAMPLE), "--text", str(SAMPLE / "eval" / "text.txt")]
        assert cli.main(["measure", out, *text, "--runs", "1", "--json"]) == 0
        kl[name] = json.loads(capsys.readouterr().out)["measured"][0]["quality"]["kl"]
    assert sizes["plain"] == sizes["solved"]
    assert kl["solved"]["high"] < 0.6 * kl["plain"]["low"]
