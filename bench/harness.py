"""Run a command and measure it; facts about the machine. Standard library only.

`run` reports wall seconds, user + system CPU seconds and peak memory of one command and all its descendants that were
waited for. Peak memory is ru_maxrss, the kernel's own maximum over each single process, so it misses no spike; beside
it stands a sampled sum over the process tree, for commands that spread their work over processes.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.1
QUIET = {  # no look-ups, no telemetry, no progress bars: offline machines otherwise wait for time-outs
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "CI": "true",  # what openvino-telemetry heeds
    "PYTHONWARNINGS": "ignore",
}


class RunError(RuntimeError):
    """A measured command ended with an error."""


@dataclass(frozen=True)
class Usage:
    """What one run took. Seconds and bytes; `others` is the mean number of CPUs that the rest of the machine used."""

    wall: float
    cpu: float
    rss: int
    tree: int
    others: float

    def __add__(self, more: Usage) -> Usage:
        """One run after another: times add up, memory is the greater."""
        wall = self.wall + more.wall
        others = (self.others * self.wall + more.others * more.wall) / wall if wall else 0.0
        return Usage(wall, self.cpu + more.cpu, max(self.rss, more.rss), max(self.tree, more.tree), others)


def run(command: Sequence[str | Path], log: Path | None = None, env: Mapping[str, str] | None = None) -> Usage:
    """Run `command`, its output to `log`; raises RunError with the end of the output when it fails.

    A child's ru_maxrss starts at its parent's size (the kernel keeps it over exec), so the caller must stay small: that
    is why this module and the scripts around it import nothing heavy.
    """
    words = [str(w) for w in command]
    with (log or Path(os.devnull)).open("wb") as sink:
        os.sync()  # a former run's dirty pages are not this run's cost
        busy, start = _busy(), time.perf_counter()
        try:
            child = subprocess.Popen(words, stdout=sink, stderr=subprocess.STDOUT, env=os.environ | QUIET | dict(env or {}))
        except FileNotFoundError as e:
            raise RunError(f"{words[0]} is not there: run `python bench/peers.py setup` first") from e
        peak, done = [0], threading.Event()
        watch = threading.Thread(target=_sample, args=(child.pid, peak, done), daemon=True)
        watch.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        done.set()
        watch.join()
        child.returncode = code = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    if code:
        tail = log.read_text(errors="replace")[-2000:] if log else "(no log was kept)"
        raise RunError(f"`{' '.join(words)}` ended with {code}:\n{tail}")
    rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    others = max(0.0, (_busy() - busy - cpu) / wall) if busy else 0.0
    return Usage(wall, cpu, rss, max(peak[0], rss), others)


def _busy() -> float:
    """CPU seconds that the whole machine has used so far; 0 where /proc is missing."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, steal = fields
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _sample(pid: int, peak: list[int], done: threading.Event) -> None:
    """Keep the greatest sum of resident memory over the tree below `pid` in peak[0] (shared pages count each time)."""
    page = os.sysconf("SC_PAGE_SIZE")
    while not done.wait(SAMPLE_SECONDS):
        total, todo = 0, [pid]
        while todo:
            p = todo.pop()
            try:
                total += int(Path(f"/proc/{p}/statm").read_text().split()[1]) * page
                for task in Path(f"/proc/{p}/task").iterdir():
                    todo += [int(c) for c in (task / "children").read_text().split()]
            except OSError:
                continue  # it ended meanwhile
        peak[0] = max(peak[0], total)


def size(path: Path) -> int:
    """Bytes on disk of a file or a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def warm(path: Path) -> None:
    """Read a checkpoint once, so that every run finds it in the page cache."""
    buffer = bytearray(1 << 22)
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb", buffering=0) as f:
                while f.readinto(buffer):
                    pass


def drop_caches() -> None:
    """Empty the page cache, for cold runs; needs root on Linux."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as e:
        raise RunError(f"the page cache cannot be dropped ({e.strerror}): run as root, or leave out --cold") from e


def machine() -> dict[str, Any]:
    """CPU, cores, memory, system and interpreter."""
    cpu, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                cpu = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    except OSError:
        pass
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "flags": [f for f in wanted if f in flags],
        "cores": cores,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
    }


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    v = sorted(values)
    n = len(v)
    return v[n // 2] if n % 2 else (v[n // 2 - 1] + v[n // 2]) / 2


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Median and range of a/b over pairs taken one after the other."""
    r = [x / y for x, y in zip(a, b, strict=True)]
    return {"median": median(r), "min": min(r), "max": max(r)}


def show(r: Mapping[str, float]) -> str:
    """A ratio as `median (min..max)`."""
    return f"{r['median']:.2f} ({r['min']:.2f}..{r['max']:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def dump(usage: Usage) -> dict[str, float]:
    """Usage as JSON holds it."""
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(usage).items()}


def write_json(path: Path | None, value: Any) -> None:
    """Write a report beside the table when a path was given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n")
