"""The memory planner: exact where it can be, stated formulas where it predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import hollow
from slmops import compile as compiler
from slmops.core import plugins
from slmops.core.errors import Unsupported
from slmops.formats import huggingface
from slmops.passes.quantize import chooser, quantize
from slmops.plan import memory
from slmops.plan.tiers import tier

CONFIGS = Path(__file__).parent.parent / "data" / "configs"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (99_999_999, "below micro"),
        (100_000_000, "micro"),
        (596_049_920, "micro"),
        (1_400_000_000, "micro"),
        (1_450_000_000, "between micro and small"),
        (1_543_714_304, "small"),
        (13_900_000_000, "small"),
        (13_950_000_000, "between small and medium"),
        (14_000_000_000, "medium"),
        (30_000_000_000, "medium"),
        (30_532_122_624, "above medium"),
    ],
)
def test_tiers(parameters: int, name: str) -> None:
    assert tier(parameters) == name


def test_kv_cache_of_a_known_model() -> None:
    """Qwen3-0.6B: 28 layers x 2 x 8 heads x 128 x 2 bytes = 114,688 bytes a token."""
    config = json.loads((CONFIGS / "Qwen3-0.6B.json").read_text())
    spec = plugins.load("architectures", "qwen3").spec(config)
    assert memory.kv_cache(spec, 1) == 114_688
    assert memory.kv_cache(spec, 40_960) == 4_697_620_480
    assert memory.kv_cache(spec, 40_960, 1.0) == 4_697_620_480 // 2
    assert memory.contexts(spec) == (2048, 8192, 40_960)
    assert memory.contexts(spec, 100) == (100,)


def test_every_engine_says_what_a_number_of_its_kv_cache_takes() -> None:
    for name in plugins.names("engines"):
        known = plugins.load("engines", name).KV
        assert next(iter(known)) == "auto" and set(known) <= {"auto", "f32", "f16", "q8"}
        assert memory.smaller(name) == ("q8" if known.get("q8", 9) < known["auto"] else None)
    assert memory.number("llamacpp", "q8") == 34 / 32 and memory.number("") == 2.0


@pytest.mark.parametrize(("scheme", "bits"), [("q4", 4.5), ("q8", 8.5), ("f16", 16.0)])
def test_weights_of_a_known_model(scheme: str, bits: float, tmp_path: Path) -> None:
    """Bits a weight: codes and one f16 scale for 32; a little more for tokenizers, norms and alignment."""
    model = huggingface.read(hollow(tmp_path, json.loads((CONFIGS / "Qwen3-0.6B.json").read_text())))
    found = 8 * memory.weights(model, "gguf", scheme) / model.parameters
    assert bits < found < bits + 0.06


def test_prediction_is_the_layout(toy: Callable[..., Path]) -> None:
    """Every format that can be written is there, and its weights are what its plan writes."""
    model = huggingface.read(toy("qwen3"))
    found = list(memory.predict(model, ("q4", "q8", "f16"), (64, 512)))
    assert {one.format for one in found} == set(memory.writers())
    for one in found:
        assert one.weights == memory.weights(model, one.format, one.scheme)
        assert one.total == one.weights + one.kv_cache + one.overhead
        assert one.low < one.total < one.high and one.engine in plugins.names("engines")
    short, long = (one for one in found if one.format == "gguf" and one.scheme == "q4")
    assert long.kv_cache == 8 * short.kv_cache and long.overhead > short.overhead


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Phi-4-mini-instruct", "SmolLM3-3B", "BitNet-b1.58-2B-4T"])
def test_layers_counted_on_are_those_laid_out(name: str, tmp_path: Path) -> None:
    """What is predicted from two and three layers, or of all where they differ, is the size of the files of all."""
    model = huggingface.read(hollow(tmp_path, json.loads((CONFIGS / f"{name}.json").read_text())))
    compared = 0
    for form in memory.writers():
        for scheme in ("q4", "f16", *(("q4_k_m",) if form == "gguf" else ())):
            try:
                layout = plugins.load("formats", form).plan(quantize(model, chooser(scheme)))
            except Unsupported:
                continue
            found = memory.weights(model, form, scheme)
            # GGUF keeps the tokenizer in the same file: it is most of what stands before the data.
            start = min(region.offset for regions in layout.regions.values() for region in regions) if form == "gguf" else 0
            assert found == pytest.approx(sum(layout.sizes.values()) - start, rel=1e-4), (form, scheme)
            compared += 1
    assert compared >= 4


def test_the_tokenizer_in_an_artifact(sample: Path, tmp_path: Path) -> None:
    """Predicted size against a file that was written: the tokenizer is a twentieth of it."""
    model = huggingface.read(sample)
    (made,) = compiler.convert(model, ["gguf"], "q4", tmp_path / "gguf", verify=False)
    predicted = memory.weights(model, "gguf", "q4") + memory.tokenizer(model, "gguf")
    assert predicted == pytest.approx((made.folder / "model.gguf").stat().st_size, rel=0.03)


def test_intervals_come_from_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten readings from 0.9 to 1.08: a gap of 0.02 on either side; of two nothing is learned; none is narrower than 5 %."""
    path = tmp_path / "spread.json"
    path.write_text(json.dumps({
        "many": {"readings": 10, "shapes": 2, "least": 0.9, "greatest": 1.08},
        "few": {"readings": 2, "shapes": 2, "least": 0.99, "greatest": 1.0},
        "close": {"readings": 9, "shapes": 3, "least": 1.0, "greatest": 1.0},
        "alone": {"readings": 9, "shapes": 1, "least": 0.99, "greatest": 1.0},
    }))  # fmt: skip
    monkeypatch.setattr(memory, "SPREAD", path)
    memory.spread.cache_clear()
    assert memory.spread("many") == pytest.approx((0.88, 1.1))
    assert memory.spread("few") == memory.spread("alone") == memory.spread("never seen") == pytest.approx((0.85, 1.15))
    assert memory.spread("close") == pytest.approx((0.95, 1.05))
    memory.spread.cache_clear()


def test_what_was_learned_is_of_engines_that_there_are() -> None:
    """As bench/planner.py wrote it: predictions are within 15 % of what was measured in each engine."""
    for name, one in json.loads(memory.SPREAD.read_text()).items():
        assert name in plugins.names("engines") and set(one) == {"readings", "shapes", "least", "greatest"}
        assert 0.85 <= one["least"] <= one["greatest"] <= 1.15, name
        assert memory.spread(name)[0] < 1 < memory.spread(name)[1]


def test_impossible_pairs_are_left_out(toy: Callable[..., Path]) -> None:
    model = huggingface.read(toy("qwen3"))
    with pytest.raises(Unsupported, match="q4_k"):
        memory.weights(model, "onnx", "q4_k")
    assert {one.format for one in memory.predict(model, ("q4_k",), (64,))} == {"gguf"}
