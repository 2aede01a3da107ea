"""Stress and stability runs: real engines bear them, and what goes wrong in an engine is seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from needs import needs
from slmops import compile as compiler
from slmops import run
from slmops.core import plugins
from slmops.core.errors import EngineCrashed, EngineFailed, UsageError
from slmops.engines import Options, Sampling
from slmops.engines._host import Token, Worker
from slmops.measure import artifact, gates, speed, stress
from slmops.source import load

Toy = Callable[..., Path]
PROMPT = [5, 9, 17, 33] * 32
ENGINES = [
    pytest.param("gguf", "llamacpp", marks=needs("xllamacpp")),
    pytest.param("onnx", "onnxruntime", marks=needs("onnxruntime_genai")),
    pytest.param("openvino", "openvino_paged", marks=needs("openvino_genai")),
]
SERVER = pytest.mark.skipif(shutil.which("llama-server") is None, reason="there is no llama-server on PATH")
PARALLEL = [
    pytest.param("openvino", "openvino_paged", marks=needs("openvino_genai")),
    pytest.param("gguf", "llamacpp", marks=needs("xllamacpp")),
    pytest.param("gguf", "llamaserver", marks=SERVER),
]


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A toy at q8 in a format."""
    out, model = tmp_path_factory.mktemp("stress"), load(toy("qwen3"))

    def folder(form: str) -> Path:
        compiler.convert(model, [form], "q8", out / form, verify=False)
        return out / form

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("form", "engine"), ENGINES)
def test_real_engines_bear_it(made: Callable[[str], Path], form: str, engine: str) -> None:
    found = artifact.measure(made(form), engine, runs=2, new_tokens=8, context=200)
    found = artifact.endure(found, seconds=1.0)
    assert found.stress is not None and found.stress.faults == () and found.stress.longest == found.reserved
    assert found.stress.looked > 0 and found.stress.requests >= 15
    assert found.stress.at_once == (stress.AT_ONCE if "parallel" in plugins.load("engines", engine).CAN else 1)
    assert found.stability is not None and found.stability.requests >= 3 * (stress.WARM_UP + stress.LEAST)
    assert found.stability.identical == found.stability.requests
    assert found.altered == ""
    shown = list(gates.endured(found))
    assert shown[0].passed and shown[1].passed


@pytest.mark.slow
@pytest.mark.parametrize(("form", "engine"), PARALLEL)
def test_requests_at_once_are_answered_as_alone(sample: Path, tmp_path: Path, form: str, engine: str) -> None:
    """Requests of several lengths, more than are in flight. What they say is compared in tests/engines/test_flow.py."""
    model = load(sample)
    compiler.convert(model, [form], "q8", tmp_path / form, verify=False)
    lines = (sample / "eval" / "text.txt").read_text(encoding="utf-8").splitlines()
    prompts = [model.tokenizer.encoder.encode(line, add_special_tokens=False).ids for line in list(filter(None, lines))[:6]]
    with run.open_worker(run.Artifact.open(tmp_path / form), engine, Options(context=128, parallel=3)) as worker:
        alone = [[token.id for token in worker.generate(ids, Sampling(max_tokens=6))] for ids in prompts]
        events = list(worker.serve(prompts, Sampling(max_tokens=6), 3))
        made = [sum(count for which, count, _ in events if which == number) for number in range(6)]
        assert made == [6] * 6 and all(len(one) == 6 for one in alone)
        assert [which for which, count, _ in events if count == 0][:3] == [0, 1, 2]
        flying = most = 0
        left = [6] * 6
        for which, count, _ in events:
            flying += count == 0
            left[which] -= count
            flying -= count > 0 and left[which] == 0
            most = max(most, flying)
        assert most == 3
        stream = worker.serve(prompts, Sampling(max_tokens=100), 3)
        next(stream)
        stream.close()
        assert len(list(worker.generate(PROMPT[:4], Sampling(max_tokens=3)))) >= 3
        taken = speed.under_load(worker, prompts[:1], 4, 2)
    assert taken.requests == speed.ROUNDS * speed.PER_SLOT * 2 and taken.new_tokens == 4
    assert 0 < taken.first_token.p50.value <= taken.first_token.p99.value and taken.itl.p50.value > 0
    assert taken.throughput.low <= taken.throughput.value <= taken.throughput.high


@needs("openvino_genai")
def test_one_at_a_time_is_said(made: Callable[[str], Path]) -> None:
    assert not {"parallel", "turns"} & plugins.load("engines", "openvino").CAN
    with pytest.raises(UsageError, match="one request at a time"):
        Worker("openvino", made("openvino"), Options(parallel=2))


class Faulty:
    """An engine's process with one fault; all else is as it should be."""

    def __init__(self, fault: str) -> None:
        self.fault, self.asked, self.resident = fault, 0, 100e6
        self.killed = False

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[Token]:
        self.asked += 1
        self.resident += 50e3 if self.fault == "leaks" else 0
        if self.fault == "crashes" and ids[0] == 0:
            raise EngineCrashed("the engine's process was killed by SIGSEGV")
        if self.fault == "fails" and len(ids) == 1:
            raise EngineFailed("the engine wants two tokens")
        count = sampling.max_tokens - (self.fault == "ends early" and len(ids) > 180)
        for number in range(min(count, 16)):
            changed = self.fault == "changes" and self.asked > 6
            yield Token(1000 if self.fault == "invents" and ids[0] == 0 else 7 + number + changed, "", 0.01)

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Any:
        return np.full((len(ids), 300), np.nan if self.fault == "gives NaN" and len(set(ids)) == 1 else 0.5, np.float32)

    def memory(self) -> dict[str, int]:
        return {"resident": int(self.resident), "peak": int(self.resident)}

    def kill(self) -> None:
        self.killed = True


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", ""),
        ("crashes", "vocabulary: the engine's process was killed"),
        ("fails", "one token: the engine wants two"),
        ("ends early", "fills the context: 3 tokens of 4"),
        ("changes", "a pause: the answer was"),
        ("invents", "vocabulary: 4 tokens"),
        ("gives NaN", "over and over, logits: the logits hold NaN"),
    ],
)
def test_faults_are_seen(fault: str, said: str) -> None:
    worker: Any = Faulty(fault)
    found = stress.stress(worker, PROMPT, 300, 200)
    assert bool(found.faults) == bool(fault) and said in "; ".join(found.faults)


def test_a_leak_is_seen() -> None:
    """50 kB a request of 100 MB: half as much again after a thousand."""
    leaky: Any = Faulty("leaks")
    whole: Any = Faulty("")
    found = stress.stability(leaky, PROMPT, 200, 0.0)
    assert found.growth.value == pytest.approx(0.5, rel=0.1) and found.growth.low > stress.GROWTH
    assert stress.stability(whole, PROMPT, 200, 0.0).growth.high == 0
    changing: Any = Faulty("changes")
    found = stress.stability(changing, PROMPT, 200, 0.0)
    assert found.identical == 6


def test_an_engine_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "HANG", 0.05)
    worker: Any = Faulty("")

    def hanging(ids: Sequence[int], sampling: Sampling) -> Iterator[Token]:
        while not worker.killed:
            pass
        raise EngineCrashed("the engine's process was killed by SIGKILL")

    monkeypatch.setattr(worker, "generate", hanging)
    found = stress.stress(worker, PROMPT, 300, 200)
    assert len(found.faults) == 1 and "SIGKILL" in found.faults[0]
