"""A signal ends a run wherever it falls."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from slmops.cli import _stopping

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX signals")


def places(work: Callable[[], object]) -> dict[tuple[str, str], bool]:
    """(file's name, function) of every Python function that the work enters on this thread -> whether it is a bad place."""
    found: dict[tuple[str, str], bool] = {}

    def seen(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            file = frame.f_code.co_filename.rpartition("/")[2]
            found[file, frame.f_code.co_name] = _stopping.bad_place(frame)

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def test_where_the_interpreter_holds_its_import_lock_is_no_place() -> None:
    for name in ("colorsys", "this_is_no_module"):
        sys.modules.pop(name, None)
    found = places(lambda: __import__("colorsys"))
    machinery = {place: bad for place, bad in found.items() if place[0].endswith("importlib._bootstrap>")}
    assert machinery and all(machinery.values())
    assert found["colorsys.py", "<module>"] is False, "a module that takes long can be left"


def test_where_futures_are_locked_is_no_place_and_a_wait_is_one() -> None:
    def work() -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            concurrent.futures.wait([pool.submit(pow, 2, 2**16) for _ in range(8)])

    found = places(work)
    assert found["_base.py", "__enter__"] and found["thread.py", "submit"] and found["threading.py", "__enter__"]
    assert found["threading.py", "wait"] is False


CHILD = """
import signal, time
from slmops.cli import _stopping
_stopping.arm()
_stopping.LAST = {last}

class Thing:
    def __del__(self):
        signal.raise_signal(signal.{name})
        time.sleep({seconds})
        print("ended", flush=True)

Thing()
time.sleep(20 if {last} > 5 else 0)
"""


def finalizing(name: str, seconds: float, last: int) -> subprocess.CompletedProcess[str]:
    child = CHILD.format(name=name, seconds=seconds, last=last)
    return subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", -signal.SIGINT)])
def test_a_signal_in_a_finalizer_is_not_lost(name: str, code: int) -> None:
    run = finalizing(name, 0.1, 100)
    assert run.returncode == code and run.stdout == "ended\n" and "ignored" not in run.stderr


def test_a_bad_place_that_does_not_end_is_left_all_the_same() -> None:
    run = finalizing("SIGTERM", 10, 5)
    assert run.stdout == "" and "SystemExit: 143" in run.stderr, "what is raised in a finalizer is printed"


def test_an_ignored_interrupt_stays_ignored() -> None:
    child = "import signal; signal.signal(2, signal.SIG_IGN)\nfrom slmops.cli import _stopping; _stopping.arm()\n"
    subprocess.run([sys.executable, "-c", child + "signal.raise_signal(2)"], check=True, timeout=60)
