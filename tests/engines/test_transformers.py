"""transformers opens what slmops writes for vLLM, and plain checkpoints, and computes what the reference computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from needs import needs
from slmops import probes, stream
from slmops.core.errors import EngineFailed, UsageError
from slmops.core.model import Model
from slmops.engines import Options, Sampling, Session
from slmops.engines import transformers as engine
from slmops.formats import compressed_tensors as form
from slmops.formats import huggingface
from slmops.ops.numpy import Reference
from slmops.passes.quantize import chooser, quantize

pytestmark = [pytest.mark.slow, needs(*engine.MODULES)]

Toy = Callable[..., Path]
IDS = np.random.default_rng(0).integers(0, 300, 80).tolist()
CHUNKS = [50, 30]


def made(toy: Toy, family: str, scheme: str, folder: Path) -> Model:
    model = quantize(huggingface.read(toy(family)), chooser(scheme))
    stream.write(model, {"ct": form.plan(model)}, {"ct": folder})
    return model


@contextmanager
def opened(folder: Path, proof: bool = False, context: int = 4096) -> Iterator[Session]:
    session = engine.open(folder, Options(proof=proof, device="cpu", threads=1, context=context))
    try:
        yield session
    finally:
        session.close()


@pytest.mark.parametrize(
    ("family", "scheme"), [("llama", "q4"), ("qwen2", "q8"), ("qwen3", "q4a"), ("qwen2", "q4a"), ("mistral", "f16")]
)
def test_computes_what_the_reference_computes(
    toy: Toy, tmp_path: Path, family: str, scheme: str, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = Reference(made(toy, family, scheme, tmp_path)).logits(IDS)
    with opened(tmp_path, proof=True) as session:
        actual = session.logits(IDS, CHUNKS)
        assert actual.dtype == np.float32 and actual.shape == expected.shape
        assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)
    with opened(tmp_path) as session:
        assert session.effective["activations"] == ("float16" if scheme == "f16" else "bfloat16")
        actual = session.logits(IDS, CHUNKS)
        assert np.linalg.norm(actual - expected) < 0.15 * np.linalg.norm(expected)
    said = capfd.readouterr().err.lower()
    assert not any(word in said for word in ("missing", "unexpected", "mismatch", "could not match")), said


def test_opens_a_plain_checkpoint_past_its_sliding_window(toy: Toy) -> None:
    folder = toy("mistral", sliding_window=32)
    expected = Reference(huggingface.read(folder)).logits(IDS)
    with opened(folder, proof=True) as session:
        actual = session.logits(IDS, CHUNKS)
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


def test_generates_stops_and_cancels(toy: Toy, tmp_path: Path) -> None:
    model = made(toy, "qwen3", "q4", tmp_path)
    with opened(tmp_path, proof=True, context=40) as session:
        greedy = list(session.generate(IDS[:8], Sampling(max_tokens=12)))
        assert greedy[0] == int(Reference(model).logits(IDS[:8])[-1].argmax())
        stream_ = session.generate(IDS[:8], Sampling(max_tokens=1000))
        assert next(stream_) == greedy[0]
        stream_.close()  # type: ignore[attr-defined]
        stops = Sampling(max_tokens=12, stop_ids=(greedy[4],))
        assert list(session.generate(IDS[:8], stops)) == greedy[: greedy.index(greedy[4])]
        assert len(list(session.generate(IDS[:8], Sampling(max_tokens=1000)))) == 32, "the context ends it"
        warm = Sampling(max_tokens=12, temperature=1.5, top_k=50, top_p=0.9, seed=3)
        assert list(session.generate(IDS[:8], warm)) == list(session.generate(IDS[:8], warm)) != greedy
        for ids, chunks in (([], []), ([10**6], [1]), (IDS, [80]), (IDS[:4], [3]), (IDS[:4], [4, 0])):
            with pytest.raises(UsageError):
                session.logits(ids, chunks)


def test_a_long_prompt_passes_in_pieces(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy("qwen3")
    with opened(folder, proof=True) as session:
        whole = list(session.generate(IDS, Sampling(max_tokens=4)))
        monkeypatch.setattr(engine, "PREFILL", 7)
        assert list(session.generate(IDS, Sampling(max_tokens=4))) == whole


def test_reads_and_writes_text_as_the_source_does(toy: Toy, tmp_path: Path) -> None:
    model = made(toy, "qwen3", "q4", tmp_path)
    source = model.tokenizer.encoder
    with opened(tmp_path) as session:
        for text in probes.TEXTS:
            ids = source.encode(text, add_special_tokens=False).ids
            assert session.encode(text) == ids
            assert session.decode(ids) == source.decode(ids, skip_special_tokens=True)
        expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert session.render([{"role": "user", "content": "hi"}]) == expected


def test_says_what_is_wrong(toy: Toy, tmp_path: Path) -> None:
    made(toy, "qwen3", "q4", tmp_path)
    with pytest.raises(UsageError):
        engine.open(tmp_path, Options(device="tpu"))
    whole = json.loads((tmp_path / "config.json").read_bytes())
    for change in ({"num_hidden_layers": 2}, {"num_hidden_layers": 4}, {"intermediate_size": 192}):
        (tmp_path / "config.json").write_text(json.dumps(whole | change))
        with pytest.raises(EngineFailed, match="transformers"):
            engine.open(tmp_path, Options(device="cpu"))
