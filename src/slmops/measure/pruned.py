"""What a pruned model keeps of its source, on a text that each reads in its own tokens; by the reference interpreter.

Where the vocabulary was pruned, a word whose token is gone is spelled in several. So the two are compared wherever both have
come to the same place of the text: divergences over the tokens that both have, the source's distribution renormalised to
them; losses of whatever lies between two such places, for a token of the source. Of a kept token the source's loss is
renormalised too: having fewer tokens to choose from counts for nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.core.tensor import Array, Floats
from slmops.measure import statistics
from slmops.measure.quality import Quality, windows
from slmops.ops.numpy import Reference, log_softmax
from slmops.passes import prune_vocabulary


@dataclass(frozen=True)
class Kept:
    """What is left, and how often the text needs a token that is gone."""

    quality: Quality
    spelled: float
    """Share of the source's tokens of the text that the pruned model has not."""


@dataclass
class _Window:
    kl: Floats
    agreed: Array
    loss: float
    reference_loss: float
    predicted: int
    """Tokens of the source between the first place and the last."""


def compare(
    source: Model,
    pruned: Model,
    kept: Array | None,
    content: str,
    window: int,
    most: int,
    say: Callable[[str], None] = lambda _: None,
) -> Kept:
    """Both models on windows of `window` of the source's tokens, at most `most` of them.

    kept: the source's id of each of the pruned model's; None where the vocabulary is the same. Raises UsageError for a text
    of too few tokens.
    """
    own = np.array(source.tokenizer.encoder.encode(content, add_special_tokens=False).ids, np.int64)
    theirs, mine, sizes = own, np.arange(source.spec.vocab), np.ones(source.spec.vocab, np.int64)
    if kept is not None:
        theirs, mine = np.array(pruned.tokenizer.encoder.encode(content, add_special_tokens=False).ids, np.int64), kept
        for one, width in prune_vocabulary.widths(source.tokenizer).items():
            sizes[one] = width
    cut = windows(own.tolist(), min(window, source.spec.context), most)
    if not cut or len(cut[0]) < 2:
        raise UsageError("the part of the text to measure on has fewer than two tokens", "give a longer text")
    number = {int(old): new for new, old in enumerate(mine)}
    ends = np.cumsum(sizes[own]), np.cumsum(sizes[mine[theirs]])
    references, found, start = (Reference(source), Reference(pruned)), [], 0
    for at, ids in enumerate(cut):
        say(f"the source and the pruned model beside each other: window {at + 1} of {len(cut)}")
        stop = start + len(ids)
        first = int(np.searchsorted(ends[1], ends[0][start - 1], "right")) if start else 0
        last = min(int(np.searchsorted(ends[1], ends[0][stop - 1], "right")), first + pruned.spec.context)
        _, *places = np.intersect1d(ends[0][start:stop], ends[1][first:last], return_indices=True)
        if len(places[0]) > 1:
            found.append(_window(references, (ids, theirs[first:last].tolist()), (places[0], places[1]), mine, number))
        start = stop
    if not found:
        raise UsageError("no window of the text can be compared", "give a longer text")
    return Kept(_quality(found), float(np.mean([one not in number for ids in cut for one in ids])))


def _window(
    references: tuple[Reference, Reference],
    ids: tuple[Sequence[int], Sequence[int]],
    places: tuple[Array, Array],
    mine: Array,
    number: dict[int, int],
) -> _Window:
    logits, q = references[0].logits(ids[0]), log_softmax(references[1].logits(ids[1]))
    whole, p = log_softmax(logits), log_softmax(logits[:, mine])
    both = p[places[0]], q[places[1]]
    kl = np.sum(np.exp(both[0]) * (both[0] - both[1]), axis=-1)
    losses = [
        -float(p[at - 1, number[one]] if one in number else whole[at - 1, one])
        for at, one in enumerate(ids[0])
        if places[0][0] < at <= places[0][-1]
    ]
    others = [-float(q[at - 1, one]) for at, one in enumerate(ids[1]) if places[1][0] < at <= places[1][-1]]
    return _Window(kl, both[0].argmax(-1) == both[1].argmax(-1), sum(others), sum(losses), len(losses))


def _quality(found: Sequence[_Window]) -> Quality:
    lengths = [len(one.kl) for one in found]
    kl, agreed = np.concatenate([one.kl for one in found]), np.concatenate([one.agreed for one in found])
    loss, known, predicted = (
        np.array([getattr(one, name) for one in found], np.float64) for name in ("loss", "reference_loss", "predicted")
    )
    perplexity = statistics.ratio(loss, predicted).through(math.exp)
    samples = int(predicted.sum())
    return Quality(
        kl=statistics.mean(kl, lengths),
        kl_median=float(np.median(kl)),
        kl_p999=statistics.quantile(kl, 0.999, lengths),
        top1=statistics.mean(agreed.astype(np.float64), lengths),
        perplexity=dataclasses.replace(perplexity, samples=samples),
        reference_perplexity=math.exp(float(known.sum() / predicted.sum())),
        retained=dataclasses.replace(statistics.ratio(known - loss, predicted).through(math.exp), samples=samples),
        bits_per_byte=None,
        positions=len(kl),
        windows=len(found),
    )
