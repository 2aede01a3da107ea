"""A command line of another tool, read by argparse, whose mistakes are UsageErrors."""

from __future__ import annotations

import argparse
from typing import NoReturn

from slmops.core.errors import UsageError


class Line(argparse.ArgumentParser):
    """prog: the tool and its command, as people type them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        tool = self.prog.partition(" ")[0]
        raise UsageError(f"{self.prog}: {message}", f"what is known: slmops compat {tool}")
