"""Prune: a smaller model by leaving tokens, layers or channels out, held against its source before it is written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops import compile as compiler
from slmops import probes
from slmops.compile import Converted, Watch
from slmops.core import receipt, store
from slmops.core.errors import CorruptInput, UsageError
from slmops.core.model import Model
from slmops.core.tensor import Array
from slmops.measure import gates, pruned, quality
from slmops.measure.gates import Verdict
from slmops.measure.pruned import Kept
from slmops.passes import calibrate, prune_depth, prune_vocabulary, prune_width

WINDOW, WINDOWS = 256, 32
"""Tokens of a window, and how many are measured on at most."""
PIECES, HELD = 48, 3
"""The text is cut into so many pieces; every third is kept from choosing, to measure on."""


@dataclass(frozen=True)
class Cut:
    """What is to go, and what must stay."""

    layers: int = 0
    """How many are dropped: those that are missed least."""
    width: float | None = None
    """Of the MLPs' channels, the share to keep."""
    vocabulary: bool = False
    """Keep the tokens that the text uses, and all bytes."""
    vocabulary_size: int = 0
    """The same, filled up to so many with the commonest others."""
    tokens: int = 2048
    """Of the text that choose layers and channels."""
    least: float = gates.QUALITY
    """Share of the source's quality below which nothing is written."""

    def check(self) -> None:
        """Raises UsageError for a cut that makes no sense."""
        if not (self.vocabulary or self.vocabulary_size or self.layers or self.width):
            raise UsageError("nothing is to be pruned", "give --vocabulary, --layers N or --width FRACTION")
        if self.vocabulary_size < 0 or self.tokens < 1:
            raise UsageError("a number of tokens below 1 makes no sense", "give more")
        if not 0 <= self.least <= 1:
            raise UsageError(f"{self.least:g} is no share of a quality", "give --min-quality from 0 to 1")


@dataclass(frozen=True)
class Pruned:
    """What came of it."""

    source: Model
    model: Model
    dropped: tuple[tuple[int, float], ...]
    """Layers in the order in which they went, each with the KL divergence (nats a token) once it was gone too."""
    kept: Kept
    """Of the source's quality, on the part of the text that nothing was chosen by."""
    verdict: Verdict
    made: Converted | None
    """None where the verdict stops it."""


def prune(
    source: Model,
    text: Path,
    cut: Cut,
    out: Path,
    *,
    verify: bool = True,
    replace: bool = False,
    watch: Watch | None = None,
) -> Pruned:
    """Prune `source` by a text of its own domain, and write a plain Hugging Face folder to `out` if it keeps enough.

    verify: read back what was written, and open it in its engine. Raises UsageError, OutputExists, Unsupported (codes,
    tokenizers that cannot be cut), CorruptInput.
    """
    cut.check()
    watch = watch or Watch()
    if not replace and not (out / receipt.NAME).is_file():
        store.refuse_existing(out)
    choosing, measuring = split(calibrate.read(text, functools.partial(probes.conversation, source)))
    small, ids, dropped = _cut(source, choosing, cut, watch.say)
    found = pruned.compare(source, small, ids, measuring, WINDOW, WINDOWS, watch.say)
    verdict = gates.at_least("quality", found.quality.retained, cut.least, "windows")
    said = {
        "retained": dataclasses.asdict(found.quality.retained),
        "kl": dataclasses.asdict(found.quality.kl),
        "said": verdict.said,
    }
    small = dataclasses.replace(small, source={**small.source, "quality": said})
    made = None
    if not verdict.stops:
        (made,) = compiler.convert(small, ["huggingface"], compiler.KEEP, out, verify=verify, replace=replace, watch=watch)
    return Pruned(source, small, tuple(dropped), found, verdict, made)


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


def _cut(
    source: Model, text: str, cut: Cut, say: Callable[[str], None]
) -> tuple[Model, Array | None, list[tuple[int, float]]]:
    """The pruned model, the ids of its tokens in the source where they are fewer, and the layers that went."""
    small, kept, gone = source, None, list[tuple[int, float]]()
    if cut.layers:
        gone = prune_depth.choose(source, _windows(source, text, cut.tokens), cut.layers, say)
        small = prune_depth.prune_depth(small, [layer for layer, _ in gone])
    if cut.width:
        width = prune_width.width(source.spec.intermediate, cut.width)
        say("activations of the MLPs")
        scores = prune_width.importance(small, _windows(source, text, cut.tokens))
        small = prune_width.prune_width(small, scores, width)
    if cut.vocabulary or cut.vocabulary_size:
        # Last, for the others choose by the source's ids.
        kept = prune_vocabulary.choose(small, text + _conversations(source), cut.vocabulary_size)
        small = prune_vocabulary.prune_vocabulary(small, kept)
    return small, kept, gone


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
