"""A smaller model by leaving tokens, layers or channels out, and what it keeps of its source's quality on a text.

Two thirds of the text choose what goes; the rest measures what is left (measure/pruned.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmops import probes
from slmops.core.errors import CorruptInput, UsageError
from slmops.core.model import Model
from slmops.core.tensor import Array
from slmops.measure import gates, pruned, quality
from slmops.measure.gates import Verdict
from slmops.measure.pruned import Kept
from slmops.passes import prune_depth, prune_vocabulary, prune_width

WINDOW, WINDOWS = 256, 32
"""Tokens of a window, and how many are measured on at most."""
PIECES, HELD = 48, 3
"""The text is cut into so many pieces; every third is kept from choosing, to measure on."""


@dataclass(frozen=True)
class Wanted:
    """What is left out. Raises UsageError where that is nothing, or makes no sense."""

    vocabulary: bool = False
    """Keep the tokens that the text uses, and all bytes."""
    vocabulary_size: int = 0
    """The same, filled up to so many with the commonest others."""
    layers: int = 0
    """So many, those that are missed least."""
    width: float | None = None
    """Share of the MLPs' channels to keep."""
    tokens: int = 2048
    """That choose layers and channels."""
    quality: float = gates.QUALITY
    """Share of the source's quality to keep."""

    def __post_init__(self) -> None:
        if not (self.vocabulary or self.vocabulary_size or self.layers or self.width):
            raise UsageError("nothing is to be pruned", "give --vocabulary, --layers N or --width FRACTION")
        if self.vocabulary_size < 0 or self.tokens < 1:
            raise UsageError("a number of tokens below 1 makes no sense", "give more")
        if not 0 <= self.quality <= 1:
            raise UsageError(f"{self.quality:g} is no share of a quality", "give --min-quality from 0 to 1")


@dataclass(frozen=True)
class Pruned:
    """The smaller model, and how it stands beside its source."""

    model: Model
    found: Kept
    verdict: Verdict
    facts: dict[str, Any]
    """Sizes before and after, what was dropped, quality: as data for JSON."""


def prune(source: Model, content: str, wanted: Wanted, say: Callable[[str], None] = lambda _: None) -> Pruned:
    """Leave out, and measure what is left on the part of the text that nothing was chosen by. Raises UsageError."""
    choosing, measuring = split(content)
    small, kept, facts = _prune(source, choosing, wanted, say)
    found = pruned.compare(source, small, kept, measuring, WINDOW, WINDOWS, say)
    verdict = gates.at_least("quality", found.quality.retained, wanted.quality, "windows")
    facts |= _figures(source, small, found, verdict)
    said = {"retained": facts["quality"]["retained"], "kl": facts["quality"]["kl"], "said": verdict.said}
    return Pruned(dataclasses.replace(small, source={**small.source, "quality": said}), found, verdict, facts)


def split(content: str) -> tuple[str, str]:
    """What chooses, and what is measured on: pieces of about one length in turn, cut where a line ends if one does there."""
    step = max(1, len(content) // PIECES)
    parts: tuple[list[str], list[str]] = ([], [])
    start = number = 0
    while start < len(content):
        stop = min(len(content), start + step)
        line = content.find("\n", stop, stop + step)
        stop = line + 1 if line >= 0 else stop
        parts[number % HELD == HELD - 1].append(content[start:stop])
        start, number = stop, number + 1
    return "".join(parts[0]), "".join(parts[1])


def _prune(
    source: Model, text: str, wanted: Wanted, say: Callable[[str], None]
) -> tuple[Model, Array | None, dict[str, Any]]:
    """The pruned model, the ids of its tokens in the source where they are fewer, and what was done."""
    small, kept, facts = source, None, dict[str, Any]()
    if wanted.layers:
        gone = prune_depth.choose(source, _windows(source, text, wanted.tokens), wanted.layers, say)
        small = prune_depth.prune_depth(small, [layer for layer, _ in gone])
        facts["dropped"] = [{"layer": layer, "kl": kl} for layer, kl in gone]
    if wanted.width:
        width = prune_width.width(source.spec.intermediate, wanted.width)
        say("activations of the MLPs")
        scores = prune_width.importance(small, _windows(source, text, wanted.tokens))
        small = prune_width.prune_width(small, scores, width)
    if wanted.vocabulary or wanted.vocabulary_size:
        # Last, for the others choose by the source's ids.
        kept = prune_vocabulary.choose(small, text + _conversations(source), wanted.vocabulary_size)
        small = prune_vocabulary.prune_vocabulary(small, kept)
    return small, kept, facts


def _windows(model: Model, text: str, tokens: int) -> Array:
    length = min(WINDOW, model.spec.context)
    ids = model.tokenizer.encoder.encode(text, add_special_tokens=False).ids
    cut = quality.windows(ids, length, max(1, tokens // length))
    if len(cut[0] if cut else ()) < length:
        raise UsageError(f"the text has {len(ids)} tokens to choose by, and {length} are the least", "give a longer one")
    return np.array(cut, np.int64)


def _conversations(model: Model) -> str:
    """What the chat template says around any message: those tokens are always needed."""
    texts = []
    for messages in probes.CONVERSATIONS if model.chat_template is not None else ():
        try:
            texts.append(probes.conversation(model, messages))
        except CorruptInput:
            continue  # some templates refuse a system message
    return "\n".join(["", *texts])


def _figures(source: Model, small: Model, found: Kept, verdict: Verdict) -> dict[str, Any]:
    def sizes(name: str) -> list[int]:
        return [getattr(one.spec, name) for one in (source, small)]

    taken = dataclasses.asdict(found.quality)
    taken.pop("losses")
    return {
        "layers": sizes("layers"),
        "intermediate": sizes("intermediate"),
        "vocabulary": sizes("vocab"),
        "parameters": [source.parameters, small.parameters],
        "quality": taken,
        "spelled": found.spelled,
        "verdict": dataclasses.asdict(verdict),
    }
