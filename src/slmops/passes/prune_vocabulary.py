"""Keep the tokens that a domain uses, and a tokenizer that still encodes every text.

Of BPE alone, byte-level (GPT-2's kind) or with byte fallback (SentencePiece's kind in a tokenizer.json). Kept are the tokens
of a text, every added token, all bytes, and what merging passes through on the way to a kept token. The merges inside a
token's span are those of the token alone, for none crosses its ends; so a text whose tokens are all kept is merged through
the very same steps as before, and gives the same pieces. Any other text falls apart into smaller kept pieces, in the end
bytes.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported, UsageError
from slmops.core.model import Model, Tokenizer
from slmops.core.tensor import Array
from slmops.passes import _prune

MULTIPLE = 64
"""Rows are filled up to a multiple of it, as kernels like and zero points that are packed along the rows need."""
LONGEST = 1024
"""Characters of a token whose merges are followed, for the time goes with their square; the longest in use has 256."""
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
UNKNOWN_KEYS = ("bad_words_ids", "forced_decoder_ids", "sequence_bias")
"""Of a generation_config.json: token ids in forms that no decoder here comes with."""


def choose(model: Model, text: str, least: int = 0) -> Array:
    """The ids to keep for a text, ascending, int64; at least `least` of them, filled up with what is merged first, which the
    makers of the tokenizer met most often.

    Raises Unsupported for a tokenizer that is no BPE of the two kinds, UsageError for a text without a token.
    """
    _prune.refuse(model)
    pieces = Pieces(model.tokenizer, model.spec.vocab)
    used = model.tokenizer.encoder.encode(text, add_special_tokens=False).ids
    if not used:
        raise UsageError("the text has no tokens", "give a text of the model's own domain")
    kept = pieces.closed({*used, *pieces.always(), *_named(model)})
    wanted = -(-max(least, len(kept)) // MULTIPLE) * MULTIPLE
    for token in pieces.learned():
        if len(kept) >= wanted:
            break
        if token not in kept and len(more := pieces.closed({token}) - kept) == 1:
            kept |= more
    return np.array(sorted(kept), np.int64)


def prune_vocabulary(model: Model, kept: Array) -> Model:
    """The model with the rows of these ids (ascending, from `choose`), numbered anew in their old order.

    tokenizer.json, tokenizer_config.json and every special id follow; a tokenizer.model is left out, which would not.
    """
    _prune.refuse(model)
    number = {int(old): new for new, old in enumerate(kept)}
    spec = dataclasses.replace(model.spec, vocab=len(kept))
    config = {**_renumbered(model.config, number), "vocab_size": len(kept)}
    small = _prune.resized(model, spec, config, model.spec.vocab, lambda role: kept)
    tokenizer = _tokenizer(model.tokenizer, number)
    small = dataclasses.replace(small, tokenizer=tokenizer, generation=_renumbered(model.generation, number))
    return _prune.noted(small, f"{len(kept):,} of {model.spec.vocab:,} tokens kept", kept.tolist())


def widths(tokenizer: Tokenizer) -> dict[int, int]:
    """Id -> how much of a text it stands for, in bytes of its own spelling: the same sum however a text is cut."""
    spelled = _fallback(tokenizer.parsed)
    found = tokenizer.encoder.get_vocab(with_added_tokens=True)
    return {number: 1 if spelled and text in BYTES else len(text.encode()) for text, number in found.items()}


class Pieces:
    """The tokens of a BPE and how they are merged; ids from `rows` on have no embedding and do not count."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        document = tokenizer.parsed
        self._base = _base(document)
        self._vocab: Mapping[str, int] = document["model"]["vocab"]
        self._merges = _merges(document)
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}
        self._rows = rows
        self._added = {
            token.content: number for number, token in tokenizer.encoder.get_added_tokens_decoder().items() if number < rows
        }
        self._unknown = document["model"].get("unk_token")
        self._text = {number: text for text, number in self._vocab.items()}
        self._after: list[int] = []
        _processor(document.get("post_processor"), self._note)
        self._whole = {*self._added.values(), *(self._vocab.get(text) for text in self._base)}

    def _note(self, number: int) -> int:
        self._after.append(number)
        return number

    def always(self) -> Iterator[int]:
        """Ids that every tokenizer needs: added tokens, bytes, the unknown one, what is put around a text."""
        yield from self._added.values()
        for text in (*self._base, self._unknown):
            if text in self._vocab:
                yield self._vocab[text]
        yield from self._after

    def closed(self, ids: Collection[int]) -> set[int]:
        """The ids, and all that merging passes through on the way to them; ids without a row are left out."""
        found = {number for number in ids if 0 <= number < self._rows}
        for number in found - self._whole:
            steps = (self._vocab.get(step) for step in self._steps(self._text.get(number, "")))
            found.update(step for step in steps if step is not None and step < self._rows)
        return found

    def learned(self) -> Iterator[int]:
        """Tokens that merges make, in their order."""
        for left, right in self._merges:
            number = self._vocab.get(left + right)
            if number is not None and number < self._rows:
                yield number

    def _steps(self, token: str) -> Iterator[str]:
        """Every symbol that there is while the characters of a token are merged (tokenizers/src/models/bpe/word.rs)."""
        if len(token) > LONGEST:
            raise Unsupported(f"the tokenizer has a token of {len(token):,} characters", f"{LONGEST:,} are the most")
        symbols = list(token)
        yield from symbols
        while len(symbols) > 1:
            ranked = [(self._ranks.get(pair, len(self._ranks)), at) for at, pair in enumerate(itertools.pairwise(symbols))]
            rank, at = min(ranked)
            if rank == len(self._ranks):
                return
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            yield symbols[at]


def _fallback(document: Mapping[str, Any]) -> bool:
    return bool(document["model"].get("byte_fallback"))


def _base(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The tokens that any text can be spelled in. Raises Unsupported, by name, where there is no such thing."""
    import tokenizers

    model, cure = document["model"], "vocabularies of byte-level BPE and of BPE with byte fallback can be pruned"
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise Unsupported(f"the tokenizer is {kind}, whose tokens are not made by merges", cure)
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise Unsupported(f"the tokenizer's BPE has a {key}", cure)
    if _fallback(document):
        return BYTES
    pre = document.get("pre_tokenizer") or {}
    if not any(stage.get("type") == "ByteLevel" for stage in pre.get("pretokenizers", [pre])):
        raise Unsupported("the tokenizer's BPE is neither byte-level nor falls back to bytes", cure)
    return tuple(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def _merges(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """In both spellings: "a b" and ["a", "b"]."""
    found = []
    for merge in document["model"]["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2:
            raise CorruptInput(f"tokenizer.json has the merge {str(merge)[:60]!r}, which is not of two tokens")
        found.append((pair[0], pair[1]))
    return found


def _named(model: Model) -> set[int]:
    """Special ids of the tokenizer, config.json and generation_config.json that stand for a token."""
    found: set[int] = set()
    for facts in (model.config, model.generation):
        for key, value in facts.items():
            if key in UNKNOWN_KEYS and value:
                raise Unsupported(f"generation_config.json has {key}, whose ids are not renumbered", f"remove {key}")
            if _is_id(key):
                found.update(one for one in (value if isinstance(value, list) else [value]) if type(one) is int)
    tokenizer = model.tokenizer
    found.update(one for one in (tokenizer.bos, tokenizer.pad, *tokenizer.eos) if one is not None)
    return found & set(tokenizer.encoder.get_vocab(with_added_tokens=True).values())


def _is_id(key: str) -> bool:
    return key.endswith(("_token_id", "_token_ids")) or key in ("suppress_tokens", "begin_suppress_tokens")


def _renumbered(facts: Mapping[str, Any], number: Mapping[int, int]) -> dict[str, Any]:
    """The ids in a config under their new numbers; those whose row is gone are left out of lists, or become None."""
    result = dict(facts)
    for key, value in facts.items():
        if _is_id(key):
            listed = isinstance(value, list)
            new = [number[one] for one in (value if listed else [value]) if one in number]
            result[key] = new if listed else next(iter(new), None)
    return result


def _tokenizer(tokenizer: Tokenizer, number: Mapping[int, int]) -> Tokenizer:
    """The tokenizer of the kept ids. Raises Unsupported where the library would number its tokens otherwise."""
    document = dict(tokenizer.parsed)
    ids: Mapping[str, int] = tokenizer.encoder.get_vocab(with_added_tokens=True)
    vocab = {text: number[old] for text, old in document["model"]["vocab"].items() if old in number}
    pairs = _merges(document)
    merges = [
        merge
        for merge, (left, right) in zip(document["model"]["merges"], pairs, strict=True)
        if left in vocab and right in vocab and left + right in vocab
    ]
    document["model"] = {**document["model"], "vocab": vocab, "merges": merges}
    added = [
        {**entry, "id": number[ids[entry["content"]]]}
        for entry in document.get("added_tokens") or []
        if ids[entry["content"]] in number
    ]
    document["added_tokens"] = sorted(added, key=lambda entry: int(entry["id"]))
    document["post_processor"] = _processor(document.get("post_processor"), number.__getitem__)
    config = dict(tokenizer.config)
    if isinstance(table := config.get("added_tokens_decoder"), dict):
        config["added_tokens_decoder"] = {str(number[int(old)]): entry for old, entry in table.items() if int(old) in number}

    def new(old: int | None) -> int | None:
        return None if old is None else number.get(old)

    result = Tokenizer(
        json=json.dumps(document, ensure_ascii=False).encode(),
        config=config,
        bos=new(tokenizer.bos),
        eos=tuple(number[one] for one in tokenizer.eos if one in number),
        pad=new(tokenizer.pad),
        adds_bos=tokenizer.adds_bos,
    )
    expected = {text: number[old] for text, old in ids.items() if old in number}
    if result.encoder.get_vocab(with_added_tokens=True) != expected:
        raise Unsupported(
            "the tokenizer has added tokens that keep no place of their own once others are gone", "leave its vocabulary"
        )
    return result


def _processor(found: Any, number: Callable[[int], int]) -> Any:
    """A post-processor with its ids changed by `number`. Raises Unsupported for one of another kind."""
    if not found or (kind := found.get("type")) == "ByteLevel":
        return found
    if kind == "Sequence":
        return {**found, "processors": [_processor(one, number) for one in found["processors"]]}
    if kind == "TemplateProcessing":
        special = {
            name: {**token, "ids": [number(one) for one in token["ids"]]} for name, token in found["special_tokens"].items()
        }
        return {**found, "special_tokens": special}
    if kind in ("BertProcessing", "RobertaProcessing"):
        return {**found, **{key: [found[key][0], number(found[key][1])] for key in ("sep", "cls")}}
    raise Unsupported(f"the tokenizer's post-processor is {kind}, whose ids are not known", "leave its vocabulary")
