"""A real `slmops optimize` that is interrupted, loses an engine or fills the disk: nothing half done stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import children
from conftest import SAMPLE
from needs import needs
from searched import CALM, remembered, unchanged
from slmops.core.errors import NoSpace

pytestmark = [pytest.mark.slow, needs("xllamacpp"), pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")]
SECONDS = 240


def words(out: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "slmops", "optimize", str(SAMPLE), "-o", str(out), "--format", "gguf"]
    return [*base, "--objective", "size", "--json", "--budget", "1h", *CALM, *more]


@contextlib.contextmanager
def optimizing(out: Path, scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A running search whose temporary folders are in `scratch`."""
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(scratch)}
    pipe = subprocess.PIPE
    with subprocess.Popen(words(out), stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"the moment did not come: {process.stderr.read() if process.poll() is not None else 'too slow'}")
        time.sleep(0.002)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [one for one in psutil.Process(process.pid).children(recursive=True) if "_worker" in " ".join(one.cmdline())]
    return []


def converting(out: Path) -> bool:
    """A second artifact is being written: its bytes are in a temporary folder."""
    return measured(out) > 0 and any(path.stat().st_size for path in out.glob("*/.gguf.*.partial/*.gguf"))


def measuring(out: Path, process: subprocess.Popen[str]) -> bool:
    """The second artifact stands, is not measured yet, and an engine runs."""
    made = [path.stat().st_mtime_ns for path in out.glob("*/gguf")]
    known = [path.stat().st_mtime_ns for path in (out / ".measurements").glob("*.json")]
    return len(made) == 2 and bool(known) and max(known) < max(made) and bool(workers(process))


def measured(out: Path) -> int:
    return len(list((out / ".measurements").glob("*.json")))


def left_over(out: Path, scratch: Path) -> list[Path]:
    return [*out.rglob("*.partial"), *scratch.iterdir()]


def run(out: Path) -> tuple[int, dict[str, object]]:
    done = subprocess.run(words(out), capture_output=True, text=True, check=False, timeout=SECONDS)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("moment", ["conversion", "measurement"])
def test_an_interrupted_search_leaves_nothing_half_done_and_goes_on(moment: str, tmp_path: Path) -> None:
    """By Ctrl-C; gone on with, at the same moment by SIGTERM; then to its end. What was measured stays all the while."""
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    kept: dict[Path, int] = {}
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with optimizing(out, scratch) as process:
            if moment == "conversion":
                wait_for(lambda: converting(out), process)
            else:
                wait_for(lambda: measuring(out, process), process)
            running = workers(process)
            assert unchanged(kept)
            kept = remembered(out)
            process.send_signal(number)
            _, complained = process.communicate(timeout=60)
            assert process.returncode == code, complained
        assert "Traceback" not in complained and not left_over(out, scratch)
        assert not psutil.wait_procs(running, 10)[1]
    ended, found = run(out)
    assert ended == 0 and len(found["trials"]) > 1
    assert kept and unchanged(kept)
    assert measured(out) >= len(found["trials"])


def test_a_killed_engine_costs_its_candidate_alone(tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    with optimizing(out, scratch) as process:
        wait_for(lambda: measuring(out, process), process)
        for one in workers(process):
            one.kill()
        shown, complained = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, complained
    found = json.loads(shown)
    (failed,) = [one for one in found["trials"] if one["measured"] is None]
    assert "killed by SIGKILL" in failed["failure"] and not failed["passed"]
    assert found["choice"] is not None and len(found["trials"]) > 2
    assert not left_over(out, scratch)
    ended, again = run(out)
    assert ended == 0 and all(one["measured"] for one in again["trials"])  # the failed one was tried again


def test_a_full_disk_stops_with_a_clear_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    limited = children.limited(1_000_000, *words(out))
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == NoSpace.exit_code, done.stderr
    assert "Traceback" not in done.stderr and "space" in done.stderr
    assert not list(out.rglob("*.partial")) and not list(out.glob("*/gguf"))


@pytest.mark.skipif(shutil.which("llama-server") is None, reason="there is no llama-server on PATH")
def test_an_engine_without_logits_has_its_codes_judged_in_another(tmp_path: Path) -> None:
    ended, found = run(tmp_path / "out")
    trials = {(one["scheme"], one["engine"]): one["measured"] for one in found["trials"]}
    served = [scheme for scheme, engine in trials if engine == "llamaserver"]
    assert ended == 0 and served
    for scheme in served:
        judged = trials.get((scheme, "llamacpp"))
        assert trials[scheme, "llamaserver"]["quality"] and (judged is None or judged["quality"]["kl"])
    assert run(tmp_path / "out")[1]["choice"] == found["choice"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("which", ["out", "scratch"])
def test_a_small_disk(which: str, tmp_path: Path) -> None:
    small, other = tmp_path / which, tmp_path / "other"
    small.mkdir()
    other.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)], check=False, timeout=60).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        out, scratch = (small / "best", other) if which == "out" else (other / "best", small)
        environment = {**os.environ, "TMPDIR": str(scratch)}
        done = subprocess.run(words(out), capture_output=True, text=True, check=False, env=environment, timeout=SECONDS)
        assert done.returncode == NoSpace.exit_code, done.stderr
        assert "Traceback" not in done.stderr and str(small) in done.stderr
        assert not list(out.rglob("*.partial")) and not list(scratch.iterdir())
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False, timeout=60)
