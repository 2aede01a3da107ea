"""The catalogue of models, and their order for a device and a use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmops import cli
from slmops.core.errors import CorruptInput, UsageError
from slmops.core.tensor import elements
from slmops.plan import memory, models, rank, targets
from slmops.plan.decide import Limits

PUBLISHED = {
    "bitnet-2b-4t": 2_412_820_480,
    "gemma-3-1b": 999_885_952,
    "gemma-3-270m": 268_098_176,
    "gemma-3-4b": 3_880_099_328,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "phi-4-mini": 3_836_021_760,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "smollm2-1.7b": 1_711_376_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm3-3b": 3_075_098_624,
}
"""Parameters as the Hub counts them in the checkpoints' safetensors (of Gemma 3 4B its text part)."""
MINE = """
description = "Ours"
source = "org/ours"
licence = "mit"
context = 2048
strengths = ["chat"]
[config]
model_type = "llama"
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
vocab_size = 512
max_position_embeddings = 2048
rms_norm_eps = 1e-5
rope_theta = 10000.0
tie_word_embeddings = true
"""


@pytest.mark.parametrize("name", models.names())
def test_every_model_is_what_its_maker_counts(name: str) -> None:
    one = models.load(name)
    assert one.model.parameters == PUBLISHED.get(name, one.model.parameters)
    assert one.strengths and one.context <= one.model.spec.context and one.source.count("/") == 1
    assert sum(elements(tensor.shape) for tensor in one.model.tensors.values()) == one.model.parameters


def test_all_that_are_counted_are_there() -> None:
    assert set(PUBLISHED) <= set(models.names())


def test_what_fits_a_phone() -> None:
    """The largest that fits and is fast enough first; each dropped one says why, in the planner's own words."""
    phone = targets.load("android")
    found = rank.rank(phone.machine, Limits(context=4096), "chat", phone.formats, here=False)
    kept = [one for one in found if one.choice]
    quick = [one.described.model.parameters for one in kept if one.fast]
    assert quick == sorted(quick, reverse=True) and found[: len(kept)] == kept and len(kept) >= 5
    for one in kept:
        assert one.choice and one.choice.memory and one.choice.memory.total <= phone.machine.usable
        assert one.choice.speed[1] >= rank.READING or not one.fast
        assert 0 < one.minimum < one.recommended
        size = memory.weights(one.described.model, one.choice.format, one.choice.scheme)
        assert one.choice.bits == pytest.approx(8 * size / one.described.model.parameters)
    reasons = {one.described.name: "; ".join(one.reasons) for one in found if not one.choice}
    assert "disk" in reasons["qwen3-8b"] and "not made for chat" in reasons["smollm2-135m"]


def test_a_larger_machine_takes_a_larger_model_and_more_bits() -> None:
    """Three times the bandwidth: what was 4-bit answers fast enough in 8 bits, and the first is not smaller."""
    small, large = (targets.load(name) for name in ("laptop-cpu", "nvidia-24gb"))
    first, other = (rank.rank(one.machine, Limits(), "chat", ["gguf"], here=False)[0] for one in (small, large))
    assert first.choice and other.choice
    assert other.described.model.parameters >= first.described.model.parameters
    assert (first.choice.scheme, other.choice.scheme) == ("q4", "q8")


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ours.toml").write_text(MINE)
    assert "ours" in models.names() and models.load("ours").source == "org/ours"
    machine = targets.load("raspberry-pi").machine
    found = {one.described.name: one for one in rank.rank(machine, Limits(context=4096), "chat", ["gguf"], here=False)}
    assert "2,048 it has" in "; ".join(found["ours"].reasons)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ('"chat"', '"sculpture"', "sculpture"),
        ('licence = "mit"', "", "licence"),
        ("[config]", "colour = 3\n[config]", "colour"),
        ("hidden_size = 64", "hidden_size = -64", "hidden"),
        ('"llama"', '"t5"', "t5"),
        ("context = 2048", "context = 0", "context"),
        ("context = 2048", "context = ", "line"),
    ],
)
def test_a_file_that_says_no_model(was: str, becomes: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(MINE.replace(was, becomes, 1))
    with pytest.raises(CorruptInput) as error:
        models.load(str(path))
    assert said in str(error.value)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--target", "android", "--task", "chat", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in found["models"]} == set(models.names())
    assert all(one["reasons"] and one["recommended_memory"] >= one["minimum_memory"] for one in found["models"])
    assert cli.main(["plan", "--target", "android", "--task", "chat"]) == 0
    assert "next: slmops plan" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--task", "sculpture"], ["--max-size", "60%"], ["samples", "--task", "chat"], ["--context", "0"]]
)
def test_what_makes_no_sense(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--target", "android", *words]) == UsageError.exit_code
    assert "slmops: " in capsys.readouterr().err
