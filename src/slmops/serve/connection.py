"""One connection: uvicorn's, with the patience of a server that strangers reach.

uvicorn waits for ever for the head of a request, and for a reader that does not read. Here both are cut: the head has to
come within HEAD_SECONDS and MOST_HEAD bytes, and what is written has to drain within DRAIN_SECONDS, which ends the request
and frees its place. What a refused request still sends is let pass for a while, so that its client can read the refusal.
The body's own time and size are the guard's (access.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from slmops.serve.access import PEER

HEAD_SECONDS, DRAIN_SECONDS, CLOSE_SECONDS = 30.0, 30.0, 2.0
MOST_HEAD, MOST_LEFT = 64 << 10, 8 << 20
"""Bytes of a head, and of a body that nobody reads any more."""


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """As uvicorn makes it (h11, or httptools where that is installed); only asyncio's own calls are added to."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._came = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if (certificate := transport.get_extra_info("peercert")) and (name := _common_name(certificate)):
            self.app_state: dict[str, Any] = {**self.app_state, PEER: name}
        self._reading = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:  # what comes after bytes that were no HTTP, h11 has no answer to
            self.transport.abort()
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.transport.is_closing():
            if busy:  # nobody is there for the answer that is being made
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            return
        if busy:
            self._came, self._reading = 0, _without(self._reading)
            return
        self._came += len(data)
        left = self.cycle is not None and self.cycle.more_body
        if self._came > (MOST_LEFT if left else MOST_HEAD):
            self.transport.abort()
        elif self._reading is None:
            self._reading = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        _without(self._writing)
        self._writing = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing = _without(self._writing)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._end()

    def shutdown(self) -> None:
        super().shutdown()
        self._end()

    def _end(self) -> None:
        # With TLS a connection that is closed waits for the client to agree, half a minute if need be.
        if self.transport.is_closing():
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading, self._writing = _without(self._reading), _without(self._writing)
        super().connection_lost(exc)


def _without(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What stands in place of a timer that is over: None."""
    if timer is not None:
        timer.cancel()
    return None


def _common_name(certificate: dict[str, Any]) -> str | None:
    """Of a certificate's subject, as ssl has it: ((("commonName", "ann"),), ...)."""
    names = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return names[0][:128] if len(names) == 1 else None
