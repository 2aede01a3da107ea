"""mlx-lm opens what slmops writes and computes what the reference computes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from needs import needs
from slmops import probes, stream
from slmops.core.errors import EngineFailed, UsageError
from slmops.core.model import Model
from slmops.engines import Constraint, Flow, Options, Sampling, Session, _flow, _masks
from slmops.engines import mlx as engine
from slmops.formats import huggingface
from slmops.formats import mlx as form
from slmops.ops.numpy import Reference
from slmops.passes.quantize import chooser, quantize

pytestmark = [pytest.mark.slow, needs("mlx_lm")]

Toy = Callable[..., Path]
IDS = np.random.default_rng(0).integers(0, 300, 80).tolist()
CHUNKS = [50, 30]


def made(toy: Toy, family: str, scheme: str, folder: Path) -> Model:
    model = quantize(huggingface.read(toy(family)), chooser(scheme))
    stream.write(model, {"mlx": form.plan(model)}, {"mlx": folder})
    return model


@contextmanager
def opened(folder: Path, proof: bool = False, context: int = 4096) -> Iterator[Session]:
    session = engine.open(folder, Options(proof=proof, device="cpu", context=context))
    try:
        yield session
    finally:
        session.close()


@pytest.mark.parametrize(
    ("family", "scheme"),
    [("llama", "q4"), ("qwen2", "q8"), ("qwen3", "q4a"), ("mistral", "bf16"), ("qwen3", "f16"), ("llama", "f32")],
)
def test_computes_what_the_reference_computes(toy: Toy, tmp_path: Path, family: str, scheme: str) -> None:
    expected = Reference(made(toy, family, scheme, tmp_path)).logits(IDS)
    with opened(tmp_path, proof=True) as session:
        assert session.effective["activations"] == "float32"
        actual = session.logits(IDS, CHUNKS)
        assert actual.dtype == np.float32 and actual.shape == expected.shape
        assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)
    with opened(tmp_path) as session:
        wanted = {"q4a": "float16", "f16": "float16", "f32": "float32"}.get(scheme, "bfloat16")
        assert session.effective["activations"] == wanted
        actual = session.logits(IDS, CHUNKS)
        assert np.linalg.norm(actual - expected) < 0.15 * np.linalg.norm(expected)


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
        warm = Sampling(max_tokens=12, temperature=1.5, top_k=0, seed=3)
        assert list(session.generate(IDS[:8], warm)) == list(session.generate(IDS[:8], warm)) != greedy
        for ids, chunks in (([], []), ([10**6], [1]), (IDS, [80]), (IDS[:4], [3]), (IDS[:4], [4, 0])):
            with pytest.raises(UsageError):
                session.logits(ids, chunks)


@contextmanager
def flowing(folder: Path, **options: Any) -> Iterator[tuple[engine.Session, Flow]]:
    session = engine.Session(folder, Options(proof=True, device="cpu", context=200, parallel=4, reuse=True, **options))
    flow = session.flow()
    try:
        yield session, flow
    finally:
        flow.close()
        session.close()


def told(flow: Flow, *asked: tuple[Sequence[int], Sampling]) -> list[tuple[str, int | None]]:
    """The text of each answer, and what was not computed of its prompt."""
    texts, cached, over = [""] * len(asked), dict[int, int | None](), set[int]()
    for which, (ids, sampling) in enumerate(asked):
        flow.add(which, ids, sampling)
    while len(over) < len(asked):
        for one in flow.step():
            texts[one.which] += one.text
            cached.setdefault(one.which, one.cached)
            if one.end is not None:
                over.add(one.which)
    assert flow.step() == []
    return [(text, cached[which]) for which, text in enumerate(texts)]


def test_a_seed_repeats_its_draws_in_company(toy: Toy, tmp_path: Path) -> None:
    made(toy, "qwen3", "q4", tmp_path)
    drawn = [Sampling(max_tokens=20, temperature=1.2, top_k=0, top_p=0.95, min_p=0.01, seed=seed) for seed in (7, 8, 9)]
    with flowing(tmp_path) as (session, flow):
        ((alone, _),) = told(flow, (IDS[:9], drawn[0]))
        together = told(flow, *[(IDS[start : start + 9], one) for start, one in zip((0, 20, 40), drawn, strict=True)])
        assert together[0][0] == alone and len({text for text, _ in together}) == 3
        assert session.decode(list(session.generate(IDS[:9], drawn[0]))) == alone


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_a_prompt_goes_on_where_an_answer_ended(toy: Toy, tmp_path: Path, family: str) -> None:
    """Past a sliding window too, and for several at once; of a prompt that is known whole, the last token is computed."""
    made(toy, family, "q8", tmp_path)
    short = Sampling(max_tokens=4)
    with flowing(tmp_path) as (session, flow):
        told(flow, (IDS[:60], short))
        kept = 60 + 4
        longer = IDS[:60] + list(session.generate(IDS[:60], short)) + IDS[60:70]
        expected = session.decode(list(session.generate(longer, short)))
        assert told(flow, *[(longer, short)] * 3) == [(expected, kept)] * 3
        ((again, cached),) = told(flow, (IDS[:60], short))
        assert again == session.decode(longer[60:64]) and cached == (59 if family == "qwen3" else 0)


def test_a_batch_that_broke_fails_those_in_it_alone(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(toy, "qwen3", "q4", tmp_path)
    with flowing(tmp_path) as (_, flow):
        expected = told(flow, (IDS[:9], Sampling(max_tokens=4)))
        flow.add(5, IDS[:20], Sampling(max_tokens=9))
        with monkeypatch.context() as broken:
            batches = importlib.import_module("mlx_lm.generate").BatchGenerator
            broken.setattr(batches, "next", lambda batch: 1 / 0)
            with pytest.raises(EngineFailed, match="mlx-lm stopped: ZeroDivisionError"):
                flow.step()
        assert flow.step() == []
        assert told(flow, (IDS[:9], Sampling(max_tokens=4)))[0][0] == expected[0][0]


def test_a_constraint_that_becomes_too_much_fails_alone(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(toy, "qwen3", "q4", tmp_path)
    plain, bound = Sampling(max_tokens=9), Sampling(max_tokens=9, constraint=Constraint("regex", "[a-z0-9]{40}"))
    with flowing(tmp_path) as (session, flow):
        ((expected, _),) = told(flow, (IDS[:9], plain))
        allowed = _masks.Mask.allowed

        def limited(mask: _masks.Mask, made: Sequence[int]) -> Any:
            if len(made) > 3:
                raise UsageError("the constraint cannot be kept to: too complex")
            return allowed(mask, made)

        monkeypatch.setattr(_masks.Mask, "allowed", limited)
        flow.add(0, IDS[:9], plain)
        flow.add(1, IDS[:9], bound)
        news = [one for _ in range(30) for one in flow.step()]
        assert [one.which for one in news if one.error is not None] == [1] and news[-1].which == 0
        assert "".join(one.text for one in news if one.which == 0) == expected
        with pytest.raises(UsageError, match="too complex"):
            list(session.generate(IDS[:9], bound))


def test_keys_and_values_as_codes_take_turns(toy: Toy, tmp_path: Path) -> None:
    made(toy, "qwen3", "q4", tmp_path)
    short = Sampling(max_tokens=4)
    with flowing(tmp_path, kv="q8") as (session, flow):
        assert isinstance(flow, _flow.Turns)
        expected = [session.decode(list(session.generate(IDS[start : start + 9], short))) for start in (0, 20)]
        assert [text for text, _ in told(flow, (IDS[:9], short), (IDS[20:29], short))] == expected


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
    config = tmp_path / "config.json"
    config.write_bytes(config.read_bytes().replace(b'"num_hidden_layers": 3', b'"num_hidden_layers": 2'))
    with pytest.raises(EngineFailed, match="mlx-lm"):
        engine.open(tmp_path, Options(device="cpu"))
