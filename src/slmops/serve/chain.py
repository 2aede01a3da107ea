"""Lines that hold each other (audit.py): how they are written, and how it is found that they were tampered with."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, SourceNotFound, VerificationFailed

HEAD = "head.json"
MOST_LINE = 1 << 20
FIRST = "0" * 64
"""What the first line of a log holds in place of the hash of one before it."""
MOST_FAULTS = 100


def line(facts: dict[str, Any]) -> bytes:
    """A line without its end."""
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def mark(text: bytes, key: bytes | None) -> str:
    """The hash of a line: SHA-256, or HMAC-SHA256 with a key."""
    return hmac.new(key, text, "sha256").hexdigest() if key else hashlib.sha256(text).hexdigest()


def files(folder: Path) -> list[Path]:
    """Those of a log, in their order."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit() and len(path.stem) == 6)


@dataclass
class Report:
    """What verifying found."""

    lines: int = 0
    files: int = 0
    first: int = 0
    """Number of the first line that is there: above 0 where older files were retired."""
    seq: int = -1
    hash: str = FIRST
    """Of the last line."""
    torn: int = 0
    """Bytes of a last line that was not finished: its process was killed, or the power failed."""
    beyond: int = 0
    """Lines after the head: of a server that runs, or was killed between the two."""
    faults: list[str] = field(default_factory=list)
    """What is wrong, and where: FILE:LINE: ..."""


def read(folder: Path, since: float = 0.0) -> Iterator[tuple[Path, int, bytes]]:
    """File, number of the line in it, and the line with its end. Raises SourceNotFound."""
    found = files(folder) if folder.is_dir() else []
    if not found and not (folder / HEAD).exists():
        raise SourceNotFound(f"there is no audit log in {folder}", "slmops serve --audit FOLDER writes one")
    for path in found:
        if path.stat().st_mtime < since:
            continue
        with path.open("rb") as handle:
            number = 0
            while text := handle.readline(MOST_LINE + 1):
                number += 1
                yield path, number, text


def verify(folder: Path, key: bytes | None = None, expected: tuple[int, str] | None = None) -> Report:
    """Every line of a log. expected: number and hash of a line that was noted elsewhere. Raises SourceNotFound."""
    report, retired, last_path = Report(), dict[int, str](), None
    start, noted = (0, FIRST), expected is None
    head = _head(folder, report)
    headed = head is None or head == (-1, FIRST)
    for path, number, text in read(folder):
        place = f"{path.name}:{number}"
        if path != last_path:
            report.files, last_path = report.files + 1, path
        if report.torn:
            report.faults.append(f"{place}: lines go on after one that is not whole")
            report.torn = 0
        if not text.endswith(b"\n"):
            report.torn = len(text)
            continue
        text = text[:-1]
        facts = _facts(text)
        if facts is None:
            report.faults.append(f"{place}: no line of a log")
            if len(report.faults) >= MOST_FAULTS:
                return report
            # The next one is held to the hash of this one all the same: a line that was changed is one fault more there.
            report.seq, report.hash = report.seq + 1, mark(text, key)
            continue
        if report.lines == 0:
            report.first = facts["seq"]
            start = (facts["seq"], facts["prev"])
        elif facts["seq"] != report.seq + 1:
            report.faults.append(f"{place}: it has number {facts['seq']}, and {report.seq + 1} comes here")
        elif facts["prev"] != report.hash:
            report.faults.append(f"{place}: it or the line before it was changed")
        if facts["what"] == "retired":
            retired[facts.get("last_seq", -1)] = facts.get("last_hash", "")
        if facts["what"] == "continued" and facts.get("file") != path.name:
            report.faults.append(f"{place}: it is of {str(facts.get('file'))[:40]}")
        report.lines, report.seq, report.hash = report.lines + 1, facts["seq"], mark(text, key)
        if head is not None and report.seq == head[0]:
            headed = True
            if report.hash != head[1]:
                report.faults.append(f"{place}: it is not the line that {HEAD} knows")
        if expected is not None and report.seq == expected[0]:
            noted = True
            if report.hash != expected[1]:
                report.faults.append(f"{place}: it is not the line that was noted")
        if len(report.faults) >= MOST_FAULTS:
            return report
    if report.lines and start[0] == 0 and start[1] != FIRST:
        report.faults.append("the first line is not the beginning of a log")
    if report.lines and start[0] > 0 and retired.get(start[0] - 1) != start[1]:
        report.faults.append(f"lines before number {start[0]} are missing, and were not retired")
    if not headed and head is not None:
        report.faults.append(f"it ends with number {report.seq}, and {HEAD} knows number {head[0]}: lines are missing")
    elif head is not None and head[0] > report.seq:
        report.faults.append(f"{HEAD} knows number {head[0]}: lines are missing")
    if head is not None:
        report.beyond = max(0, report.seq - head[0])
    if not noted and expected is not None:
        report.faults.append(f"number {expected[0]}, which was noted, is missing")
    return report


def _head(folder: Path, report: Report) -> tuple[int, str] | None:
    try:
        value = json.loads((folder / HEAD).read_bytes()[:1000])
        return int(value["seq"]), str(value["hash"])
    except OSError:
        report.faults.append(f"{HEAD} is missing")
    except (ValueError, KeyError, TypeError):
        report.faults.append(f"{HEAD} was changed")
    return None


def _facts(text: bytes) -> dict[str, Any] | None:
    if len(text) > MOST_LINE:
        return None
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(facts, dict) and type(facts.get("seq")) is int
    return facts if sound and all(isinstance(facts.get(name), str) for name in ("what", "at", "prev")) else None


def last(path: Path, key: bytes | None) -> tuple[dict[str, Any], str]:
    """A file's last line and its hash. Raises CorruptInput."""
    with path.open("rb") as handle:
        text = next(iter(deque(handle, 1)), b"")
    facts = _facts(text.rstrip(b"\n"))
    if facts is None:
        raise CorruptInput(f"{path} does not end with a line of a log")
    return facts, mark(text.rstrip(b"\n"), key)


def resume(folder: Path, key: bytes | None) -> tuple[int, str, int]:
    """Number and hash of the line that a log goes on from, and the bytes of a torn one that was cut off.

    Raises VerificationFailed where anything but the last moment is wrong.
    """
    report = verify(folder, key)
    if report.faults:
        cure = "slmops audit verify says what; to go on, give another --audit folder"
        raise VerificationFailed(f"the audit log {folder} was tampered with: {report.faults[0]}", cure)
    if report.torn:
        path = next(path for path in reversed(files(folder)) if path.stat().st_size)
        with path.open("rb+") as handle:
            handle.truncate(path.stat().st_size - report.torn)
            os.fsync(handle.fileno())
    return report.seq, report.hash, report.torn


def entries(folder: Path, since: float = 0.0) -> Iterator[dict[str, Any]]:
    """Every line as it stands, unproven, without files that were done before. Raises SourceNotFound, CorruptInput."""
    for path, number, text in read(folder, since):
        facts = _facts(text.rstrip(b"\n"))
        if facts is None:
            if not text.endswith(b"\n"):
                return
            raise CorruptInput(f"{path}, line {number} is no line of a log", "slmops audit verify says what is wrong")
        yield facts
