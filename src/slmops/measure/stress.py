"""What an engine must bear with an artifact before people are sent to it: odd requests, and many of them.

Both runs ask for greedy answers with the end-of-text tokens ignored, so that each has a known length and can be compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slmops.core.errors import EngineCrashed, SlmopsError
from slmops.engines import Sampling
from slmops.engines._host import Worker
from slmops.measure import speed, statistics
from slmops.measure.statistics import Estimate

GROWTH, SLOWDOWN = 0.10, 0.25
"""Memory that 1,000 requests may add, as a share of the process; by how much a request may take longer after many others."""
ANSWER, SHORT = 16, 4
"""Tokens of an answer, in the long run and in the odd requests."""
SAME = 256
"""Tokens of the prompt that repeats one token."""
BACK_TO_BACK, AT_ONCE = 8, 4
"""Requests without a pause, and in flight at once where the engine takes several."""
LOGITS = 64 << 20
"""Bytes of logits that are looked through for NaN and infinity at most, of one request."""
LENGTHS = (16, 48, 128)
"""Tokens of the prompts of a round of the long run."""
WARM_UP, LEAST, MOST = 8, 16, 64
"""Rounds of the long run: not counted, for allocators take their fill at first; counted at least, and at most."""
PAIRS, BEST, LOOKS = 6, 4, 4
"""Pairs beside a fresh process, the best answers of so many taken in turn, and how often more pairs are taken while nothing
is decided. The best is what the rest of the machine disturbs least; a process that has become slow has no fast answers."""
HANG = 900.0
"""Seconds without an answer after which the engine is taken to hang."""


@dataclass(frozen=True)
class Stress:
    """Requests that come rarely and must be answered."""

    requests: int
    faults: tuple[str, ...]
    """What was asked, and what went wrong."""
    longest: int
    """Tokens of the longest prompt and its answer: all that the engine was opened for."""
    at_once: int
    """Requests that were in flight together; 1 where the engine takes one at a time."""
    looked: int
    """Positions of which every logit was seen to be finite; 0 where the engine gives no logits."""


@dataclass(frozen=True)
class Stability:
    """The same few requests, over and over."""

    requests: int
    identical: int
    """Answers that were the first one to the same prompt, token for token."""
    growth: Estimate
    """Share of the process's memory that 1,000 requests add, from its trend."""
    slowdown: Estimate
    """Share by which a request takes longer at the end of the run than at its beginning."""
    beside: bool = False
    """Whether `slowdown` is of pairs beside a fresh process, which other load on the machine cannot mimic; else of the
    trend of the run's own times."""


def stress(worker: Worker, prompt: Sequence[int], vocab: int, context: int, *, logits: bool = True) -> Stress:
    """Odd, longest, cancelled and hurried requests; the same greedy answer before and after all of them.

    prompt: tokens of an ordinary request. context: tokens that the engine was opened for. logits: whether it gives them.
    """
    most = max(1, context - SHORT)
    usual = list(prompt[:most])
    odd = {
        "one token": usual[:1],
        "one token over and over": usual[:1] * min(SAME, most),
        "ids from both ends of the vocabulary": ([0, vocab - 1] * 4)[:most],
        "a prompt that fills the context": (usual * (most // len(usual) + 1))[:most],
    }
    first: list[int] = []
    faults: list[str] = []
    rows = LOGITS // (4 * vocab) if logits else 0

    def ask(ids: list[int]) -> str:
        made = _answer(worker, ids, SHORT)
        if len(made) != SHORT or not all(0 <= token < vocab for token in made):
            return f"{len(made)} tokens of {SHORT} came"
        if ids is usual:
            first.extend(() if first else made)
            return "" if made == first else f"the answer was {made}, and {first} before"
        return ""

    def look(ids: list[int]) -> str:
        return "" if np.isfinite(worker.logits(ids, [len(ids)])).all() else "the logits hold NaN or infinity"

    def cancel() -> str:
        tokens = worker.generate(usual, Sampling(max_tokens=context))
        next(tokens)
        tokens.close()
        return ""

    checks: list[tuple[str, Callable[[], str]]] = [("an ordinary request", functools.partial(ask, usual))]
    checks += [(what, functools.partial(ask, ids)) for what, ids in odd.items()]
    checks += [(f"{what}, logits", functools.partial(look, ids[:rows])) for what, ids in odd.items() if rows]
    checks += [("a request that is cancelled", cancel)]
    checks += [("requests without a pause", functools.partial(ask, usual))] * BACK_TO_BACK
    checks += [("the first request again", functools.partial(ask, usual))]
    for what, check in checks:
        try:
            with _watched(worker):
                fault = check()
        except SlmopsError as error:
            fault = str(error)
            if isinstance(error, EngineCrashed):
                faults.append(f"{what}: {fault}")
                break
        if fault:
            faults.append(f"{what}: {fault}")
    looked = sum(len(ids[:rows]) for ids in odd.values())
    return Stress(len(checks), tuple(faults), most + SHORT, 1, looked)


def at_once(worker: Worker, prompt: Sequence[int], found: Stress) -> Stress:
    """The same with AT_ONCE requests in flight. The worker is of an engine with "parallel" in CAN, opened for as many."""
    made = [0] * AT_ONCE
    with _watched(worker):
        for which, count, _ in worker.serve([list(prompt)] * AT_ONCE, Sampling(max_tokens=SHORT), AT_ONCE):
            made[which] += count
    fault = f"{AT_ONCE} requests at once: answers of {made} tokens came, and {SHORT} were asked"
    faults = found.faults if made == [SHORT] * AT_ONCE else (*found.faults, fault)
    return dataclasses.replace(found, requests=found.requests + AT_ONCE, faults=faults, at_once=AT_ONCE)


def stability(worker: Worker, prompt: Sequence[int], context: int, seconds: float) -> Stability:
    """Rounds of requests of LENGTHS, LEAST to MOST, for about `seconds`; up to three times as long while memory grows.

    A round is one sample: its requests take different times. `prompt` and `context` as in `stress`.
    """
    prompts = [list(prompt[: max(1, min(length, context - ANSWER))]) for length in LENGTHS]
    firsts: list[list[int]] = []
    times: list[float] = []
    resident: list[int] = []
    identical, began = 0, time.perf_counter()
    while True:
        start = time.perf_counter()
        with _watched(worker):
            answers = [_answer(worker, ids, ANSWER) for ids in prompts]
        times.append(time.perf_counter() - start)
        resident.append(worker.memory()["resident"])
        firsts = firsts or answers
        identical += sum(one == other for one, other in zip(answers, firsts, strict=True))
        spent, rounds = time.perf_counter() - began, len(times) - WARM_UP
        # Looked at a few times only: an interval that is looked at until it pleases is no interval.
        if rounds >= LEAST and (rounds % LEAST == 0 or spent > 3 * seconds):
            share = 1000 / len(prompts) / float(np.median(resident))
            growth = statistics.trend(resident[WARM_UP:]).through(share.__mul__)
            if rounds >= MOST or spent > (seconds if growth.high <= GROWTH else 3 * seconds):
                break
    slowdown = statistics.trend(np.log(times[WARM_UP:])).through(lambda slope: math.expm1(slope * (rounds - 1)))
    return Stability(len(times) * len(prompts), identical, growth, slowdown)


def beside(aged: Worker, fresh: Worker, prompt: Sequence[int], found: Stability) -> Stability:
    """The same with the slowdown taken from answers of the aged process and of a fresh one, turn by turn."""
    logs: list[float] = []
    for _ in range(LOOKS):
        for _ in range(PAIRS):
            old, new = speed.together([aged, fresh], list(prompt[: LENGTHS[0]]), ANSWER, BEST)
            logs.append(math.log(max(new.decodes) / max(old.decodes)))
        slowdown = statistics.mean(logs).through(math.expm1)
        if not slowdown.low <= SLOWDOWN < slowdown.high:
            break
    return dataclasses.replace(found, slowdown=slowdown, beside=True)


def _answer(worker: Worker, ids: list[int], count: int) -> list[int]:
    return [token.id for token in worker.generate(ids, Sampling(max_tokens=count)) if token.id is not None]


@contextlib.contextmanager
def _watched(worker: Worker) -> Iterator[None]:
    """Kills the worker when it does not answer: what waits for it then raises EngineCrashed."""
    timer = threading.Timer(HANG, worker.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
