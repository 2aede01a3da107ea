"""Measures against figures from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmops import compile as compiler
from slmops import run
from slmops.core.errors import CorruptInput
from slmops.engines import Options, Sampling, _worker
from slmops.engines._host import Token
from slmops.measure import quality, speed, tasks
from slmops.source import load


def test_wilson_interval() -> None:
    """Published values: Brown, Cai and DasGupta (2001) give Wilson's interval; 81 of 263 is Newcombe's (1998) example."""
    low, high = tasks.Score(81, 263).interval
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = tasks.Score(15, 148).interval
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)


def test_distance_and_divergence_against_scipy_like_sums() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.standard_normal((2, 40, 50)).astype(np.float32)
    a, b = np.exp(p.astype(float)), np.exp(q.astype(float))
    a, b = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
    found = _worker.distance(q, p)
    assert math.isclose(found["kl"], (a * np.log(a / b)).sum(-1).mean(), rel_tol=1e-4)
    assert math.isclose(found["relative_error"], np.linalg.norm(p - q) / np.linalg.norm(p), rel_tol=1e-5)


def test_windows() -> None:
    assert quality.windows(range(10), 4, 9) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert quality.windows(range(3), 4, 9) == [[0, 1, 2]]


def test_bad_cases_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"messages": [], "expected": "x"}\n{"messages": []}\n')
    with pytest.raises(CorruptInput, match="line 2"):
        tasks.read_cases(path)


@pytest.mark.slow
def test_quality_of_f32_is_no_distance_and_q4_is_some(toy: Callable[..., Path], tmp_path: Path) -> None:
    model = load(toy("qwen3"))
    ids = model.tokenizer.encoder.encode("turn the light on and off again " * 12).ids
    sequences = quality.windows(ids, 48, 3)
    sizes = [len(model.tokenizer.encoder.decode(window[1:]).encode()) for window in sequences]
    reference = tmp_path / "reference.npy"
    quality.reference_logits(model, sequences, reference)
    found = {}
    for scheme in ("f32", "q8", "q4"):
        made = compiler.convert(model, ["onnx"], scheme, tmp_path / scheme, verify=False)[0]
        with run.open_worker(run.Artifact.open(made.folder), options=Options(context=256)) as worker:
            found[scheme] = quality.against_reference(worker, sequences, reference, sizes)
            if scheme == "q4":
                timed = speed.measure(worker, ids[:32], new_tokens=16, runs=2)
    kl = {scheme: one.kl.value for scheme, one in found.items()}
    assert kl["f32"] < 1e-6 < kl["q8"] < kl["q4"]
    exact = found["f32"]
    assert exact.positions == sum(map(len, sequences)) and exact.windows == 3 and exact.top1.value == 1
    assert exact.retained.value == pytest.approx(1, abs=1e-4)
    assert exact.perplexity.value == pytest.approx(exact.reference_perplexity, rel=1e-4)
    four = found["q4"]
    assert four.retained.low < four.retained.value < four.retained.high
    assert four.kl_median <= four.kl_p999.value and four.kl.low < four.kl.value < four.kl.high
    assert four.bits_per_byte is not None and len(four.losses) == four.positions - four.windows
    nats = sum(four.losses)
    assert four.bits_per_byte.value == pytest.approx(nats / np.log(2) / sum(sizes))
    assert timed.new_tokens == 16 and timed.decode > 0 and timed.first_token > 0


def test_energy_counts_packages_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel lays it out (Documentation/power/powercap): "psys" is the whole platform, packages and all."""
    for number, (name, microjoules) in enumerate([("package-0", 5_000_000), ("package-1", 3_000_000), ("psys", 9_000_000)]):
        zone = tmp_path / f"intel-rapl:{number}"
        (zone / f"intel-rapl:{number}:0").mkdir(parents=True)
        (zone / "name").write_text(name + "\n")
        (zone / "energy_uj").write_text(f"{microjoules}\n")
    monkeypatch.setattr(speed, "RAPL", tmp_path)
    assert speed.joules() == pytest.approx(8.0)
    monkeypatch.setattr(speed, "RAPL", tmp_path / "nothing")
    assert speed.joules() is None


class Paced:
    """An engine's process whose answers take as long as it is told, one answer after the other."""

    pid = 0

    def __init__(self, paces: list[float]) -> None:
        self.paces = paces

    def generate(self, ids: list[int], sampling: Sampling) -> Iterator[Token]:
        pace = self.paces.pop(0)
        yield from (Token(7, "", (1 + number) * pace) for number in range(sampling.max_tokens))


def test_noisy_runs_are_taken_again() -> None:
    """A warm-up and three runs a batch: the first batch lies apart by 100 % of its median, the second by none."""
    noisy: Any = Paced([1, 0.05, 0.1, 0.1, 1, 0.1, 0.1, 0.1])
    found = speed.measure(noisy, [1, 2], 5, 3)
    assert (found.batches, found.spread, found.decode) == (2, pytest.approx(0), pytest.approx(10))
    assert found.first_tokens == pytest.approx((0.1, 0.1, 0.1)) and not noisy.paces
    never: Any = Paced([1, 0.05, 0.1, 0.1] * speed.BATCHES)
    assert speed.measure(never, [1, 2], 5, 3).batches == speed.BATCHES and not never.paces
    steady: Any = Paced([1, 0.1, 0.1, 0.1])
    assert speed.measure(steady, [1, 2], 5, 3).batches == 1
