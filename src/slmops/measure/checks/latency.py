"""Time to the first token and between tokens at several lengths of the prompt, each within a bound (measure/speed.py).

lengths         tokens of the prompt, such as [16, 128, 512]
first_token_ms  bound of the median TTFT; itl_ms: of the median ITL. A number for all lengths, or one a length
runs            of each length, after one that is not counted (5); new_tokens: of each run (16)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed
from slmops.measure import checks, statistics
from slmops.measure.statistics import Estimate

KEYS, OPTIONAL = ("lengths",), ("first_token_ms", "itl_ms", "runs", "new_tokens")
BOUNDS = {"first_token_ms": "TTFT", "itl_ms": "ITL"}


def read(keys: dict[str, Any], folder: Path) -> Callable[[checks.Subject], checks.Finding]:
    lengths = keys["lengths"]
    if not isinstance(lengths, list) or not lengths or not all(type(one) is int and one > 0 for one in lengths):
        raise ValueError("'lengths' must be a list of numbers of tokens")
    bounds = {name: _bounds(keys[name], name, len(lengths)) for name in BOUNDS if name in keys}
    if not bounds:
        raise ValueError(f"give a bound: {' or '.join(BOUNDS)}")
    runs, new_tokens = checks.whole(keys, "runs", 5, 2), checks.whole(keys, "new_tokens", 16, 2)

    def ask(subject: checks.Subject) -> checks.Finding:
        said, verdicts, details = [], [], []
        for place, length in enumerate(lengths):
            found = _times(subject, length, new_tokens, runs)
            parts, row = [], {"prompt_tokens": length, "runs": runs}
            for name, short in BOUNDS.items():
                row[name] = {"median": found[name].value, "low": found[name].low, "high": found[name].high}
                part = f"{short} {_ms(found[name].value)} ms ({_ms(found[name].low)} to {_ms(found[name].high)})"
                if name in bounds:
                    verdicts.append(checks.at_most(found[name], bounds[name][place]))
                    part += f", at most {bounds[name][place]:g} ms{_sign(verdicts[-1])}"
                parts.append(part)
            details.append(row)
            said.append(f"{length} tokens: {'; '.join(parts)}")
        passed = False if False in verdicts else None if None in verdicts else True
        return checks.Finding(passed, f"medians of {runs} runs\n" + "\n".join(said), {"lengths": details})

    return ask


def _bounds(value: Any, name: str, count: int) -> list[float]:
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name!r} must be one bound, or one for each of the {count} lengths")
    return [checks.positive(one, name) for one in values]


def _times(subject: checks.Subject, length: int, new_tokens: int, runs: int) -> dict[str, Estimate]:
    """Medians in milliseconds, their intervals by resampling runs; end-of-text tokens are read over."""
    firsts, between = [], []
    for number in range(runs + 1):
        stamps = [t.seconds for t in subject.generate(subject.ids(length), new_tokens, ends=False) if t.id is not None]
        if len(stamps) < 2:
            raise EngineFailed(
                f"a prompt of {length} tokens leaves no room for two more", "give more context, or less prompt"
            )
        if number:
            firsts.append(1000 * stamps[0])
            between.append(1000 * np.diff(stamps))
    sizes = [len(one) for one in between]
    itl = statistics.quantile(np.concatenate(between), 0.5, sizes)
    return {"first_token_ms": statistics.quantile(firsts, 0.5), "itl_ms": itl}


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def _sign(verdict: bool | None) -> str:
    return {True: "", False: " (missed)", None: " (undecided: more runs would tell)"}[verdict]
