"""Workers: what an owner sees when an engine is missing, fails, is killed or is told to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import children
from slmops import compile as compiler
from slmops import run
from slmops.core import plugins
from slmops.core.errors import CorruptInput, EngineCrashed, EngineFailed, EngineMissing, UsageError
from slmops.engines import Options, Sampling, _host, _installed
from slmops.plan import memory
from slmops.source import load

pytestmark = pytest.mark.slow
ENGINES = [name for name in plugins.names("engines") if _installed.installed(name)]


@pytest.fixture(scope="module")
def artifacts(toy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifacts")
    compiler.convert(load(toy("qwen3")), compiler.writable(), "q4", out, verify=False)
    return out


def folder_of(engine: str, artifacts: Path) -> Path:
    forms = [form for form in plugins.load("engines", engine).FORMATS if (artifacts / form).is_dir()]
    return artifacts / forms[0]


@pytest.mark.parametrize("name", ENGINES)
def test_the_same_greedy_tokens_twice_and_a_cancel_in_between(name: str, artifacts: Path) -> None:
    folder = folder_of(name, artifacts)
    artifact = run.Artifact.open(folder)
    with run.open_worker(artifact, name, Options(context=256)) as worker:
        ids = run.tokens_of(worker, artifact, "turn the kitchen light to thirty")
        first = [token.id for token in worker.generate(ids, Sampling(max_tokens=24)) if token.id is not None]
        assert len(first) == 24
        stream = worker.generate(ids, Sampling(max_tokens=200))
        assert next(stream).id == first[0]
        stream.close()
        again = [token.id for token in worker.generate(ids, Sampling(max_tokens=24)) if token.id is not None]
        assert again == first
        sampled = [token.id for token in worker.generate(ids, Sampling(max_tokens=24, temperature=1.5, seed=7))]
        same = [token.id for token in worker.generate(ids, Sampling(max_tokens=24, temperature=1.5, seed=7))]
        assert sampled == same
        stopped = [t.id for t in worker.generate(ids, Sampling(max_tokens=24, stop_ids=(first[3],))) if t.id is not None]
        assert stopped == first[: first.index(first[3])]
        assert worker.memory()["peak"] > 10_000_000


@pytest.mark.parametrize("name", ENGINES)
def test_each_precision_of_the_kv_cache_runs_and_is_near_the_usual_one(name: str, artifacts: Path) -> None:
    engine = plugins.load("engines", name)
    artifact, ids = run.Artifact.open(folder_of(name, artifacts)), np.random.default_rng(0).integers(3, 300, 96).tolist()
    found, said = {}, {}
    for kv in engine.KV:
        with run.open_worker(artifact, name, Options(context=128, kv=kv)) as worker:
            assert len(list(worker.generate(ids, Sampling(max_tokens=4)))) >= 4
            said[kv] = worker.effective["kv"]
            if "logits" in engine.CAN:
                found[kv] = worker.logits(ids, [64, 32])
    for kv in said:
        assert kv == "auto" or kv in said[kv] or (kv == "q8" and "8" in said[kv]), said
    if "q8" in found:
        wide = found.get("f16", found["auto"])  # where there is no f16 the usual one is as wide
        error = np.linalg.norm(found["q8"] - wide) / np.linalg.norm(wide)
        assert 0 < error < 0.1  # bf16 of the toy alone is half of it
    with pytest.raises(UsageError, match="no KV cache of q2") as caught:
        run.open_worker(artifact, name, Options(kv="q2"))
    assert ", ".join(engine.KV) in caught.value.cure


@pytest.mark.parametrize("name", [name for name in ENGINES if name.startswith("llama")])
def test_a_smaller_kv_cache_takes_less_memory_by_what_is_predicted(
    name: str, toy: Callable[..., Path], tmp_path: Path
) -> None:
    """llama.cpp takes the cache of the whole context at once: the process differs by it, and by little else."""
    model = load(toy("qwen3", max_position_embeddings=131_072))
    (made,) = compiler.convert(model, ["gguf"], "q4", tmp_path / "out", verify=False)
    taken = {}
    for kv in ("f32", "f16", "q8"):
        with run.open_worker(run.Artifact.open(made.folder), name, Options(context=131_072, kv=kv)) as worker:
            taken[kv] = worker.memory()["resident"]
    for wide, narrow in (("f32", "f16"), ("f16", "q8")):
        predicted = [memory.kv_cache(model.spec, 131_072, memory.number(name, kv)) for kv in (wide, narrow)]
        assert taken[wide] - taken[narrow] == pytest.approx(predicted[0] - predicted[1], rel=0.1)


@pytest.mark.parametrize("name", ENGINES)
def test_ids_outside_the_vocabulary_are_an_error_and_the_worker_goes_on(name: str, artifacts: Path) -> None:
    with run.open_worker(run.Artifact.open(folder_of(name, artifacts)), name, Options(context=256)) as worker:
        with pytest.raises(UsageError, match=r"vocabulary|token ids"):
            list(worker.generate([5, 1 << 20], Sampling(max_tokens=4)))
        assert list(worker.generate([5, 6], Sampling(max_tokens=4)))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_worker_is_an_error_not_a_hang(name: str, artifacts: Path) -> None:
    folder = folder_of(name, artifacts)
    with run.open_worker(run.Artifact.open(folder), name, Options(context=256)) as worker:
        threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL)).start()
        with pytest.raises(EngineCrashed, match="killed by SIGKILL") as caught:
            while True:
                for _ in worker.generate([5, 6, 7], Sampling(max_tokens=200)):
                    time.sleep(0.005)
        assert "memory" in caught.value.cure


def test_a_missing_engine_names_the_command(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_installed, "installed", lambda name: None)
    with pytest.raises(EngineMissing) as caught:
        run.choose_engine("gguf")
    assert "pip install" in caught.value.cure
    with pytest.raises(UsageError, match="does not open"):
        run.choose_engine("gguf", "mlx")


@pytest.mark.parametrize("name", ENGINES)
def test_a_broken_folder_is_a_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises((CorruptInput, EngineFailed, EngineCrashed)), _host.Worker(name, tmp_path):
        pytest.fail("an empty folder was opened")


def test_no_worker_outlives_its_owner(artifacts: Path) -> None:
    """The owner is killed without a chance to say goodbye; its worker goes with it."""
    psutil = pytest.importorskip("psutil")
    import subprocess

    name = next(name for name in ENGINES if name.startswith(("llamacpp", "onnxruntime")))
    script = (
        "import sys, time; from pathlib import Path; from slmops.engines._host import Worker\n"
        "worker = Worker(sys.argv[1], Path(sys.argv[2])); print(worker.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, name, str(folder_of(name, artifacts))]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = psutil.Process(int(children.line(owner)))
    owner.kill()
    owner.wait(30)
    owner.stdout.close()
    worker.wait(timeout=20)
