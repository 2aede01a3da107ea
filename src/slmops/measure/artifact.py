"""An artifact in its real engine, measured whole: quality against its source, tasks, speed, memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slmops import run
from slmops.core import plugins, receipt
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.measure import quality, speed, tasks
from slmops.measure.quality import Quality
from slmops.measure.speed import Speed
from slmops.measure.statistics import Estimate
from slmops.measure.tasks import Answers, Case

WINDOW, WINDOWS = 256, 32
PROMPT = 128
"""Tokens of the prompt that speed is measured with."""


class Text:
    """A text as windows of the source's tokens, and the source's own logits of them once somebody asks.

    Raises UsageError for a text of fewer than two tokens.
    """

    def __init__(self, model: Model, content: str, scratch: Path, window: int = WINDOW, most: int = WINDOWS) -> None:
        encoding = model.tokenizer.encoder.encode(content, add_special_tokens=False)
        self.windows = quality.windows(encoding.ids, min(window, model.spec.context), most)
        if not self.windows or len(self.windows[0]) < 2:
            raise UsageError("the text has fewer than two tokens", "give a longer one")
        self._model, self._scratch = model, scratch
        self.sizes: list[int] = []
        """Bytes that the predicted tokens of each window stand for."""
        start = 0
        for ids in self.windows:
            first, last = encoding.offsets[start + 1][0], encoding.offsets[start + len(ids) - 1][1]
            self.sizes.append(max(1, len(content[first:last].encode())))
            start += len(ids)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the windows."""
        return hashlib.sha256(repr(self.windows).encode()).hexdigest()

    @functools.cached_property
    def reference(self) -> Path:
        """A .npy file of the source's logits (the reference interpreter, all in f32)."""
        path = self._scratch / "reference.npy"
        quality.reference_logits(self._model, self.windows, path)
        return path


@dataclass(frozen=True)
class Measured:
    """What an artifact is worth and what it costs, in one engine."""

    folder: str
    format: str
    scheme: str
    engine: str
    bytes: int
    quality: Quality | None
    answers: Answers | None
    speed: Speed | None
    peak: int
    """Bytes resident at most, of the engine's process."""
    empty: int
    """The same before the model did anything: the process with the model opened."""
    load: float
    """Seconds from the start of the process until the model could be asked."""
    base: int = 0
    """Bytes of the engine's process without a model (its FOOTPRINT)."""
    filled: int = 0
    """Tokens that the KV cache held at most."""
    reserved: int = 0
    """Tokens that the engine was opened for."""
    effective: dict[str, str] = field(default_factory=dict)


def measure(
    folder: Path,
    engine: str | None = None,
    *,
    text: Text | None = None,
    cases: Sequence[Case] = (),
    seconds: float = 60.0,
    new_tokens: int = 64,
    runs: int = 3,
    context: int = 1024,
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Open an artifact in an engine (the preferred one by default) and take all its figures.

    context: tokens that it is opened for; more where the text needs more, and no more than the model has.
    """
    artifact = run.Artifact.open(folder)
    name = run.choose_engine(artifact.format, engine)
    can = plugins.load("engines", name).CAN
    facts = receipt.load(folder) if (folder / receipt.NAME).is_file() else {}
    longest = max((len(ids) for ids in text.windows), default=0) if text is not None else 0
    context = min(artifact.context, max(context, longest, PROMPT + new_tokens))
    began = time.perf_counter()
    with run.open_worker(artifact, name, device=device, context=context) as worker:
        load, empty = time.perf_counter() - began, worker.memory()["resident"]
        found = answers = None
        if text is not None and "logits" in can:
            say(f"{artifact.format} in {name}: quality on {sum(map(len, text.windows)):,} tokens")
            found = quality.against_reference(worker, text.windows, text.reference, text.sizes)
        if cases:
            say(f"{artifact.format} in {name}: {len(cases)} cases")
            answers = tasks.answer(worker, artifact, cases, seconds=seconds)
        say(f"{artifact.format} in {name}: speed")
        prompt = (text.windows[0] * (PROMPT // len(text.windows[0]) + 1))[:PROMPT] if text is not None else [5] * PROMPT
        prompt = prompt[: max(1, context - new_tokens)]
        taken = speed.measure(worker, prompt, new_tokens, runs)
        return Measured(
            folder=str(folder),
            format=artifact.format,
            scheme=str(facts.get("scheme", "")),
            engine=name,
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            quality=found,
            answers=answers,
            speed=taken,
            peak=worker.memory()["peak"],
            empty=empty,
            load=load,
            base=plugins.load("engines", name).FOOTPRINT.base,
            filled=max(longest, len(prompt) + new_tokens),
            reserved=context,
            effective=worker.effective,
        )


def race(first: Measured, other: Measured, rounds: int = 5, new_tokens: int = 64, device: str = "auto") -> Estimate | None:
    """The other's decoding speed over the first's, both open at once and timed turn by turn; None where both do not fit."""
    if first.peak + other.peak > psutil.virtual_memory().available:
        return None
    with contextlib.ExitStack() as both:
        workers = []
        for one in (first, other):
            opened = run.Artifact.open(Path(one.folder))
            workers.append(both.enter_context(run.open_worker(opened, one.engine, device=device, context=one.reserved)))
        prompt = [5] * min(PROMPT, min(first.reserved, other.reserved) - new_tokens)
        return speed.ratio(*speed.together(workers, prompt, new_tokens, rounds))


def facts(one: Measured) -> dict[str, object]:
    """As data for JSON: without the losses of every token."""
    kept = dataclasses.replace(one, quality=dataclasses.replace(one.quality, losses=())) if one.quality else one
    result = dataclasses.asdict(kept)
    if result["quality"]:
        result["quality"].pop("losses")
    return result
