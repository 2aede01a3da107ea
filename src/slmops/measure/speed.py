"""Speed of an artifact in its engine, as its owner sees it: tokens stamped as they arrive.

TTFT     seconds from the request to the first token, prefill included
ITL      seconds from one token to the next
TPOT     (last token's time - first token's time) / (tokens - 1), of one generation; decode is 1 / TPOT
prefill  prompt tokens / TTFT; llama-bench's pp, which leaves one sampled token out

One sequence at a time, but for `at_once`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
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
from slmops.measure.statistics import Estimate, Percentiles

RAPL = Path("/sys/class/powercap")
NOISY, BATCHES, PATIENCE = 0.25, 3, 60.0
"""A spread above which the runs are taken again, how often at most, and the seconds after which they are not."""
ROUNDS, PER_SLOT = 5, 4
"""Of a measurement at concurrency: how many, and requests for each one in flight."""


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
    itl: Percentiles | None = None
    """Of all runs' ITLs; a run is a cluster."""
    cores: float = float("nan")
    """Processor seconds of the engine for each second of the runs."""
    joules_per_token: float | None = None
    """Of the whole processor (RAPL), idle power included; None where the system does not tell."""
    batches: int = 1
    """How often all runs were taken, because they lay more than NOISY apart; the figures are of the steadiest batch."""


@dataclass(frozen=True)
class Load:
    """Several requests in flight, the next one made when one is done (a closed loop)."""

    at_once: int
    requests: int
    prompt_tokens: int
    new_tokens: int
    throughput: Estimate
    """Generated tokens a second of all requests together: the geometric mean of rounds."""
    first_token: Percentiles
    """TTFT of all requests, waiting for others' prefill included."""
    itl: Percentiles
    """Of all requests; a request is a cluster."""


def measure(worker: Worker, ids: list[int], new_tokens: int = 64, runs: int = 3) -> Speed:
    """Greedy generation of `new_tokens` from `ids`, the end-of-text tokens ignored, `runs` times after a warm-up.

    Where the runs lie further apart than NOISY, they are taken again: other work on the machine passes, an engine's own
    unsteadiness stays.
    """
    began, taken = time.perf_counter(), together([worker], ids, new_tokens, runs)
    while taken[-1].runs > 1 and min(one.spread for one in taken) > NOISY and len(taken) < BATCHES:
        if time.perf_counter() - began > PATIENCE * len(taken) / (len(taken) + 1):
            break
        taken += together([worker], ids, new_tokens, runs)
    return dataclasses.replace(min(taken, key=lambda one: one.spread), batches=len(taken))


def under_load(worker: Worker, prompts: Sequence[Sequence[int]], new_tokens: int, at_once: int) -> Load:
    """Rounds of PER_SLOT requests for each in flight, after one round of `at_once` that is not counted.

    prompts: of one length; they are taken in turn. The worker must be of an engine with "parallel" in CAN.
    """
    sampling = Sampling(max_tokens=new_tokens)
    turn = itertools.cycle(prompts)
    for _ in worker.serve(list(itertools.islice(turn, at_once)), sampling, at_once):
        pass
    rates: list[float] = []
    firsts: list[float] = []
    gaps: list[float] = []
    lengths: list[int] = []
    for _ in range(ROUNDS):
        stamps: dict[int, list[float]] = {}
        for which, count, seconds in worker.serve(list(itertools.islice(turn, PER_SLOT * at_once)), sampling, at_once):
            stamps.setdefault(which, []).extend([seconds] * max(1, count))
        made = sum(len(own) - 1 for own in stamps.values())
        rates.append(made / max(own[-1] for own in stamps.values()))
        for own in stamps.values():
            firsts.append(own[1] - own[0])
            gaps.extend(np.diff(own[1:]))
            lengths.append(len(own) - 2)
    return Load(
        at_once=at_once,
        requests=len(firsts),
        prompt_tokens=len(prompts[0]),
        new_tokens=new_tokens,
        throughput=statistics.mean(np.log(rates)).through(math.exp),
        first_token=statistics.percentiles(firsts),
        itl=statistics.percentiles(gaps, lengths),
    )


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
        itl=statistics.percentiles(between, [len(one.stamps) - 1 for one in taken]),
        cores=sum(one.processor for one in taken) / sum(one.seconds for one in taken),
        joules_per_token=sum(energies) / made if len(energies) == len(taken) else None,
    )


def joules() -> float | None:
    """The energy counters of all processor packages (RAPL), in joules; None where there are none that may be read."""
    total, found = 0.0, False
    for zone in RAPL.glob("intel-rapl:?"):
        with contextlib.suppress(OSError, ValueError):
            if not (zone / "name").read_text().startswith("package"):
                continue  # "psys" holds the packages once more
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
