"""Fewer tokens: the same pieces and logits where tokens are kept, every text still encoded, by tokenizers' own word."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from judges import transformers_logits, written
from slmops import compile as compiler
from slmops import probes
from slmops.core import plugins
from slmops.core.errors import Unsupported, UsageError
from slmops.core.model import Model, Tokenizer
from slmops.core.tensor import to_numpy
from slmops.formats import _tokenizer
from slmops.ops.numpy import Reference
from slmops.passes import prune_vocabulary
from slmops.passes.quantize import chooser, quantize
from slmops.source import load

Toy = Callable[..., Path]
DATA = Path(__file__).parent.parent / "data" / "tokenizers"
TEXT = "turn the kitchen light to thirty percent, then set a timer for ten minutes. Grüße aus Köln! " * 3
PROSE = probes.TEXT.replace("light", "lamp") + " Once upon a time there was a little girl; she liked 12 apples — très bien."


@pytest.fixture(autouse=True)
def every_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys' vocabularies are hardly larger than a multiple of the real step."""
    monkeypatch.setattr(prune_vocabulary, "MULTIPLE", 4)


def judged(before: Tokenizer, after: Tokenizer, kept: np.ndarray, texts: list[str]) -> int:
    """The library's ids of the written tokenizer.json beside the source's; returns how many texts had kept tokens alone."""
    old, new = (tokenizers.Tokenizer.from_str(one.json.decode()) for one in (before, after))
    number, same = {int(one): at for at, one in enumerate(kept)}, 0
    for text in texts:
        whole, ids = (one.encode(text, add_special_tokens=False).ids for one in (old, new))
        assert new.decode(ids, skip_special_tokens=False) == old.decode(whole, skip_special_tokens=False), text
        if all(one in number for one in whole):
            assert ids == [number[one] for one in whole], text
            same += 1
    return same


def words(tokenizer: Tokenizer, kept: np.ndarray, seed: int = 0) -> list[str]:
    """Texts of kept tokens, drawn at random: most of them come back as other tokens, some as those."""
    random = np.random.default_rng(seed)
    return [tokenizer.encoder.decode([int(random.choice(kept)) for _ in range(count)]) for count in [1, 2, 3, 5, 9] * 60]


def real(toy: Toy, kind: str, tmp_path: Path) -> Model:
    """A toy with a real tokenizer."""
    family, rows = {"phi3": ("phi3", 32064), "qwen2": ("qwen2", 151936), "tinystories-512": ("llama", 512)}[kind]
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = load(toy(family, vocab_size=rows, num_hidden_layers=1, **sizes))
    for file in (DATA / kind).iterdir():
        data = file.read_bytes()
        (tmp_path / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(data) if file.suffix == ".gz" else data)
    tokenizer = _tokenizer.read(tmp_path, {"vocab_size": rows}, {})
    assert tokenizer is not None
    return dataclasses.replace(model, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["tinystories-512", "phi3", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_real_tokenizers_keep_their_pieces_and_encode_everything(toy: Toy, tmp_path: Path, kind: str) -> None:
    model = real(toy, kind, tmp_path)
    kept = prune_vocabulary.choose(model, PROSE)
    pruned = prune_vocabulary.prune_vocabulary(model, kept)
    assert len(kept) < 0.9 * model.spec.vocab and pruned.tokenizer.sentencepiece is None
    golden = (DATA / "golden.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]
    texts = [PROSE, *PROSE.split(), *probes.TEXTS, *golden, *words(model.tokenizer, kept)]
    texts += [f"a{token}b" for token in probes.special_texts(model.tokenizer)]
    assert judged(model.tokenizer, pruned.tokenizer, kept, texts) > 60
    assert prune_vocabulary.choose(model, PROSE).tolist() == kept.tolist()


def test_filled_up_with_what_is_merged_first(sample: Path) -> None:
    model = load(sample)
    kept, more = (prune_vocabulary.choose(model, TEXT, least) for least in (0, 1000))
    assert len(more) == 1000 and set(kept) < set(more)
    filled = sorted(set(more.tolist()) - set(kept.tolist()))
    assert max(filled) < 1536 * 0.75 and len(prune_vocabulary.choose(model, TEXT, 10**6)) == 1536
    pruned = prune_vocabulary.prune_vocabulary(model, more)
    texts = [*TEXT.split(), *words(model.tokenizer, more)]
    assert judged(model.tokenizer, pruned.tokenizer, more, texts) > 60


@pytest.mark.slow
@pytest.mark.parametrize("family", plugins.names("architectures"))
def test_logits_of_kept_tokens_are_the_sources(toy: Toy, tmp_path: Path, family: str) -> None:
    """In transformers, which opens both folders; and in our reference."""
    folder = toy(family)
    model = load(folder)
    kept = prune_vocabulary.choose(model, "set a timer")
    assert len(kept) < 300
    pruned = prune_vocabulary.prune_vocabulary(model, kept)
    ids = np.random.default_rng(1).integers(0, len(kept), 80)
    expected = transformers_logits(folder, kept[ids].tolist())[:, kept]
    found = transformers_logits(written(pruned, tmp_path / "out"), ids.tolist())
    assert found.shape == (80, len(kept)) and np.allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    ours = Reference(pruned).logits(ids.tolist())
    assert np.allclose(ours, found, atol=1e-4 * np.abs(expected).max())
    back = load(tmp_path / "out")
    assert back.spec == pruned.spec and back.tokenizer.eos == pruned.tokenizer.eos
    assert back.spec.tied == model.spec.tied and ("head" in back.tensors) == ("head" in model.tensors)


def test_special_ids_follow(toy: Toy, tmp_path: Path) -> None:
    model = load(toy("qwen3"))
    document = json.loads(model.tokenizer.json)
    end, start = (model.tokenizer.encoder.token_to_id(f"<|im_{name}|>") for name in ("end", "start"))
    document["post_processor"] = _tokenizer.template(("<|im_start|>", start), ("<|im_end|>", end))
    settings = {**model.tokenizer.config, "bos_token": "<|im_start|>"}
    config = {**model.config, "bos_token_id": start, "pad_token_id": 5}
    generation = {"eos_token_id": [end, 319], "suppress_tokens": [5, 318], "max_new_tokens": 12}
    tokenizer = _tokenizer.finish(json.dumps(document).encode(), settings, config, generation)
    settings = {**tokenizer.config, "added_tokens_decoder": {str(end): {"content": "<|im_end|>"}}}
    model = dataclasses.replace(
        model, config=config, generation=generation, tokenizer=dataclasses.replace(tokenizer, eos=(end,), config=settings)
    )
    pruned = prune_vocabulary.prune_vocabulary(model, prune_vocabulary.choose(model, "x"))
    library = tokenizers.Tokenizer.from_str(pruned.tokenizer.json.decode())
    first, last = (library.token_to_id(f"<|im_{name}|>") for name in ("start", "end"))
    assert (pruned.tokenizer.bos, pruned.tokenizer.eos, pruned.tokenizer.adds_bos) == (first, (last,), True)
    assert library.encode("x").ids == [first, *library.encode("x", add_special_tokens=False).ids, last]
    fifth = library.token_to_id(model.tokenizer.encoder.id_to_token(5))
    assert (pruned.config["bos_token_id"], pruned.config["pad_token_id"]) == (first, fifth)
    # No row is left for 318 and 319, which no token had.
    assert pruned.generation == {"eos_token_id": [last], "suppress_tokens": [fifth], "max_new_tokens": 12}
    assert pruned.tokenizer.config["added_tokens_decoder"] == {str(last): {"content": "<|im_end|>"}}
    assert load(written(pruned, tmp_path / "out")).tokenizer.bos == first


def changed(model: Model, change: Callable[[dict[str, Any]], None]) -> Model:
    document = json.loads(model.tokenizer.json)
    change(document)
    return dataclasses.replace(model, tokenizer=dataclasses.replace(model.tokenizer, json=json.dumps(document).encode()))


def test_whole_words_that_no_merge_makes(toy: Toy) -> None:
    """Llama 3's ignore_merges takes them as they are; and merges may be spelled "a b"."""

    def change(document: dict[str, Any]) -> None:
        merges = document["model"]["merges"]
        document["model"]["merges"] = [" ".join(merge) for merge in merges if "".join(merge) != "Ġthe"]
        document["model"]["ignore_merges"] = True

    model = changed(load(toy("llama")), change)
    kept = prune_vocabulary.choose(model, " the light")
    assert model.tokenizer.encoder.token_to_id("Ġthe") in kept
    pruned = prune_vocabulary.prune_vocabulary(model, kept)
    assert judged(model.tokenizer, pruned.tokenizer, kept, [" the light", " the", "other things", *probes.TEXTS]) >= 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(model={"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}), "Unigram"),
        (lambda d: d.update(pre_tokenizer=None, decoder=None), "neither byte-level"),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda d: d["model"].update(dropout=0.5), "dropout"),
    ],
)
def test_other_tokenizers_are_refused_by_name(toy: Toy, change: Callable[[dict[str, Any]], None], said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        prune_vocabulary.choose(changed(load(toy("qwen3")), change), "a")


def test_what_makes_no_sense(toy: Toy) -> None:
    model = load(toy("qwen3"))
    with pytest.raises(UsageError, match="no tokens"):
        prune_vocabulary.choose(model, "")
    with pytest.raises(Unsupported, match="quantized already"):
        prune_vocabulary.choose(quantize(model, chooser("q4")), "a")
    with pytest.raises(Unsupported, match="bad_words_ids"):
        prune_vocabulary.choose(dataclasses.replace(model, generation={"bad_words_ids": [[3]]}), "a")


def test_rows_are_gathered_block_by_block(toy: Toy) -> None:
    model = load(toy("mistral"))
    kept = np.array([*range(0, 7), 9, 30, *range(100, 120), 318])
    pruned = dataclasses.replace(model, spec=dataclasses.replace(model.spec, vocab=len(kept)))
    small = prune_vocabulary._prune.resized(
        model, pruned.spec, {**model.config, "vocab_size": len(kept)}, model.spec.vocab, lambda role: kept
    )
    for role in ("embedding", "head"):
        whole = to_numpy(model.tensors[role])
        assert (to_numpy(small.tensors[role]) == whole[kept]).all()
        for start, stop in ((0, 3), (5, 9), (6, 8), (20, 30)):
            assert (small.tensors[role].rows(start, stop).astype("f4") == whole[kept[start:stop]]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "phi3"])
def test_every_engine_tokenizes_and_computes_the_same(toy: Toy, sample: Path, tmp_path: Path, kind: str) -> None:
    """Byte-level and byte fallback, in the real engines' own tokenizers: the existing proof."""
    model = load(sample) if kind == "sample" else real(toy, kind, tmp_path)
    kept = prune_vocabulary.choose(model, PROSE, 300)
    pruned = prune_vocabulary.prune_vocabulary(model, kept)
    for made in compiler.convert(pruned, ["gguf", "onnx", "openvino", "huggingface"], "q8", tmp_path / "out"):
        assert made.failure is None, made.failure
        assert made.receipt["verification"]["engines"], made.receipt["verification"]["skipped"]
