"""TLS with the user's own certificate, read again when its files change: no connection is dropped for it."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from slmops.core.errors import CorruptInput, SourceNotFound, UsageError

log = logging.getLogger(__name__)


class Certificate:
    """A certificate with its key, and the context that shows it to whoever connects."""

    def __init__(self, certificate: Path, key: Path, authorities: Path | None = None) -> None:
        """authorities: of clients, each of which then has to show a certificate of theirs.

        Raises SourceNotFound, CorruptInput, and UsageError for a key that belongs to another certificate.
        """
        self._files, self._authorities = (certificate, key), authorities
        self._seen = self._state()
        self.context = self._made()

    def refresh(self, forced: bool = False) -> None:
        """Look at the files. The next handshake shows what they hold now; what does not load changes nothing but the log."""
        if (seen := self._state()) == self._seen and not forced:
            return
        self._seen = seen
        try:
            self._made()  # a certificate without its key, halfway through a renewal, must not reach the live context
            self.context.load_cert_chain(*self._files)
            log.warning("the certificate was read again: %s", self._files[0])
        except (CorruptInput, SourceNotFound, UsageError) as error:
            log.error("the certificate stays as it was: %s", error)

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in self._files:
            try:
                one = path.stat()
                found.append((one.st_mtime_ns, one.st_size, one.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        for path in (*self._files, *filter(None, (self._authorities,))):
            try:
                path.read_bytes()
            except OSError as error:
                raise SourceNotFound(f"{path} cannot be read: {error.strerror}", "a file in PEM") from None
        try:
            # A key with a pass phrase would ask for it on the terminal, in the middle of serving.
            context.load_cert_chain(*self._files, password=lambda: b"")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UsageError(
                    f"{self._files[1]} is not the key of {self._files[0]}", "give the key it was made with"
                ) from None
            cure = "a certificate (with those between it and its authority) and its key in PEM, without a pass phrase"
            raise CorruptInput(f"{self._files[0]} with {self._files[1]} cannot be used: {error.reason}", cure) from None
        if self._authorities is not None:
            try:
                context.load_verify_locations(self._authorities)
            except ssl.SSLError as error:
                raise CorruptInput(f"{self._authorities} holds no certificates: {error.reason}", "in PEM") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context
