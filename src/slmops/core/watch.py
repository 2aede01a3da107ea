"""Where the progress of a long job goes; who shows it is not the job's business."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Watch:
    """What a job tells while it works; the defaults are silent. Counts are bytes."""

    say: Callable[[str], None] = field(default=lambda _: None)
    begin: Callable[[int], None] = field(default=lambda _: None)
    advance: Callable[[int], None] = field(default=lambda _: None)
    end: Callable[[], None] = field(default=lambda: None)
