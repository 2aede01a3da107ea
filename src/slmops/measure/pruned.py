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
    ids = source.tokenizer.encoder.encode(content, add_special_tokens=False)
    cut = windows(ids.ids, min(window, source.spec.context), most)
    if not cut or len(cut[0]) < 2:
        raise UsageError("the part of the text to measure on has fewer than two tokens", "give a longer text")
    mine = np.arange(source.spec.vocab) if kept is None else kept
    sizes = None if kept is None else prune_vocabulary.widths(source.tokenizer)
    number = {int(old): new for new, old in enumerate(mine)}
    references, found, start = (Reference(source), Reference(pruned)), [], 0
    for at, own in enumerate(cut):
        say(f"the source and the pruned model beside each other: window {at + 1} of {len(cut)}")
        theirs = [number.get(one, -1) for one in own]
        if sizes is not None and -1 in theirs:
            text = content[ids.offsets[start][0] : ids.offsets[start + len(own) - 1][1]]
            own = source.tokenizer.encoder.encode(text, add_special_tokens=False).ids
            theirs = pruned.tokenizer.encoder.encode(text, add_special_tokens=False).ids
        places = _places(own, [int(mine[one]) for one in theirs], sizes)
        start += len(cut[at])
        if len(theirs) <= pruned.spec.context and len(places[0]) > 1:
            found.append(_window(references, (own, theirs), places, mine, number))
    if not found:
        raise UsageError("no window of the text can be compared", "give a longer text")
    gone = [one not in number for own in cut for one in own]
    return Kept(_quality(found), float(np.mean(gone)))


def _places(own: Sequence[int], theirs: Sequence[int], sizes: dict[int, int] | None) -> tuple[Array, Array]:
    """Positions at which both have read as much of the text."""
    if sizes is None or own == theirs:
        return np.arange(len(own)), np.arange(len(theirs))
    ends = [np.cumsum([sizes[one] for one in ids]) for ids in (own, theirs)]
    _, first, second = np.intersect1d(ends[0], ends[1], return_indices=True)
    return first, second


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
