"""llama.cpp: the wheel through its C functions, and a native llama-server where there is one on PATH."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from slmops import stream
from slmops.core.errors import EngineCrashed, EngineFailed, SlmopsError, UsageError
from slmops.core.model import Model
from slmops.core.tensor import Floats, Lazy
from slmops.engines import (
    Options,
    Sampling,
    _gguf,
    _host,
    _installed,
    _llamacpp_library,
    _llamacpp_render,
    _llamaserver,
    llamacpp,
    llamaserver,
)
from slmops.formats import gguf, huggingface
from slmops.ops.numpy import Reference
from slmops.passes.quantize import chooser, quantize

Toy = Callable[..., Path]
TOKENIZERS = Path(__file__).resolve().parent.parent / "data" / "tokenizers"
IDS = np.random.default_rng(0).integers(3, 300, 96).tolist()

wheel = pytest.mark.skipif(_installed.installed("llamacpp") is None, reason="xllamacpp is not installed")
native = pytest.mark.skipif(_installed.installed("llamaserver") is None, reason="no llama-server on PATH")


def write(model: Model, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    stream.write(model, {"gguf": gguf.plan(model)}, {"gguf": folder})
    return folder


def relative(actual: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def folder(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = quantize(huggingface.read(toy("qwen3")), chooser("q4"))
    return write(model, tmp_path_factory.mktemp("llamacpp") / "q4")


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[_host.Worker]:
    with _host.Worker("llamacpp", folder, Options(threads=1, context=256)) as opened:
        yield opened


@pytest.mark.slow
@wheel
@pytest.mark.parametrize(
    ("family", "changes", "stored"),
    [
        ("llama", {}, "q4"),
        ("llama", {"attention_bias": True, "mlp_bias": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "q8"),
        ("mistral", {"head_dim": 64}, "q4a"),
        ("qwen2", {}, "q4"),
        ("qwen3", {}, "bf16"),
    ],
)
def test_computes_what_the_reference_computes(
    toy: Toy, tmp_path: Path, family: str, changes: dict[str, object], stored: str
) -> None:
    model = quantize(huggingface.read(toy(family, **changes)), chooser(stored))
    expected = Reference(model).logits(IDS)
    out = write(model, tmp_path / "out")
    gguf.twin(out, tmp_path / "twin")
    with _host.Worker("llamacpp", tmp_path / "twin", Options(proof=True, device="cpu", threads=1, context=128)) as proof:
        assert relative(proof.logits(IDS, [38, 58]), expected) < 1e-5
        assert proof.effective["weights"] == proof.effective["kv"] == "f32"
    with _host.Worker("llamacpp", out, Options(threads=1, context=128)) as usual:
        assert relative(usual.logits(IDS, [96]), expected) < 0.1


@wheel
def test_greedy_takes_the_greatest_logit(worker: _host.Worker) -> None:
    prompt = IDS[:20]
    tokens = [token.id for token in worker.generate(prompt, Sampling(max_tokens=16))]
    made = [token for token in tokens if token is not None]
    assert len(made) == 16
    logits = worker.logits([*prompt, *made], [36])
    assert made == logits[19:35].argmax(-1).tolist()
    # A stop ends the text and is not part of it.
    until = [token.id for token in worker.generate(prompt, Sampling(max_tokens=16, stop_ids=(made[5],)))]
    assert [token for token in until if token is not None] == made[: made.index(made[5])]


@wheel
def test_sampling_repeats_with_its_seed(worker: _host.Worker) -> None:
    def draw(seed: int) -> list[int | None]:
        sampling = Sampling(max_tokens=12, temperature=1.0, top_k=0, top_p=0.95, seed=seed)
        return [token.id for token in worker.generate(IDS[:8], sampling)]

    assert draw(1) == draw(1) != draw(2)


def test_pick_keeps_to_top_k_and_top_p() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    generator = np.random.default_rng(0)

    def seen(**options: float) -> set[int]:
        sampling = Sampling(temperature=1.0, **options)  # type: ignore[arg-type]
        return {llamacpp.pick(logits, sampling, generator) for _ in range(300)}

    assert seen(top_k=2) == {0, 1}
    assert seen(top_k=0, top_p=0.7) == {0, 1}
    assert seen(top_k=0, top_p=0.4) == {0}
    assert seen(top_k=0) == {0, 1, 2, 3}
    assert llamacpp.pick(logits, Sampling(), generator) == 0


@wheel
def test_closing_the_iterator_cancels(worker: _host.Worker) -> None:
    tokens = worker.generate(IDS[:8], Sampling(max_tokens=200))
    next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    assert len(worker.encode(["still here"])[0]) > 0


@wheel
def test_the_end_of_the_context_ends_the_text(worker: _host.Worker) -> None:
    long = (IDS * 3)[:250]
    made = [token.id for token in worker.generate(long, Sampling(max_tokens=100)) if token.id is not None]
    # The last one needs no room of its own.
    assert len(made) == 256 - 250 + 1
    with pytest.raises(UsageError, match="context"):
        worker.logits((IDS * 3)[:257], [257])
    with pytest.raises(UsageError, match="ids"):
        worker.logits([100000], [1])


@wheel
def test_renders_the_template_itself(worker: _host.Worker) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi {{ x }}"}]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ x }}<|im_end|>\n<|im_start|>assistant\n"
    assert worker.render([messages, messages]) == [expected, expected]


@pytest.mark.slow
@wheel
@pytest.mark.parametrize("name", ["qwen2", "phi3"])
def test_tokenizes_as_the_source_does(toy: Toy, tmp_path: Path, name: str) -> None:
    """llama.cpp's own golden texts, over the GGUF that slmops writes."""
    base = TOKENIZERS / name
    if name == "phi3":
        text = gzip.decompress((base / "tokenizer.json.gz").read_bytes())
        ends: tuple[int, ...] = (32000,)
    else:
        vocab = json.loads(gzip.decompress((base / "vocab.json.gz").read_bytes()))
        lines = gzip.decompress((base / "merges.txt.gz").read_bytes()).decode().split("\n")
        data = json.loads(huggingface.read(toy("qwen3")).tokenizer.json)
        data["model"] |= {"vocab": vocab, "merges": [line for line in lines if line and not line.startswith("#version")]}
        data["added_tokens"] = [{**item, "id": len(vocab) + i} for i, item in enumerate(data["added_tokens"])]
        text, ends = json.dumps(data).encode(), (len(vocab) + 2,)
    source = tokenizers.Tokenizer.from_str(text.decode())
    rows = -(-source.get_vocab_size() // 64) * 64
    plain = huggingface.read(toy("qwen3"))
    zeros = Lazy((rows, 128), np.dtype(np.float32), lambda start, stop: np.zeros((stop - start, 128), np.float32))
    model = dataclasses.replace(
        plain,
        spec=dataclasses.replace(plain.spec, vocab=rows),
        tensors={**plain.tensors, "embedding": zeros},
        tokenizer=dataclasses.replace(plain.tokenizer, json=text, eos=ends, pad=None),
    )
    out = write(quantize(model, chooser("q4")), tmp_path / "out")
    texts = (TOKENIZERS / "golden.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    golden = [[int(number) for number in line.split()] for line in (base / "golden.out").read_text().split("\n")]
    golden = golden[: len(texts)]
    session = llamacpp.open(out, Options(proof=False, device="cpu", threads=1, context=64))
    try:
        assert [session.encode(text) for text in texts] == golden
        assert [session.decode(ids) for ids in golden] == [source.decode(ids) for ids in golden]
        decomposed = "cafe\u0301"
        assert session.encode(decomposed) == source.encode(decomposed, add_special_tokens=False).ids
    finally:
        session.close()


@wheel
def test_another_version_of_the_struct_is_an_error_not_a_crash() -> None:
    library = _llamacpp_library.load()
    params = library.context_default_params()
    params.type_k = 7
    with pytest.raises(EngineFailed, match=_llamacpp_library.TESTED) as caught:
        _llamacpp_library.check("llama_context_params", params, _llamacpp_library.CONTEXT_DEFAULTS)
    assert "pip install" in caught.value.cure


@wheel
def test_a_broken_file_says_what_llama_cpp_says(folder: Path, tmp_path: Path) -> None:
    (tmp_path / gguf.FILE).write_bytes((folder / gguf.FILE).read_bytes()[:100_000])
    with pytest.raises(EngineFailed, match=r"cannot load model\.gguf: .+"):
        llamacpp.open(tmp_path, Options(proof=False, device="cpu", threads=1, context=64))
    with pytest.raises(UsageError, match="npu"):
        llamacpp.open(folder, Options(proof=False, device="npu", threads=1, context=64))


def test_the_stub_for_rendering_keeps_the_tokenizer_only(folder: Path, tmp_path: Path) -> None:
    _llamacpp_render.stub(folder / gguf.FILE, tmp_path / "stub.gguf")
    whole, stub = (_gguf.selected(path, "tokenizer.") for path in (folder / gguf.FILE, tmp_path / "stub.gguf"))
    added = _llamacpp_render.ADDS_BOS
    assert {key: data for key, data in stub.items() if key != added} == {k: v for k, v in whole.items() if k != added}
    assert not _gguf.flag(stub, added)
    assert (tmp_path / "stub.gguf").stat().st_size < 200_000


# ---- llama-server


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[_llamaserver.Session]:
    session = llamaserver.open(folder, Options(proof=False, device="cpu", threads=1, context=256))
    yield session
    session.close()


@pytest.mark.slow
@native
def test_server_generates_every_token_of_the_stream(server: _llamaserver.Session) -> None:
    """Random weights write random bytes, so most tokens end within a character, which the stream leaves out."""
    made = list(server.generate(IDS[:20], Sampling(max_tokens=48)))
    assert len(made) == 48
    whole = server._server.ask("/completion", {**_llamaserver._options(IDS[:20], Sampling(), False), "n_predict": 48})[
        "tokens"
    ]
    assert made == whole
    stopped = list(server.generate(IDS[:20], Sampling(max_tokens=48, stop_ids=(made[7],))))
    assert stopped == made[: made.index(made[7])]


@pytest.mark.slow
@native
def test_server_samples_cancels_and_respects_the_context(server: _llamaserver.Session) -> None:
    sampling = Sampling(max_tokens=11, temperature=1.0, top_k=50, seed=3)
    assert list(server.generate(IDS[:8], sampling)) == list(server.generate(IDS[:8], sampling))
    tokens = server.generate(IDS[:8], Sampling(max_tokens=200))
    next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    assert 1 <= len(list(server.generate((IDS * 3)[:250], Sampling(max_tokens=100)))) <= 7
    with pytest.raises(UsageError):
        list(server.generate((IDS * 3)[:257], Sampling()))


@pytest.mark.slow
@native
def test_server_texts_are_those_of_the_source(toy: Toy, server: _llamaserver.Session) -> None:
    source = tokenizers.Tokenizer.from_file(str(toy("qwen3") / "tokenizer.json"))
    for text in ("Hello, world!", "cafe\u0301", "<|im_start|>user\nHi<|im_end|>", " x", "你好"):
        ids = source.encode(text, add_special_tokens=False).ids
        assert server.encode(text) == ids
        assert server.decode(ids) == source.decode(ids)
    rendered = server.render([{"role": "user", "content": "Hi"}])
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.slow
@native
def test_killed_server_is_a_crash_and_a_dead_owner_takes_it_along(folder: Path) -> None:
    session = llamaserver.open(folder, Options(proof=False, device="cpu", threads=1, context=256))
    tokens = session.generate(IDS[:8], Sampling(max_tokens=200))
    next(tokens)
    os.kill(session.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    with pytest.raises(EngineCrashed, match="llama-server ended"):
        list(tokens)
        session.encode("x")
    with pytest.raises(EngineCrashed):
        session.encode("x")
    session.close()
    other = llamaserver.open(folder, Options(proof=False, device="cpu", threads=1, context=256))
    assert other._server.process.stdin is not None
    other._server.process.stdin.close()
    end = time.monotonic() + 10
    while other._server.process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert other._server.process.poll() is not None
    with pytest.raises(SlmopsError):
        other.encode("x")
    other.close()


@native
def test_server_refuses_what_it_cannot_do(folder: Path) -> None:
    with pytest.raises(UsageError, match="no logits"):
        llamaserver.open(folder, Options(proof=True, device="cpu", threads=1, context=64))
    with pytest.raises(UsageError, match="npu"):
        llamaserver.open(folder, Options(proof=False, device="npu", threads=1, context=64))
