"""Speed of an artifact in its engine, as its owner sees it: tokens stamped as they arrive. One sequence at a time.

TTFT     seconds from the request to the first token, prefill included
ITL      seconds from one token to the next
TPOT     (last token's time - first token's time) / (tokens - 1), of one generation; decode is 1 / TPOT
prefill  prompt tokens / TTFT; llama-bench's pp, which leaves one sampled token out
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from slmops.engines import Sampling
from slmops.engines._host import Worker
from slmops.measure import statistics
from slmops.measure.statistics import Estimate

RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Speed:
    """Medians over the runs, after one that is not counted. Seconds, tokens a second, bytes."""

    first_token: float
    """TTFT."""
    decode: float
    """1 / TPOT."""
    prefill: float
    spread: float
    """(max - min) / median of decode over the runs."""
    prompt_tokens: int
    new_tokens: int
    runs: int
    decodes: tuple[float, ...] = ()
    """Decode of each run, in order."""
    first_tokens: tuple[float, ...] = ()
    """TTFT of each run, in order."""
    itl: tuple[float, float, float] = (float("nan"),) * 3
    """50th, 95th and 99th percentile of all runs' ITLs."""
    cores: float = float("nan")
    """Processor seconds of the engine for each second of the runs."""
    joules_per_token: float | None = None
    """Of the whole processor (RAPL), idle power included; None where the system does not tell."""


def measure(worker: Worker, ids: list[int], new_tokens: int = 64, runs: int = 3) -> Speed:
    """Greedy generation of `new_tokens` from `ids`, the end-of-text tokens ignored, `runs` times after a warm-up."""
    return together([worker], ids, new_tokens, runs)[0]


def together(workers: Sequence[Worker], ids: list[int], new_tokens: int = 64, runs: int = 3) -> list[Speed]:
    """The same of several, turn by turn, so that what else the machine does meets all alike; the order alternates."""
    found: list[list[_Run]] = [[] for _ in workers]
    for number in range(runs + 1):
        order = list(range(len(workers)))
        for place in order if number % 2 else reversed(order):
            one = _run(workers[place], ids, new_tokens)
            if number and one is not None:
                found[place].append(one)
    return [_summary(taken, len(ids)) for taken in found]


def ratio(first: Speed, other: Speed) -> Estimate:
    """The other's decoding speed over the first's, of runs that `together` took in pairs."""
    return statistics.paired(np.log(other.decodes), np.log(first.decodes)).through(math.exp)


@dataclass(frozen=True)
class _Run:
    stamps: list[float]
    seconds: float
    processor: float
    joules: float | None


def _run(worker: Worker, ids: list[int], new_tokens: int) -> _Run | None:
    energy, busy, began = joules(), _processor_seconds(worker.pid), time.perf_counter()
    stamps = [t.seconds for t in worker.generate(ids, Sampling(max_tokens=new_tokens)) if t.id is not None]
    seconds = time.perf_counter() - began
    after = joules()
    spent = after - energy if after is not None and energy is not None and after >= energy else None
    return _Run(stamps, seconds, _processor_seconds(worker.pid) - busy, spent) if len(stamps) > 1 else None


def _summary(taken: list[_Run], prompt: int) -> Speed:
    if not taken:
        nan = float("nan")
        return Speed(nan, nan, nan, nan, prompt, 0, 0)
    decodes = [(len(one.stamps) - 1) / max(one.stamps[-1] - one.stamps[0], 1e-9) for one in taken]
    first, decode = float(np.median([one.stamps[0] for one in taken])), float(np.median(decodes))
    between = np.concatenate([np.diff(one.stamps) for one in taken])
    made = sum(len(one.stamps) for one in taken)
    energies = [one.joules for one in taken if one.joules is not None]
    return Speed(
        first_token=first,
        decode=decode,
        prefill=prompt / first,
        spread=(max(decodes) - min(decodes)) / decode,
        prompt_tokens=prompt,
        new_tokens=round(made / len(taken)),
        runs=len(taken),
        decodes=tuple(decodes),
        first_tokens=tuple(one.stamps[0] for one in taken),
        itl=tuple(float(value) for value in np.quantile(between, (0.5, 0.95, 0.99))),  # type: ignore[arg-type]
        cores=sum(one.processor for one in taken) / sum(one.seconds for one in taken),
        joules_per_token=sum(energies) / made if len(energies) == len(taken) else None,
    )


def joules() -> float | None:
    """The energy counters of all processor packages (RAPL), in joules; None where there are none that may be read."""
    total, found = 0.0, False
    for zone in RAPL.glob("intel-rapl:?"):
        with contextlib.suppress(OSError, ValueError):
            total += int((zone / "energy_uj").read_text()) / 1e6
            found = True
    return total if found else None


def _processor_seconds(pid: int) -> float:
    """Of a worker and of the servers that it started."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))
    return 0.0
