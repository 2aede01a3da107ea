"""slmops audit verify: whether a line of the log was changed, dropped, moved or cut off."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "whether a line of the log was changed, dropped, moved or cut off"
EXAMPLE = "slmops audit verify audit"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="what slmops serve --audit was given")
    parser.add_argument("--key", metavar="FILE", help="what --audit-key was given")
    parser.add_argument("--head", metavar="NUMBER:HASH", help="of a line that was noted elsewhere: it must be there still")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses
    import re
    from pathlib import Path

    from slmops.cli import _access
    from slmops.core.errors import UsageError, VerificationFailed
    from slmops.serve import chain

    expected = None
    if arguments.head:
        match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", arguments.head)
        if match is None:
            raise UsageError(f"{arguments.head[:80]!r} is no head", "as this verb prints it: NUMBER:HASH")
        expected = int(match[1]), match[2]
    key = _access.secret(Path(arguments.key)) if arguments.key else None
    report = chain.verify(Path(arguments.folder), key, expected)
    lines = [f"{report.lines} lines in {report.files} files, from number {report.first}", f"head {report.seq}:{report.hash}"]
    if report.first:
        lines.append(f"lines before number {report.first} were retired")
    if report.torn:
        lines.append(f"{report.torn} bytes of a last line that was not finished: its server was killed")
    if report.beyond:
        lines.append(f"{report.beyond} lines after head.json: a server is at work, or was killed")
    lines += report.faults
    fault = None
    if report.faults:
        fault = VerificationFailed(f"the audit log {arguments.folder} was tampered with", "what it says is not proven")
    return Said(dataclasses.asdict(report), "\n".join(lines), fault)
