"""An artifact in its real engine, measured whole: quality against its source, tasks, speed, memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from slmops import prove, run
from slmops.core import plugins, receipt
from slmops.core.errors import CorruptInput, EngineCrashed, EngineFailed, UsageError, VerificationFailed
from slmops.core.model import Model
from slmops.engines import Options
from slmops.engines._host import Worker
from slmops.measure import quality, speed, statistics, tasks
from slmops.measure import stress as stresses
from slmops.measure.quality import Quality
from slmops.measure.speed import Load, Speed
from slmops.measure.statistics import Estimate
from slmops.measure.stress import Stability, Stress
from slmops.measure.tasks import Answers, Case

WINDOW, WINDOWS = 256, 32
PROMPT = 128
"""Tokens of the prompt that speed is measured with."""
STABLE = 5.0
"""Seconds of a stability run, about."""


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
    kv: str = "auto"
    """Precision of the KV cache that was asked for."""
    effective: dict[str, str] = field(default_factory=dict)
    altered: str = ""
    """What is not as it was when the artifact was proven: files, codes and scales by their checksums, chat template."""
    concurrency: dict[str, Load] = field(default_factory=dict)
    """By the number of requests in flight."""
    stress: Stress | None = None
    stability: Stability | None = None
    """None with a `stress` whose engine did not live."""


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
    kv: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Open an artifact in an engine (the preferred one by default) and take all its figures.

    context: tokens that it is opened for; more where the text needs more, and no more than the model has.
    kv: precision of the KV cache. Raises UsageError for one that the engine does not have.
    """
    artifact = run.Artifact.open(folder)
    name = run.choose_engine(artifact.format, engine)
    can = plugins.load("engines", name).CAN
    facts = receipt.load(folder) if (folder / receipt.NAME).is_file() else {}
    longest = max((len(ids) for ids in text.windows), default=0) if text is not None else 0
    context = min(artifact.context, max(context, longest, PROMPT + new_tokens))
    began = time.perf_counter()
    with run.open_worker(artifact, name, Options(device=device, context=context, kv=kv)) as worker:
        load, empty = time.perf_counter() - began, worker.memory()["resident"]
        found = answers = None
        if text is not None and "logits" in can:
            say(f"{artifact.format} in {name}: quality on {sum(map(len, text.windows)):,} tokens")
            found = quality.against_reference(worker, text.windows, text.reference, text.sizes)
        if cases:
            say(f"{artifact.format} in {name}: {len(cases)} cases")
            answers = tasks.answer(worker, artifact, cases, seconds=seconds)
        say(f"{artifact.format} in {name}: speed")
        prompt = _prompt(text, PROMPT)[: max(1, context - new_tokens)]
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
            kv=kv,
            effective=worker.effective,
            altered=_altered(artifact.format, folder, facts) if facts else "",
        )


def _altered(form: str, folder: Path, facts: Mapping[str, Any]) -> str:
    """A tensor shifted by a tenth costs less quality than a gate allows for, so the checksums are asked too."""
    try:
        prove.check_files(folder, facts)
        prove.check_tensors(plugins.load("formats", form).read(folder), facts)
        prove.check_template(facts)
    except (CorruptInput, VerificationFailed) as error:
        return str(error)
    return ""


def _prompt(text: Text | None, length: int, start: int = 0) -> list[int]:
    """Tokens of an ordinary request: of the text from a window on, over and over."""
    if text is None:
        return [5] * length
    ids = text.windows[start % len(text.windows)]
    return (ids * (length // len(ids) + 1))[:length]


def _opened(one: Measured, device: str, context: int, parallel: int = 1) -> Worker:
    return run.open_worker(
        run.Artifact.open(Path(one.folder)),
        one.engine,
        Options(device=device, context=context, parallel=parallel, kv=one.kv),
    )


def endure(one: Measured, text: Text | None = None, seconds: float = STABLE, device: str = "auto") -> Measured:
    """The same with its stress and stability runs, in a process opened for as much context as it was measured with.

    seconds: of the stability run, about. Where that run's own times do not show that answers stay as fast, and both fit in
    memory, answers are timed beside a fresh process.
    """
    can = plugins.load("engines", one.engine).CAN
    prompt, vocab = _prompt(text, PROMPT), run.Artifact.open(Path(one.folder)).vocab
    shaken, steady = Stress(0, (), 0, 1, 0), None
    try:
        with _opened(one, device, one.reserved) as worker:
            shaken = stresses.stress(worker, prompt, vocab, one.reserved, logits="logits" in can)
            steady = stresses.stability(worker, prompt, one.reserved, seconds)
            if steady.slowdown.high > stresses.SLOWDOWN and 2 * one.peak < psutil.virtual_memory().available:
                with _opened(one, device, one.reserved) as fresh:
                    steady = stresses.beside(worker, fresh, prompt, steady)
        if "parallel" in can:
            # Of a context of its own: some engines take that of all requests at once.
            short = prompt[: max(1, min(PROMPT, one.reserved) - stresses.SHORT)]
            with _opened(one, device, len(short) + stresses.SHORT, stresses.AT_ONCE) as worker:
                shaken = stresses.at_once(worker, short, shaken)
    except (EngineCrashed, EngineFailed) as error:
        shaken = dataclasses.replace(shaken, faults=(*shaken.faults, str(error)))
    return dataclasses.replace(one, stress=shaken, stability=steady)


def under_load(
    one: Measured, levels: Sequence[int], text: Text | None = None, new_tokens: int = 32, device: str = "auto"
) -> Measured:
    """The same with its throughput and latency at so many requests in flight, of PROMPT tokens each.

    Raises UsageError for an engine that takes one request at a time.
    """
    length = max(1, min(PROMPT, one.reserved - new_tokens))
    prompts = [_prompt(text, length, start) for start in range(8)]
    context = min(one.reserved, length + new_tokens)
    with _opened(one, device, context, max(2, *levels)) as worker:
        found = {str(level): speed.under_load(worker, prompts, new_tokens, level) for level in levels}
    return dataclasses.replace(one, concurrency=found)


def race(first: Measured, other: Measured, rounds: int = 5, new_tokens: int = 64, device: str = "auto") -> Estimate | None:
    """The other's decoding speed over the first's, both open at once and timed turn by turn; None where both do not fit."""
    if first.peak + other.peak > psutil.virtual_memory().available:
        return None
    with contextlib.ExitStack() as both:
        workers = [both.enter_context(_opened(one, device, one.reserved)) for one in (first, other)]
        prompt = [5] * min(PROMPT, min(first.reserved, other.reserved) - new_tokens)
        return speed.ratio(*speed.together(workers, prompt, new_tokens, rounds))


def facts(one: Measured) -> dict[str, object]:
    """As data for JSON: without the losses of every token, with the share of cases that were answered as expected."""
    kept = dataclasses.replace(one, quality=dataclasses.replace(one.quality, losses=())) if one.quality else one
    result = dataclasses.asdict(kept)
    if result["quality"]:
        result["quality"].pop("losses")
    if one.answers:
        score = one.answers.score()
        result["answers"]["share"] = dataclasses.asdict(statistics.proportion(score.right, score.cases))
    return result
