"""Speed and memory of an artifact in its engine, as its owner sees them: tokens stamped as they arrive."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from slmops.engines import Sampling
from slmops.engines._host import Worker


@dataclass(frozen=True)
class Speed:
    """Medians over the runs, after one that is not counted.

    first_token: seconds from the request to the first token (TTFT), prefill included.
    decode: tokens a second after the first: (n - 1) / (last - first). prefill: prompt tokens / first_token.
    spread: (max - min) / median of decode.
    """

    first_token: float
    decode: float
    prefill: float
    spread: float
    prompt_tokens: int
    new_tokens: int
    runs: int


def measure(worker: Worker, ids: list[int], new_tokens: int = 64, runs: int = 3) -> Speed:
    """Greedy generation of `new_tokens` from `ids`, the end-of-text tokens ignored, `runs` times after a warm-up."""
    firsts, decodes, counts = [], [], []
    for number in range(runs + 1):
        stamps = [t.seconds for t in worker.generate(ids, Sampling(max_tokens=new_tokens)) if t.id is not None]
        if number == 0 or len(stamps) < 2:
            continue
        firsts.append(stamps[0])
        decodes.append((len(stamps) - 1) / max(stamps[-1] - stamps[0], 1e-9))
        counts.append(len(stamps))
    if not decodes:
        return Speed(float("nan"), float("nan"), float("nan"), float("nan"), len(ids), 0, 0)
    first, decode = statistics.median(firsts), statistics.median(decodes)
    spread = (max(decodes) - min(decodes)) / decode
    return Speed(first, decode, len(ids) / first, spread, len(ids), round(statistics.mean(counts)), runs)
