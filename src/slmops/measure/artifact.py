"""An artifact in its real engine, measured whole: quality against its source, tasks, speed, memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slmops import run
from slmops.core import plugins, receipt
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.measure import quality, speed, tasks
from slmops.measure.quality import Quality
from slmops.measure.speed import Speed
from slmops.measure.tasks import Answers, Case

WINDOW, WINDOWS = 256, 32
PROMPT = 128
"""Tokens of the prompt that speed is measured with."""


@dataclass(frozen=True)
class Text:
    """A text as windows of the source's tokens, with the source's own logits."""

    windows: list[list[int]]
    sizes: list[int]
    """Bytes that the predicted tokens of each window stand for."""
    reference: Path


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
    effective: dict[str, str] = field(default_factory=dict)


def text(model: Model, content: str, scratch: Path, window: int = WINDOW, most: int = WINDOWS) -> Text:
    """Cut a text into windows and compute the source's logits of them (the reference interpreter, all in f32)."""
    encoding = model.tokenizer.encoder.encode(content, add_special_tokens=False)
    length = min(window, model.spec.context)
    windows = quality.windows(encoding.ids, length, most)
    if not windows or len(windows[0]) < 2:
        raise UsageError("the text has fewer than two tokens", "give a longer one")
    offsets, start, sizes = encoding.offsets, 0, []
    for ids in windows:
        first, last = offsets[start + 1][0], offsets[start + len(ids) - 1][1]
        sizes.append(max(1, len(content[first:last].encode())))
        start += len(ids)
    reference = scratch / "reference.npy"
    quality.reference_logits(model, windows, reference)
    return Text(windows, sizes, reference)


def measure(
    folder: Path,
    engine: str | None = None,
    *,
    text: Text | None = None,
    cases: Sequence[Case] = (),
    seconds: float = 60.0,
    new_tokens: int = 64,
    runs: int = 3,
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Open an artifact in an engine (the preferred one by default) and take all its figures."""
    artifact = run.Artifact.open(folder)
    name = run.choose_engine(artifact.format, engine)
    can = plugins.load("engines", name).CAN
    facts = receipt.load(folder) if (folder / receipt.NAME).is_file() else {}
    longest = max((len(ids) for ids in text.windows), default=0) if text is not None else 0
    context = min(artifact.context, max(1024, longest, PROMPT + new_tokens))
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
        taken = speed.measure(worker, prompt[: max(1, context - new_tokens)], new_tokens, runs)
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
            effective=worker.effective,
        )


def facts(one: Measured) -> dict[str, object]:
    """As data for JSON: without the losses of every token."""
    kept = dataclasses.replace(one, quality=dataclasses.replace(one.quality, losses=())) if one.quality else one
    result = dataclasses.asdict(kept)
    if result["quality"]:
        result["quality"].pop("losses")
    return result
