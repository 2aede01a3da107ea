"""Logs of the server: one line a request and one for what befalls models, as JSON or text, never what was asked or answered.

Every request gets an id: its X-Request-Id where that is sane, else one is made. It is in the answer's headers, in the line,
in what watchers are told (Caller.trail), and so in the audit log and in traces.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import queue
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slmops.core.errors import EngineCrashed, EngineFailed
from slmops.serve.access import CALLER
from slmops.serve.request import Outcome, Trail

TRAIL = "slmops.trail"
"""Where the trail of a request lies in its scope."""
SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
FORMATS, LEVELS = ("text", "json"), ("debug", "info", "warning", "error")
MOST_WAITING = 10_000
"""Lines that wait to be written; more are dropped and counted: a log that nobody reads must not hold up requests."""
GATHER = 0.02
"""Seconds in which lines come together: a thread that is woken for each takes its time from the loop."""
MOST_TEXT = 4000
PROBES = ("/health/", "/metrics")
PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; the rest is what was said."""

log = logging.getLogger("slmops.request")


class Trails:
    """ASGI middleware around everything: ids, and a line for each request, those included that nobody let in."""

    def __init__(self, app: ASGIApp, told: Callable[[str, int], None] = lambda method, status: None) -> None:
        """told: called with method and status at the end of each."""
        self._app, self._told = app, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail = scope[TRAIL] = _trail(scope)
        mark, status, began = trail.id.encode(), 0, time.monotonic()
        known = (b"x-request-id", mark), (b"request-id", mark)  # as OpenAI's clients report it, and Anthropic's

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *known]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            status = status or 500
            raise
        finally:
            self._told(scope["method"], status)
            # Probes and scrapers come every few seconds, for ever.
            level = logging.DEBUG if status < 400 and scope["path"].startswith(PROBES) else logging.INFO
            if log.isEnabledFor(level):
                log.log(level, "request", extra=_line(scope, trail, status, time.monotonic() - began))


def _trail(scope: Scope) -> Trail:
    trail = Trail()
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            trail.id = value.decode("latin-1")
        elif name == b"traceparent":
            trail.parent = value.decode("latin-1")
    if SANE.fullmatch(trail.id) is None:
        trail.id = f"req_{random.getrandbits(96):024x}"  # no secret, for which the kernel would have to be asked
    if PARENT.fullmatch(trail.parent) is None:
        trail.parent = ""
    return trail


def _line(scope: Scope, trail: Trail, status: int, seconds: float) -> dict[str, Any]:
    asked = scope.get(CALLER)
    line: dict[str, Any] = {"request": trail.id, "who": asked.name if asked is not None else ""}
    line |= {"method": scope["method"], "path": scope["path"][:200], "status": status, "seconds": round(seconds, 6)}
    if len(trail.outcomes) == 1:
        line |= facts(trail.outcomes[0])
    elif trail.outcomes:
        line["answers"] = [facts(one) for one in trail.outcomes]
    return line


def facts(outcome: Outcome) -> dict[str, Any]:
    """What came of what was asked of a model: no word of question or answer."""
    served = outcome.served
    found: dict[str, Any] = {"reason": outcome.reason}
    if served is not None:
        found |= {"model": served.name, "digest": served.digest, "engine": served.engine}
    if outcome.began is not None:
        found |= {"prompt_tokens": outcome.prompt_tokens, "cached_tokens": outcome.cached_tokens, "tokens": outcome.tokens}
    for name, moment in (("queued", outcome.began), ("first", outcome.first), ("ended", outcome.ended)):
        if moment is not None:
            found[name] = round(moment - outcome.asked, 6)
    # An engine's last words are for here alone; what else is raised may quote what was asked.
    if isinstance(outcome.fault, EngineCrashed | EngineFailed):
        found["fault"] = str(outcome.fault)[:MOST_TEXT]
    return found


class _Dropping(logging.handlers.QueueHandler):
    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # for a thread of this process: it is formatted there

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Gathering(logging.handlers.QueueListener):
    def __init__(self, lines: queue.Queue[Any], writer: logging.Handler) -> None:
        super().__init__(lines, writer)
        self._lines = lines

    def dequeue(self, block: bool) -> logging.LogRecord:
        waits = self._lines.empty()
        record: logging.LogRecord = self._lines.get(block)
        if waits:
            time.sleep(GATHER)
        return record


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        said = {key: value for key, value in record.__dict__.items() if key not in PLAIN}
        head = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        return json.dumps({**head, **said}, ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """For people: time, event, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        said = [f"{key}={_plain(value)}" for key, value in record.__dict__.items() if key not in PLAIN and value != ""]
        return " ".join([_time(record), record.levelname.lower(), record.getMessage(), *said])


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _plain(value: Any) -> str:
    text = str(value)
    # Quoted as JSON where it holds a space, a quote or a control character: a line stays one line.
    return text if text.isprintable() and not set(' "') & set(text) else json.dumps(text, ensure_ascii=True)


@contextlib.contextmanager
def writing(form: str, level: str, out: TextIO | None = None) -> Iterator[None]:
    """Write logs of this room and of uvicorn to `out` (standard error), by a thread of their own, until the block ends."""
    lines: queue.Queue[Any] = queue.Queue(MOST_WAITING)
    writer = logging.StreamHandler(out or sys.stderr)
    writer.setFormatter(Json() if form == "json" else Text())
    handler = _Dropping(lines)
    listener = _Gathering(lines, writer)
    levels = {"slmops": level, "uvicorn": "warning", "opentelemetry": "error"}
    loggers = [(logging.getLogger(name), least) for name, least in levels.items()]
    for one, least in loggers:
        one.addHandler(handler)
        one.setLevel(least.upper())
        one.propagate = False
    listener.start()
    try:
        yield
    finally:
        for one, _ in loggers:
            one.removeHandler(handler)
        if handler.dropped:
            with contextlib.suppress(queue.Full):
                lines.put_nowait(logging.makeLogRecord({"msg": f"{handler.dropped} lines were dropped", "levelno": 30}))
        # A pipe that nobody reads would hold the end up for ever; the thread dies with the process.
        if (thread := listener._thread) is not None:
            with contextlib.suppress(queue.Full):
                listener.enqueue_sentinel()
                thread.join(2)
