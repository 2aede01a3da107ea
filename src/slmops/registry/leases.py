"""Promises that an artifact stays (catalog.py keeps them, gc.py honours them), and whose they are."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Lease:
    """A promise that an artifact stays: until its process ends, or until a time (seconds since 1970)."""

    digest: str
    host: str
    pid: int
    started: float
    until: float
    why: str


def mine(digest: str, why: str, seconds: float) -> Lease:
    """A lease of this process, which outlives it by `until` only on a disk that several machines share."""
    import socket

    import psutil

    return Lease(digest, socket.gethostname(), os.getpid(), psutil.Process().create_time(), time.time() + seconds, why)


def holds(one: Lease) -> bool:
    """Whether its process lives; of another machine's, or of none (pid 0), whether its time is not over."""
    import socket

    if one.pid == 0 or one.host != socket.gethostname():
        return time.time() < one.until
    import psutil

    try:
        # A process id comes again; its second of birth does not.
        return abs(float(psutil.Process(one.pid).create_time()) - one.started) < 2
    except psutil.Error:
        return False
