"""The main job on the shipped sample: every format at q4 and q8, each proven, measured and set side by side."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import compile as compiler
from slmops import prove, run
from slmops.core import plugins, store
from slmops.core.errors import SourceNotFound, VerificationFailed
from slmops.engines import Options, Sampling, _host, _installed
from slmops.measure import quality, speed, tasks
from slmops.source import load

SCHEMES = ("q4", "q8")
CASES, SECONDS = 120, 5.0
"""Tool calls that each artifact is asked at most, and for how long; the files hold more."""
WINDOW, WINDOWS = 128, 8
QUESTION = "please set the kitchen light to 30 percent"


@dataclass(frozen=True)
class Row:
    """One artifact in one engine; `missing` says why there is nothing to show."""

    format: str
    scheme: str
    engine: str
    bytes: int
    proof: float | None = None
    exact: tasks.Score | None = None
    quality: quality.Quality | None = None
    speed: speed.Speed | None = None
    peak: int = 0
    missing: str = ""
    folder: Path = Path()


@dataclass(frozen=True)
class Demo:
    """What the demo found."""

    rows: tuple[Row, ...]
    best: Row | None
    answer: str
    seconds: float
    failures: tuple[VerificationFailed, ...]


def sample() -> Path:
    """The shipped model: beside the source tree, or where the installed package put it."""
    places = (
        plugins.ROOT.parent.parent / "samples" / "home",
        Path(sys.prefix) / "share" / "slmops" / "samples" / "home",
        Path("samples") / "home",
    )
    for place in places:
        if (place / "model.safetensors").is_file():
            return place
    raise SourceNotFound("the sample model is not here", "run this in a clone of the repository, or install slmops again")


def play(out: Path, *, watch: compiler.Watch, formats: Sequence[str] | None = None, device: str = "auto") -> Demo:
    """Convert, prove, measure; `out` gets SCHEME/FORMAT folders (kept when they are there already)."""
    began = time.perf_counter()
    source = sample()
    model = load(source)
    rows: list[Row] = []
    failures: list[VerificationFailed] = []
    wanted = list(formats or compiler.writable(codes=True))
    writable = [name for name in wanted if (why := _unwritable(name)) is None or _note(rows, name, why)]
    with store.scratch("demo") as scratch:
        reference = scratch / "reference.npy"
        watch.say("computing the bf16 model's logits on the evaluation text")
        text = (source / "eval" / "text.txt").read_text(encoding="utf-8")
        ids = model.tokenizer.encoder.encode(text, add_special_tokens=False).ids
        sequences = quality.windows(ids, WINDOW, WINDOWS)
        quality.reference_logits(model, sequences, reference)
        cases = tasks.spread(tasks.read_cases(source / "eval" / "tools.jsonl"), CASES)
        for scheme in SCHEMES:
            watch.say(f"{scheme}: quantizing once, writing {', '.join(writable)}")
            for made in compiler.convert(model, writable, scheme, out / scheme, device=device, watch=watch):
                if made.failure is not None:
                    failures.append(made.failure)
                    rows.append(Row(made.format, scheme, "-", 0, missing=f"not published: {made.failure}"))
                    continue
                rows += _measure(made, scheme, sequences, reference, cases, device, watch.say)
    best = choose(rows)
    answer = ""
    if best is not None:
        watch.say(f"asking {best.format} {best.scheme} in {best.engine}")
        artifact = run.Artifact.open(best.folder)
        asked, most = artifact.prompt([{"role": "user", "content": QUESTION}]), Sampling(max_tokens=100)
        answer = "".join(run.generate(artifact, asked, Options(device=device), engine=best.engine, sampling=most))
    return Demo(tuple(rows), best, answer.strip(), time.perf_counter() - began, tuple(failures))


def _unwritable(form: str) -> str | None:
    """Why a format cannot even be written here (its writer's library lacks), or None."""
    needs = getattr(plugins.load("formats", form), "NEEDS_ENGINE", None)
    return None if needs is None or _installed.installed(needs) else _installed.install_command(needs)


def _note(rows: list[Row], form: str, why: str) -> bool:
    rows += [Row(form, scheme, "-", 0, missing=f"not installed: {why}") for scheme in SCHEMES]
    return False


def _measure(
    made: compiler.Converted,
    scheme: str,
    sequences: list[list[int]],
    reference: Path,
    cases: Sequence[tasks.Case],
    device: str,
    say: Callable[[str], None],
) -> list[Row]:
    size = sum(made.receipt["files"].values())
    found: dict[str, Any] = made.receipt["verification"]
    rows = []
    for engine in _installed.engines_for(made.format):
        if engine not in found["engines"]:
            reason = found["skipped"].get(engine, "not verified")
            if "logits" in plugins.load("engines", engine).CAN:
                rows.append(Row(made.format, scheme, engine, size, missing=reason, folder=made.folder))
            continue
        facts = found["engines"][engine]
        proof = facts["proof"]["relative_error"] if isinstance(facts.get("proof"), dict) else None
        if prove.emulated(engine):
            why = "proven; not measured, its CPU back end here is a stand-in for Apple silicon"
            rows.append(Row(made.format, scheme, engine, size, proof=proof, missing=why, folder=made.folder))
            continue
        say(f"{scheme}: measuring {made.format} in {engine}")
        artifact = run.Artifact.open(made.folder)
        with run.open_worker(artifact, engine, Options(device=device, context=512)) as worker:
            can = plugins.load("engines", engine).CAN
            prompt = run.tokens_of(worker, artifact, artifact.prompt(cases[0].messages))
            rows.append(
                Row(
                    made.format,
                    scheme,
                    engine,
                    size,
                    proof=proof,
                    speed=speed.measure(worker, prompt),
                    exact=tasks.exact_match(worker, artifact, cases, seconds=SECONDS)["all"],
                    quality=_quality(worker, sequences, reference) if "logits" in can else None,
                    peak=worker.memory()["peak"],
                    folder=made.folder,
                )
            )
    return rows


def _quality(worker: _host.Worker, sequences: list[list[int]], reference: Path) -> quality.Quality:
    return dataclasses.replace(quality.against_reference(worker, sequences, reference), losses=())


def choose(rows: Sequence[Row]) -> Row | None:
    """The fastest in decoding among those whose exact match lies within the best one's 95 % interval."""
    able = [row for row in rows if row.exact is not None and row.speed is not None]
    if not able:
        return None
    floor = max(row.exact.rate for row in able if row.exact)
    floor = min(row.exact.interval[0] for row in able if row.exact and row.exact.rate == floor)
    kept = [row for row in able if row.exact and row.exact.rate >= floor]
    return max(kept, key=lambda row: row.speed.decode if row.speed else 0.0)
