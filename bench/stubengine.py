"""An engine that computes nothing and says a word at once: what is measured with it is the server alone (bench/serve.py).

A prompt that begins with "idle" gets one word and then nothing for as long as somebody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.engines import Footprint, News, Options, Sampling

FORMATS = ("gguf",)
MODULES = ()
PACKAGE = "slmops"
EXTRA = "serve"
CAN = frozenset({"generate", "encode", "parallel"})
SAMPLES: frozenset[str] = frozenset()
CONSTRAINTS: frozenset[str] = frozenset()
DEVICES = ("cpu",)
KV = {"auto": 2.0}
FOOTPRINT = Footprint(base=20_000_000)
WORD, IDLE = " word", 105


def installed() -> str:
    return "0"


def open(folder: Path, options: Options) -> Session:
    return Session()


class Session:
    effective: Mapping[str, str] = {"version": "0", "device": "none"}

    def encode(self, text: str) -> list[int]:
        return [*text.encode()][:64]

    def decode(self, ids: Sequence[int]) -> str:
        return WORD * len(ids)

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        yield from range(sampling.max_tokens)

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Any:
        raise NotImplementedError

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        return None

    def flow(self) -> Flow:
        return Flow()

    def close(self) -> None: ...


class Flow:
    """A word of each request in every step."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._woken = threading.Event()

    def add(self, which: int, ids: Sequence[int], sampling: Sampling) -> None:
        self._left[which] = sampling.max_tokens if ids[0] != IDLE else 0
        self._told[which] = 0

    def cancel(self, which: int) -> None:
        self._left.pop(which, None)
        self._told.pop(which, None)

    def step(self) -> list[News]:
        found = []
        for which, left in list(self._left.items()):
            told = self._told[which]
            if left == 0 and told:
                continue
            self._told[which] = told + 1
            over = told + 1 == left
            found.append(News(which, WORD, 1, None if told else 0, end="length" if over else None))
            if over:
                self.cancel(which)
        if not found:
            self._woken.wait(1.0)
            self._woken.clear()
        return found

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None: ...
