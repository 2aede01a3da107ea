"""The decision table: what is predicted, what is dropped and why, what would have to give way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import hollow
from slmops import compile as compiler
from slmops import source
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.formats import huggingface
from slmops.plan import decide, memory, targets
from slmops.plan.decide import Limits
from slmops.plan.hardware import Machine

CONFIGS = Path(__file__).parent.parent / "data" / "configs"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("qwen3")
    return huggingface.read(hollow(folder, json.loads((CONFIGS / "Qwen3-0.6B.json").read_text())))


@pytest.fixture
def pi() -> Machine:
    return targets.load("raspberry-pi").machine


def found(model: Model, machine: Machine, limits: Limits, *formats: str) -> dict[tuple[str, str], decide.Candidate]:
    listed = decide.candidates(model, machine, limits, formats or None, here=False)
    return {(one.format, one.scheme): one for one in listed}


def test_speed_is_bandwidth_over_bytes(model: Model, pi: Machine) -> None:
    """Twice the bandwidth, twice the speed; a token of a tied 0.6 B model in Q4_0 reads 0.34 GB and half the cache."""
    slow = found(model, pi, Limits(context=1024), "gguf")["gguf", "q4"]
    fast = found(model, dataclasses.replace(pi, bandwidth=2 * pi.bandwidth), Limits(context=1024), "gguf")["gguf", "q4"]
    assert fast.speed[1] == pytest.approx(2 * slow.speed[1])
    weights = slow.bits * 596_049_920 / 8
    assert slow.speed[1] == pytest.approx(9e9 / (weights + 1024 * 114_688 / 2))
    assert 0.335e9 < weights < slow.size < 0.345e9 and 4.5 < slow.bits < 4.51


def test_an_embedding_that_is_only_looked_up_is_not_read(tmp_path: Path, pi: Machine) -> None:
    config = json.loads((CONFIGS / "Qwen3-0.6B.json").read_text())
    untied = huggingface.read(hollow(tmp_path, {**config, "tie_word_embeddings": False}))
    one = found(untied, pi, Limits(context=1), "gguf")["gguf", "f16"]
    rows = 2 * 151_936 * 1024
    assert one.speed[1] == pytest.approx(9e9 / (one.bits * untied.parameters / 8 - rows), rel=0.001)


def test_what_needs_a_text_is_a_candidate_with_one_alone(model: Model, pi: Machine) -> None:
    listed = decide.candidates(model, pi, Limits(context=1), here=False)
    told = decide.candidates(model, pi, Limits(context=1), here=False, told=True)
    more = {(one.format, one.scheme) for one in told} - {(one.format, one.scheme) for one in listed}
    assert more == {("openvino", "w8a8_static")}
    (refused,) = decide.candidates(model, pi, Limits(), ["gguf"], ["w8a8_static"], here=False)
    assert refused.dropped.startswith("not possible: GGUF has no place")


def test_every_format_and_its_own_schemes(model: Model, pi: Machine) -> None:
    listed = found(model, pi, Limits())
    assert {form for form, _ in listed} == set(memory.writers())
    assert ("gguf", "q4_k_m") in listed and ("onnx", "q4_k_m") not in listed and ("mlx", "int6-g64-bias-bf16") in listed
    order = [bool(one.dropped) for one in listed.values()]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("limits", "reason", "hint"),
    [
        (Limits(size=10_000_000), "on disk", "the smallest, gguf q2_k"),
        (Limits(memory=50_000_000), "of memory", "the leanest, gguf q2_k"),
        (Limits(speed=1e6), "tokens/s", "the fastest, gguf q2_k"),
    ],
)
def test_a_limit_that_nothing_keeps(model: Model, pi: Machine, limits: Limits, reason: str, hint: str) -> None:
    listed = decide.candidates(model, pi, limits, ["gguf"], here=False)
    assert all(reason in one.dropped for one in listed)
    (said,) = decide.relax(listed, limits)
    assert hint in said


def test_a_machine_too_small(model: Model, pi: Machine) -> None:
    listed = found(model, dataclasses.replace(pi, usable=1_000_000_000), Limits(context=4096), "gguf")
    assert not listed["gguf", "q2_k"].dropped and "can be had" in listed["gguf", "f16"].dropped


def test_a_smaller_kv_cache_only_where_memory_asks_for_it(model: Model, pi: Machine) -> None:
    """Qwen3-0.6B, 32,768 tokens: 3.76 GB of keys and values in f16, 2.00 GB in Q8_0."""
    loose = decide.candidates(model, pi, Limits(context=32_768), ["gguf"], ["q4"], here=False)
    assert [one.kv for one in loose] == ["auto"] and loose[0].memory is not None
    assert loose[0].memory.kv_cache == 32_768 * 114_688
    wanted = Limits(context=32_768, memory=3_200_000_000)
    kept, out = decide.candidates(model, pi, wanted, ["gguf"], ["q4"], here=False)
    assert kept.kv == "q8" and not kept.dropped and kept.memory is not None
    assert kept.memory.kv_cache == loose[0].memory.kv_cache * 34 // 64
    assert out.kv == "auto" and "of memory" in out.dropped and kept.key != out.key and kept.codes != out.codes
    # With no room for the smaller one either, its figures say how much is lacking.
    (least,) = decide.candidates(model, pi, dataclasses.replace(wanted, memory=10**9), ["gguf"], ["q4"], here=False)
    assert least.kv == "q8" and "of memory" in least.dropped
    assert "gguf q4 with a KV cache of q8" in decide.relax([least], dataclasses.replace(wanted, memory=10**9))[0]
    both = decide.candidates(model, pi, Limits(context=32_768), ["gguf"], ["q4"], here=False, lean=True)
    assert {one.kv for one in both} == {"auto", "q8"}
    # openvino's usual one is of 8 bits already.
    assert [one.kv for one in decide.candidates(model, pi, wanted, ["openvino"], ["q4"], here=False, lean=True)] == ["auto"]


def test_a_kv_cache_that_is_asked_for(model: Model, pi: Machine) -> None:
    wanted = Limits(context=32_768, memory=3_200_000_000, kv="f16")
    (one,) = decide.candidates(model, pi, wanted, ["gguf"], ["q4"], here=False)
    assert one.kv == "f16" and "of memory" in one.dropped
    (other,) = decide.candidates(model, pi, Limits(kv="q8"), ["onnx"], ["q4"], here=False)
    assert "onnxruntime has no KV cache of q8, but auto, f32" in other.dropped
    with pytest.raises(UsageError, match="no engine has a KV cache of q2"):
        decide.candidates(model, pi, Limits(kv="q2"), here=False)


def test_no_weight_and_no_tokenizer_is_read(tmp_path: Path, pi: Machine) -> None:
    """What a prediction needs is in the headers: a tokenizer that is no tokenizer changes nothing but its own bytes."""
    folder = hollow(tmp_path, json.loads((CONFIGS / "Qwen3-0.6B.json").read_text()))
    size = len((folder / "tokenizer.json").read_bytes())
    whole = found(huggingface.read(folder), pi, Limits())
    (folder / "tokenizer.json").write_bytes(b"x" * size)
    assert found(source.outline(folder), pi, Limits()) == whole


def test_what_is_quantized_already_keeps_its_codes(toy: Callable[..., Path], tmp_path: Path, pi: Machine) -> None:
    """Of a Q4_0 file: its codes in every format that holds them, as large as the files that are then written."""
    (made,) = compiler.convert(huggingface.read(toy("qwen3")), ["gguf"], "q4", tmp_path / "q4", verify=False)
    packed = source.load(made.folder)
    listed = found(packed, pi, Limits(context=64))
    assert {scheme for _, scheme in listed} == {"keep"}
    able = [form for (form, _), one in listed.items() if one.memory is not None]
    assert {"gguf", "onnx", "openvino", "mlx"} <= set(able)
    for result in compiler.convert(packed, able, "keep", tmp_path / "kept", verify=False):
        sizes = {name: size for name, size in result.receipt["files"].items() if "token" not in name}
        assert memory.weights(packed, result.format, "keep") <= sum(sizes.values())
