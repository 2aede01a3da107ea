"""What people type for other tools, as the verbs that do it here: one tool a file. A file holds:

TITLE                    the tool and the version that was read
TABLE                    name of each of its passes -> (one of VERDICTS, what does it here, or why nothing does)
NOUN                     what those are, where they are not passes: "command"
translate(words) -> Native    its command line; absent where it has none
"""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = ("ours", "engine", "no need", "not done")
"""A verb or option of slmops; the engine does it itself; nothing is left to do by how slmops works; not done, because."""


@dataclass(frozen=True)
class Native:
    """A command line of slmops, and what of the other tool's was left out or is done otherwise."""

    words: tuple[str, ...]
    """After `slmops`."""
    notes: tuple[str, ...] = ()
    dry: bool = False
    """Whether the other tool's line asks to run nothing."""
