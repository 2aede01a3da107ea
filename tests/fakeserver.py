"""An HTTP server of this process for the time of a test, with what its handler is bound to."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked was killed."""


@contextlib.contextmanager
def running(
    handler: type[BaseHTTPRequestHandler], certificate: ssl.SSLContext | None = None, **bound: object
) -> Iterator[str]:
    """Its URL; `bound` are attributes of the handler's class."""
    server = Quiet(("127.0.0.1", 0), type("Bound", (handler,), bound))
    if certificate is not None:
        server.socket = certificate.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
