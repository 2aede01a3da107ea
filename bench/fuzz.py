"""A structure-aware mutation fuzzer of the readers: no mutant may crash, hang, take memory or end in an error not ours.

    python bench/fuzz.py gguf --mutants 1000000 --json out/fuzz-gguf.json
    python bench/fuzz.py all --mutants 1000000
    python bench/fuzz.py openvino --mutants 1000000 --seconds 3600     what fits into an hour

A mutant is a valid small file with one to four changes: a field of its structure (a count, length, shape, offset, type, name
or number) given an interesting value, a run of bytes overwritten, doubled, swapped or cut. Each is read whole, headers and
tokenizer, one in eight from the guess of its format on, and if it is accepted a block of some tensors is read too. A run can
be repeated from its seed. SIGTERM ends a run early: it says how many mutants it came to.
"""

from __future__ import annotations

import argparse
import collections
import gc
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mutations

HANG, BLOCKED = 5.0, 600.0
"""Seconds of processor time, and of the clock, that a mutant may take: on a busy machine the clock alone says little."""
MEMORY = 1 << 30
"""Bytes of address space that a run may take on top of what it has after its first files."""


class Hang(BaseException):
    """A mutant took too long. Not an Exception, so that no reader can swallow it."""


def _alarm(number: int, frame: Any) -> None:
    raise Hang


# ---- seeds: what a reader takes


def seeds(reader: str, folder: Path, also: Sequence[Path]) -> list[Path]:
    """Valid inputs of a reader, small, and copies of the folders that `also` names."""
    import fuzzseeds

    made = list(fuzzseeds.make(reader, folder))
    return [*made, *(shutil.copytree(one, folder / f"also-{number}") for number, one in enumerate(also))]


def one(reader: str, path: Path, guess: bool = True) -> str:
    """Read it as users do, or by this reader alone. The name of the outcome; raises what is no error of ours."""
    import slmops
    from slmops.core import plugins
    from slmops.core.errors import SlmopsError
    from slmops.core.scheme import Packed

    try:
        model = slmops.load(path) if guess else plugins.load("formats", reader).read(path)
        tensor = list(model.tensors.values())[-1]
        rows = min(8, tensor.shape[0])
        for tensor in list(model.tensors.values())[:6]:
            rows = min(model.spec.row_multiple, tensor.shape[0]) if len(tensor.shape) > 1 else tensor.shape[0]
            if isinstance(tensor, Packed):
                tensor.block(0, rows)
            tensor.rows(0, rows)
    except SlmopsError as error:
        return type(error).__name__
    return "read"


class Input:
    """A valid input with its files held open, of which any can be overwritten and is put back before the next change.

    A file is written in place and cut to length: on a file system in memory that takes no new pages.
    """

    def __init__(self, path: Path):
        self.path = path
        base = path if path.is_dir() else path.parent
        held = _small_files(path)
        self.contents = {name: content for name, content, _ in held}
        self.names, self.weights = list(self.contents), [*itertools.accumulate(weight for _, _, weight in held)]
        self._mutations = {name: mutations.BY_ENDING.get(Path(name).suffix, mutations.of_bytes) for name in self.names}
        self._places = {name: os.open(base / name, os.O_WRONLY) for name in self.names}
        self._changed: set[str] = set()

    def change(self, rng: random.Random) -> dict[str, bytes]:
        """Write a mutant; the files that differ from the valid ones."""
        changed: dict[str, bytes] = {}
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            (name,) = rng.choices(self.names, cum_weights=self.weights)
            changed[name] = self._mutations[name](rng, changed.get(name) or self.contents[name])
        for name in self._changed - changed.keys():
            self._write(name, self.contents[name])
        for name, content in changed.items():
            self._write(name, content)
        self._changed = set(changed)
        return changed

    def _write(self, name: str, content: bytes) -> None:
        place = self._places[name]
        os.pwrite(place, content, 0)
        os.ftruncate(place, len(content))


def run(reader: str, mutants: int, seed: int, seconds: float, also: Sequence[Path], progress: bool) -> dict[str, Any]:
    """Fuzz one reader. The counts by outcome, the slowest mutant, and the failures with what repeats them."""
    rng = random.Random(f"{reader} {seed}")
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[dict[str, Any]] = []
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as scratch:
        originals = seeds(reader, Path(scratch) / "seeds", also)
        for original in originals:
            assert one(reader, original) == "read", f"the seed {original} is refused"
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for alarm in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(alarm, _alarm)
        inputs = [Input(original) for original in originals]
        # Of a pair of OpenVINO folders the short one three times in four: it is read in a third of the time.
        shares = [*itertools.accumulate(3.0 if "stripped" in original.name else 1.0 for original in originals)]
        gc.freeze()  # what is loaded by now stays: no collection need look at it again
        gc.set_threshold(50_000)
        began, slowest, number = time.monotonic(), 0.0, 0
        while number < mutants and not told and time.monotonic() - began < seconds:
            (held,) = rng.choices(inputs, cum_weights=shares)
            changed = held.change(rng)
            start = time.process_time()
            try:
                signal.setitimer(signal.ITIMER_PROF, HANG)
                signal.setitimer(signal.ITIMER_REAL, BLOCKED)
                outcome = one(reader, held.path, guess=number % 8 == 0)
            except Hang:
                outcome = "hang"
            except MemoryError:
                outcome = "memory"
            except BaseException as error:
                outcome = f"traceback {type(error).__name__}"
                if len(failures) < 50:
                    trace = traceback.format_exc().splitlines()[-5:]
                    failures.append({"mutant": number, "files": sorted(changed), "error": repr(error)[:200], "trace": trace})
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, time.process_time() - start)
            if outcome in ("hang", "memory"):
                failures.append({"mutant": number, "files": sorted(changed), "error": outcome})
            outcomes[outcome] += 1
            number += 1
            if progress and number % 2000 == 0:
                rate = number / (time.monotonic() - began)
                print(f"\r{reader}: {number:,} of {mutants:,}, {rate:,.0f} a second", end="", file=sys.stderr)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    bad = sum(count for name, count in outcomes.items() if name in ("hang", "memory") or name.startswith("traceback"))
    return {
        "reader": reader, "mutants": number, "seed": seed, "seconds": round(time.monotonic() - began, 1),
        "outcomes": dict(outcomes.most_common()), "slowest_seconds": round(slowest, 3), "peak_rss_bytes": peak,
        "failed": bad, "failures": failures,
    }  # fmt: skip


def _small_files(original: Path) -> list[tuple[str, bytes, float]]:
    """(name, content, weight) of the files to change: structure first, weights hardly."""
    base = original if original.is_dir() else original.parent
    names = [path for path in sorted(base.iterdir()) if path.is_file()] if original.is_dir() else [original]
    weights = {".safetensors": 4.0, ".gguf": 4.0, ".onnx": 4.0, ".xml": 4.0, ".bin": 0.2, ".data": 0.2}
    by_name = {"config.json": 3.0, "slmops.json": 1.0, "genai_config.json": 2.0, "tokenizer.json": 0.5}
    return [(path.name, path.read_bytes(), by_name.get(path.name, weights.get(path.suffix, 0.5))) for path in names
            if "tokenizer.xml" not in path.name and "detokenizer" not in path.name]  # fmt: skip


READERS = ("gguf", "huggingface", "mlx", "compressed_tensors", "gptq", "awq", "bitnet", "onnx", "openvino")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=(*READERS, "all"))
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop then, and say how many it came to")
    parser.add_argument(
        "--also", type=Path, nargs="+", default=[], help="folders of others' making, such as GenAI's builder's"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.also and arguments.reader == "all":
        parser.error("--also is for one reader")
    found = []
    for reader in READERS if arguments.reader == "all" else (arguments.reader,):
        if arguments.reader == "all":  # a process each: the limit on memory is the process's
            part = Path(tempfile.mkdtemp()) / "part.json"
            command = [sys.executable, __file__, reader, "--mutants", str(arguments.mutants), "--seed", str(arguments.seed)]
            import subprocess

            subprocess.run([*command, "--seconds", str(arguments.seconds), "--json", str(part)], check=False)
            found.extend(json.loads(part.read_text()))
            shutil.rmtree(part.parent)
        else:
            o = arguments
            found.append(run(reader, o.mutants, o.seed, o.seconds, o.also, sys.stderr.isatty()))
    text = json.dumps(found, indent=1)
    if arguments.json:
        arguments.json.write_text(text)
    else:
        print(text)
    return 1 if any(one["failed"] for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
