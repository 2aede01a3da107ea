"""The audit log: who did what to which model, in lines that hold each other. docs/audit.md says what stands in them.

A folder of files 000001.jsonl, 000002.jsonl, ... Each line is JSON and holds the hash of the line before it, across files;
`head.json` holds the last one's. So no line can be changed, dropped or moved, and none cut off at the end, without its
being found; with a key (HMAC-SHA256) not even by who can write to the folder. Without a key such a person can write it all
anew: then keep a note of `slmops audit verify`'s head elsewhere.

Lines are written by one thread, in groups, each forced to disk before the head moves on. What was told within the last
moment before a power cut may be missing; a killed process loses nothing that was written. When lines cannot be written,
requests are refused: what is not logged does not happen.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.core.errors import Busy, UsageError
from slmops.core.store import sync_folder, write_whole
from slmops.serve import chain
from slmops.serve.request import Caller, Outcome, Request

MOST_FILE = 64 << 20
"""Bytes of a file, after which another is begun."""
MOST_WAITING = 10_000
"""Lines that wait for the disk, after which requests do."""
GATHER = 0.02
"""Seconds in which lines come together, to be forced to disk at once."""
REFUSALS = 60
"""Refused requests that are written a minute, so that nobody can fill the disk; how many more there were is written too."""
MOST_TEXT, MOST_READ, LONGEST = 16 << 10, 64 << 10, 8 << 10
"""Letters of a prompt that are written with --audit-prompts, that are read for it, and that one pattern may span."""
PATTERNS = (
    r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
    r"\b(?:sk|pk|rk|slm|hf|gh[pousr]|xox[abprs]|AKIA|eyJ)[-_A-Za-z0-9.]{12,}",
    r"(?i:\b(?:password|passwd|secret|token|api[-_ ]?key)\b\s*[:=]\s*)\S+",
    r"-----BEGIN [A-Z ]{1,40}-----[\s\S]{0,8000}?-----END [A-Z ]{1,40}-----",
    r"\+?\d(?:[ ./-]?\d){7,}",
)
"""What is left out of prompts: addresses, keys and tokens, passwords, private keys, long numbers (cards, telephones)."""

log = logging.getLogger(__name__)


class Redactor:
    """Leaves out of a text what its patterns find."""

    def __init__(self, more: Sequence[str] = ()) -> None:
        """Raises UsageError for what is no regular expression."""
        self._patterns = []
        for text in (*PATTERNS, *more):
            try:
                self._patterns.append(re.compile(text))
            except re.error as error:
                raise UsageError(f"{text[:80]!r} is no regular expression: {error}", "see Python's re") from None

    def __call__(self, text: str) -> str:
        cut, text = len(text) > MOST_READ, text[:MOST_READ]
        for pattern in self._patterns:
            text = pattern.sub("[redacted]", text)
        # What the cut went through was not whole, and so not found.
        return (text[: max(0, len(text) - LONGEST)] if cut else text)[:MOST_TEXT]


def _prompt(request: Request) -> str:
    """What was asked, as text."""
    if isinstance(request.prompt, str):
        return request.prompt
    if request.prompt is not None:
        return ", ".join(map(str, request.prompt))  # tokens: with more than a space between, they are no long number
    said = [f"{one.get('role', '')}: {one.get('content') or ''}" for one in request.messages]
    return "\n".join([*said, *request.texts])


class Audit:
    """A log that is being written: a watcher of the desk, and told by the guard."""

    def __init__(
        self,
        folder: Path,
        *,
        key: bytes | None = None,
        keep_days: float | None = None,
        redactor: Redactor | None = None,
        most_file: int = MOST_FILE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """redactor: prompts are written, without what it leaves out; None: they are not.

        Reads every line that is there. Raises VerificationFailed where one was tampered with, and Busy while another process
        writes there.
        """
        from slmops.registry import _lock

        self._folder, self._key, self._redactor, self._now = folder, key, redactor, now
        self._keep, self._most, self._closing = keep_days, most_file, False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held = contextlib.ExitStack()
        if not self._held.enter_context(_lock.tried(folder / ".lock")):
            self._held.close()
            raise Busy(f"another server writes the audit log {folder}", "give each a folder of its own")
        try:
            self._begin()
        except BaseException:
            self._held.close()
            raise

    def _begin(self) -> None:
        made = not chain.files(self._folder)
        if made and not (self._folder / chain.HEAD).exists():
            self._seq, self._last = -1, chain.FIRST
            self._move_head()  # before there is a line: from then on a log without a head was tampered with
        self._seq, self._last, torn = chain.resume(self._folder, self._key)
        self._file = self._open()
        self._good = os.fstat(self._file).st_size
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._fault = ""
        self._window, self._refusals = 0.0, 0
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()
        more: dict[str, Any] = {"torn": torn} if torn else {}
        self.tell("started", **({"log": secrets.token_hex(16)} if made else {}), pid=os.getpid(), **more)

    # What it is told. On the server's loop; nothing waits.

    def admit(self, request: Request, caller: Caller) -> None:
        """Raises Busy as `able` does."""
        self.able()

    def able(self) -> None:
        """Raises Busy while nothing can be written: what is not logged does not happen."""
        if self._fault or self._lines.qsize() >= MOST_WAITING - 100:
            raise Busy("the audit log cannot be written", "the server's own log says why", 5.0)

    def ended(self, outcome: Outcome) -> None:
        """What came of a request to a model."""
        request, caller = outcome.original, outcome.caller
        facts: dict[str, Any] = {"who": caller.name, "role": caller.role, "model": request.model}
        if outcome.served is not None:
            facts |= {"digest": outcome.served.digest, "engine": outcome.served.engine}
            if outcome.served.base:
                facts["base"] = outcome.served.base
        if caller.trail.id:
            facts["request"] = caller.trail.id
        seconds = round(max(0.0, (outcome.ended or time.monotonic()) - outcome.asked), 3)
        facts |= {"outcome": outcome.reason, "prompt_tokens": outcome.prompt_tokens, "tokens": outcome.tokens}
        if self._redactor is not None:
            facts["prompt"] = _prompt(request)
        self.tell("asked", **facts, seconds=seconds)

    def refused(self, name: str, method: str, path: str, status: int) -> None:
        """A request that was refused for who asks. At most REFUSALS a minute are written."""
        now = self._now()
        if now - self._window >= 60:
            if self._refusals > REFUSALS:
                self.tell("refused", more=self._refusals - REFUSALS)
            self._window, self._refusals = now, 0
        self._refusals += 1
        if self._refusals <= REFUSALS:
            self.tell("refused", who=name, method=method[:16], path=path[:200], status=status)

    def changed(self, caller: Caller, method: str, path: str, status: int, noted: Mapping[str, str]) -> None:
        """A request to a route for operators or admins, or to sign in or out."""
        more = {name: str(noted[name])[:300] for name in ("model", "to", "digest", "outcome") if noted.get(name)}
        self.tell("changed", who=caller.name, role=caller.role, method=method, path=path[:200], status=status, **more)

    def tell(self, what: str, **facts: Any) -> None:
        """A line. Never waits: when the queue is full, admission has long been refused."""
        try:
            self._lines.put_nowait(self._facts(what, **facts))
        except queue.Full:
            self._fault = "more lines came than the disk takes"

    def used(self, since: float) -> Iterator[tuple[str, int]]:
        """Who had how many tokens in each request since then, also of servers before this one."""
        for one in chain.entries(self._folder, since):
            if one["what"] == "asked" and datetime.datetime.fromisoformat(one["at"]).timestamp() >= since:
                yield str(one["who"]), int(one["prompt_tokens"]) + int(one["tokens"])

    def close(self) -> None:
        """Write what waits."""
        if self._thread.is_alive():
            self._closing = True
            self.tell("ended")
            self._lines.put(None)
            self._thread.join(30)
        self._held.close()

    # The thread that writes.

    def _work(self) -> None:
        going, group, tries = True, list[dict[str, Any]](), 0
        while going or group:
            if not group and not tries:
                group, going = self._gathered()
            try:
                if group:
                    self._write(group)
                    group = []
                self._move_head()
                if self._good >= self._most:
                    self._rotate()
                if tries:
                    log.warning("the audit log is written again: %s", self._folder)
                self._fault, tries = "", 0
            except Exception as error:  # whatever it is, nothing may happen that is not logged: the thread must not end
                self._fault, tries = str(error) or type(error).__name__, tries + 1
                if tries == 1:
                    log.error("the audit log cannot be written, requests are refused: %r", error)
                if self._closing and tries > 3:
                    log.error("%d lines of the audit log are lost", len(group))
                    break
                time.sleep(1.0)
        with contextlib.suppress(OSError):
            os.close(self._file)

    def _gathered(self) -> tuple[list[dict[str, Any]], bool]:
        """Lines that wait, and whether more may come."""
        found = [self._lines.get()]
        time.sleep(GATHER)
        with contextlib.suppress(queue.Empty):
            while len(found) < 1000:
                found.append(self._lines.get_nowait())
        return [one for one in found if one is not None], None not in found

    def _write(self, group: Sequence[dict[str, Any]]) -> None:
        """Lines behind the last good one, forced to disk: all of them, or the file ends where it did."""
        data = bytearray()
        seq, last = self._seq, self._last
        for facts in group:
            if self._redactor is not None and "prompt" in facts:
                facts = facts | {"prompt": self._redactor(facts["prompt"])}
            line = chain.line({"seq": seq + 1, **facts, "prev": last})
            seq, last = seq + 1, chain.mark(line, self._key)
            data += line + b"\n"
        os.ftruncate(self._file, self._good)
        view = memoryview(bytes(data))
        while view:
            view = view[os.write(self._file, view) :]
        os.fsync(self._file)
        self._seq, self._last, self._good = seq, last, self._good + len(data)

    def _move_head(self) -> None:
        write_whole(self._folder / chain.HEAD, json.dumps({"seq": self._seq, "hash": self._last}) + "\n", mode=0o600)

    def _rotate(self) -> None:
        name = f"{int(chain.files(self._folder)[-1].stem) + 1:06}.jsonl"
        made, left = self._open(name), self._file
        self._file, self._good = made, 0
        os.close(left)
        self._write([self._facts("continued", file=name)])
        self._retire()
        self._move_head()

    def _retire(self) -> None:
        """Remove files that are old enough; what the chain goes on from is written before they go."""
        if self._keep is None:
            return
        oldest = self._now() - self._keep * 86400
        for path in chain.files(self._folder)[:-1]:
            facts, hashed = chain.last(path, self._key)
            if datetime.datetime.fromisoformat(facts["at"]).timestamp() >= oldest:
                break
            self._write([self._facts("retired", file=path.name, last_seq=facts["seq"], last_hash=hashed)])
            path.unlink()
        sync_folder(self._folder)

    def _facts(self, what: str, **facts: Any) -> dict[str, Any]:
        at = datetime.datetime.fromtimestamp(self._now(), datetime.UTC).isoformat(timespec="milliseconds")
        return {"at": at.replace("+00:00", "Z"), "what": what, **facts}

    def _open(self, name: str | None = None) -> int:
        files = chain.files(self._folder)
        path = self._folder / name if name else files[-1] if files else self._folder / "000001.jsonl"
        made = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        sync_folder(self._folder)
        return made
