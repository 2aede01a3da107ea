"""What a pruned model keeps, beside figures computed by hand from both models' logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.measure import pruned
from slmops.ops.numpy import Reference
from slmops.passes import prune_depth, prune_vocabulary
from slmops.source import load

Toy = Callable[..., Path]
TEXT = "Please set the kitchen light to thirty percent, and turn the heater on. " * 8


def logs(model: Model, ids: list[int]) -> np.ndarray:
    logits = Reference(model).logits(ids).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def without(model: Model, piece: str) -> tuple[Model, np.ndarray]:
    """The model without the token of this text."""
    gone = {model.tokenizer.encoder.token_to_id(piece)}
    assert None not in gone
    kept = np.array([one for one in range(model.tokenizer.encoder.get_vocab_size()) if one not in gone])
    return prune_vocabulary.prune_vocabulary(model, kept), kept


@pytest.mark.slow
def test_all_of_the_quality_where_only_tokens_are_gone_that_the_text_has_not(sample: Path) -> None:
    model = load(sample)
    kept = prune_vocabulary.choose(model, TEXT)
    found = pruned.compare(model, prune_vocabulary.prune_vocabulary(model, kept), kept, TEXT, 32, 5)
    assert found.spelled == 0 and found.quality.windows == 5 and found.quality.positions == 160
    assert found.quality.retained.value == pytest.approx(1, abs=1e-5) and found.quality.kl.value < 1e-6
    assert found.quality.top1.value == 1


@pytest.mark.slow
def test_divergence_of_fewer_layers_by_hand(toy: Toy) -> None:
    """Over all tokens; and over the kept ones, the source's distribution renormalised."""
    model = load(toy("qwen3"))
    ids = model.tokenizer.encoder.encode(TEXT).ids[:96]
    short = prune_depth.prune_depth(model, [1])
    found = pruned.compare(model, short, None, TEXT, 48, 2).quality
    halves = [(logs(model, part), logs(short, part), part) for part in (ids[:48], ids[48:])]
    kl = np.mean([(np.exp(p) * (p - q)).sum(-1) for p, q, _ in halves])
    assert found.kl.value == pytest.approx(kl, rel=1e-4) and found.windows == 2
    losses = [[-one[np.arange(47), part[1:]].mean() for one in (p, q)] for p, q, part in halves]
    assert found.retained.value == pytest.approx(math.exp(np.mean([a - b for a, b in losses])), rel=1e-4)
    assert found.perplexity.value == pytest.approx(math.exp(np.mean([b for _, b in losses])), rel=1e-4)

    both, kept = without(short, "qu")
    whole = logs(model, ids[:48])[:, kept]
    whole -= np.log(np.exp(whole).sum(-1, keepdims=True))
    assert not set(ids[:48]) - set(kept.tolist())
    number = {int(one): at for at, one in enumerate(kept)}
    q = logs(both, [number[one] for one in ids[:48]])
    found = pruned.compare(model, both, kept, TEXT, 48, 1).quality
    assert found.kl.value == pytest.approx((np.exp(whole) * (whole - q)).sum(-1).mean(), rel=1e-4)


def test_a_word_that_is_gone_is_spelled_and_its_pieces_count_together(sample: Path) -> None:
    model = load(sample)
    text = "set the kitchen light to thirty percent"
    pieces = model.tokenizer.encoder.encode(text).tokens
    small, kept = without(model, max(pieces[1:], key=len))
    own, theirs = (one.tokenizer.encoder.encode(text).ids for one in (model, small))
    assert len(theirs) > len(own)
    number = {int(one): at for at, one in enumerate(kept)}
    found = pruned.compare(model, small, kept, text, 64, 1)
    assert found.spelled == pytest.approx(1 / len(own))
    p, q = logs(model, own), logs(small, theirs)
    over = p[:, kept] - np.log(np.exp(p[:, kept]).sum(-1, keepdims=True))
    known = [-(over[at - 1, number[one]] if one in number else p[at - 1, one]) for at, one in enumerate(own) if at]
    loss = [-q[at - 1, one] for at, one in enumerate(theirs) if at]
    assert found.quality.retained.value == pytest.approx(math.exp((sum(known) - sum(loss)) / len(known)), rel=1e-4)
    assert found.quality.positions == len(own)  # every token of the source ends where one of the pieces does


def test_too_little_text(toy: Toy) -> None:
    model = load(toy("qwen3"))
    for text in ("", "x"):
        with pytest.raises(UsageError):
            pruned.compare(model, model, None, text, 32, 4)
