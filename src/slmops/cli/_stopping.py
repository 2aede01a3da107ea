"""Ctrl-C and SIGTERM as exceptions, raised where they can be borne.

Python runs a handler between any two instructions of the main thread. What it raises inside the import machinery, a
future's condition or a pool leaves a lock held, and all other threads wait for ever; what it raises in a finalizer is
printed and lost. So the handler looks where it stands, and in such a place comes again a moment later.
"""

from __future__ import annotations

import signal
from types import FrameType

AGAIN = 0.01
"""Seconds until it looks again."""
LAST = 100
"""Times it looks; then it raises wherever it stands."""

_KEEPERS = ("importlib._bootstrap", "/threading.py", "/concurrent/futures/", "/queue.py", "/weakref.py", "/_weakrefset.py")
"""Files (part of their names) whose functions hold locks, or are called where what they raise is lost."""
_WAITS = frozenset({"wait", "join", "_wait_for_tstate_lock"})
"""Functions of threading.py that wait, and have no lock then."""


def arm() -> None:
    """Make SIGTERM a SystemExit and SIGINT a KeyboardInterrupt, in good places. A SIGINT that is ignored stays so."""
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _heard)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _heard)


def bad_place(frame: FrameType | None) -> bool:
    """Whether what is raised in this frame of the main thread would be lost, or leave a lock held."""
    if frame is not None:
        code = frame.f_code
        file = code.co_filename.replace("\\", "/")
        if any(part in file for part in _KEEPERS) and not (file.endswith("/threading.py") and code.co_name in _WAITS):
            return True
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _heard(number: int, frame: FrameType | None, looked: int = 1) -> None:
    if not hasattr(signal, "setitimer") or looked >= LAST or not bad_place(frame):
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def again(_: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)  # None: a library's own, which Python cannot give back
        _heard(number, frame, looked + 1)

    before = signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
