"""Progress on a terminal, silence in a pipe."""

from __future__ import annotations

import sys
from typing import Any

from slmops.core.watch import Watch


class Progress:
    """A bar for bytes and a line for what is being done, on standard error when it is a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._bar: Any = None

    def say(self, line: str) -> None:
        """One passing line."""
        if self._on:
            print(f"  {line}", file=sys.stderr, flush=True)

    def begin(self, total: int) -> None:
        if self._on:
            import tqdm

            self._bar = tqdm.tqdm(total=total, unit="B", unit_scale=True, desc="  weights", file=sys.stderr, leave=False)

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def watch(self) -> Watch:
        return Watch(self.say, self.begin, self.advance, self.end)
