"""A structure-aware mutation fuzzer of the readers: no mutant may crash, hang, take memory or end in an error not ours.

    python bench/fuzz.py gguf --mutants 1000000 --json out/fuzz-gguf.json
    python bench/fuzz.py all --mutants 1000000

A mutant is a valid small file with one to four changes: a field of its structure (a count, length, shape, offset, type, name
or number) given an interesting value, a run of bytes overwritten, doubled, swapped or cut. Each is read whole, headers and
tokenizer, one in eight from the guess of its format on, and if it is accepted a block of some tensors is read too. A run can
be repeated from its seed.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HANG, BLOCKED = 5.0, 600.0
"""Seconds of processor time, and of the clock, that a mutant may take: on a busy machine the clock alone says little."""
MEMORY = 1 << 30
"""Bytes of address space that a run may take on top of what it has after its first files."""
NUMBERS = (0, 1, -1, 2, 3, 7, 8, 31, 32, 33, 127, 128, 255, 256, 4095, 4096, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
VALUES: tuple[Any, ...] = (*NUMBERS, -(1 << 63), 1e308, -0.5, 0.5, float("nan"), float("inf"), None, True, False, "", "x",
                           "F32", "../../etc/passwd", "\0", "é" * 50, [], {}, [1], {"a": 1}, [[]], "9" * 400)  # fmt: skip


class Hang(BaseException):
    """A mutant took too long. Not an Exception, so that no reader can swallow it."""


def _alarm(number: int, frame: Any) -> None:
    raise Hang


# ---- mutations: (random, content) -> content


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes overwritten, runs doubled, moved, cut out, or the end cut off."""
    if not data:
        return bytes([rng.randrange(256)])
    held, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        held[at] = rng.randrange(256)
    elif kind == 1:
        held[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
        held[at : at + width] = value.to_bytes(width, "little")
    elif kind == 3:
        run = bytes(held[at : at + rng.randrange(1, 64)])
        held[at:at] = run
    elif kind == 4:
        del held[at : at + rng.randrange(1, 64)]
    else:
        del held[at:]
    return bytes(held)


def _place(rng: random.Random, value: Any) -> tuple[Any, Any] | None:
    """A (container, key) somewhere in a JSON value: down from the top, stopping anywhere."""
    found = None
    while value and isinstance(value, dict | list):
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        found, value = (value, key), value[key]
        if rng.random() < 0.2:
            break
    return found


def of_json(rng: random.Random, value: Any) -> Any:
    """A value replaced, removed, doubled or renamed, in place."""
    place = _place(rng, value)
    if place is None:
        return rng.choice(VALUES)
    holder, key = place
    kind = rng.randrange(5)
    if kind <= 2:
        old = holder[key]
        if isinstance(old, int) and not isinstance(old, bool) and rng.random() < 0.5:
            holder[key] = (
                old + rng.choice((-1, 1, 8, -8, 64)) if rng.random() < 0.5 else old * rng.choice((-1, 2, 3, 1 << 20))
            )
        else:
            holder[key] = rng.choice(VALUES)
    elif kind == 3:
        del holder[key]
    elif isinstance(holder, dict):
        other = str(rng.choice(list(holder)))
        if rng.random() < 0.5:  # "a.weight" and "b.scales" make "a.scales"
            other = f"{str(key).rpartition('.')[0]}.{other.rpartition('.')[2]}"
        holder[other] = holder[key]
    else:
        holder.insert(rng.randrange(len(holder) + 1), holder[key])
    return value


def json_file(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.1:
        return of_bytes(rng, data)
    try:
        value = json.loads(data)
    except ValueError:
        return of_bytes(rng, data)
    return json.dumps(of_json(rng, value)).encode()


def safetensors_file(rng: random.Random, data: bytes) -> bytes:
    """The header as JSON, the length before it, duplicate keys, or bytes."""
    kind = rng.randrange(8)
    if kind == 0 or len(data) < 8:
        return of_bytes(rng, data)
    (length,) = struct.unpack_from("<Q", data)
    if kind == 1:
        return struct.pack("<Q", rng.choice(NUMBERS) & ((1 << 64) - 1)) + data[8:]
    head, body = data[8 : 8 + length], data[8 + length :]
    if kind == 2:
        text = head.decode("utf-8", "replace").strip()
        entry = rng.choice(re.findall(r'"[^"]+":\{[^}]*\}', text) or [""])
        head = (text[:-1] + "," + entry + "}").encode()
    else:
        try:
            head = json.dumps(of_json(rng, json.loads(head))).encode()
        except ValueError:
            return of_bytes(rng, data)
    return struct.pack("<Q", len(head)) + head + body


def gguf_file(rng: random.Random, data: bytes) -> bytes:
    """A field of the header: found by walking it as the format says, in the file as it is now."""
    fields = _gguf_fields(data) if rng.random() < 0.85 else []
    if not fields:
        return of_bytes(rng, data)
    at, width = rng.choice(fields)
    held = bytearray(data)
    if rng.random() < 0.5 and width in (4, 8):
        value = int.from_bytes(held[at : at + width], "little") + rng.choice((-1, 1, 2, 8, 32, 1 << 16))
    else:
        value = rng.choice(NUMBERS)
    held[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(held)


_FIELDS: dict[int, list[tuple[int, int]]] = {}


def _gguf_fields(data: bytes) -> list[tuple[int, int]]:
    """(offset, width) of counts, lengths, types, values, dimensions and offsets, of the first file of this length: mutants
    of a length have their fields where it has them."""
    if len(data) not in _FIELDS:
        if len(_FIELDS) > 1000:
            _FIELDS.clear()
        _FIELDS[len(data)] = _walked(data)
    return _FIELDS[len(data)]


def _walked(data: bytes) -> list[tuple[int, int]]:
    """Gives up where the walk does not fit."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    found, at = [(0, 4), (4, 4), (8, 8), (16, 8)], 24

    def number(width: int) -> int:
        nonlocal at
        found.append((at, width))
        value = int.from_bytes(data[at : at + width], "little")
        at += width
        return value

    def text() -> None:
        nonlocal at
        length = number(8)
        found.append((at, 1))
        at += min(length, len(data))

    try:
        tensors, entries = struct.unpack_from("<QQ", data, 8)
        for _ in range(min(entries, 100)):
            text()
            kind = number(4)
            count = 1
            if kind == 9:
                kind, count = number(4), number(8)
            for _ in range(min(count, 4000)):
                if kind == 8:
                    text()
                else:
                    number(sizes[kind])
        for _ in range(min(tensors, 100)):
            text()
            for _ in range(min(number(4), 8)):
                number(8)
            number(4)
            number(8)
    except (struct.error, KeyError):
        pass
    return [place for place in found if place[0] + place[1] <= len(data)]


def onnx_file(rng: random.Random, data: bytes) -> bytes:
    """Initializers, their places, nodes and attributes through protobuf, or bytes."""
    import onnx

    if rng.random() < 0.3:
        return of_bytes(rng, data)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return of_bytes(rng, data)
    graph = model.graph
    kind = rng.randrange(6)
    if kind <= 2 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        what = rng.randrange(4)
        if what == 0 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([n for n in NUMBERS if n < 1 << 63])
        elif what == 1:
            tensor.data_type = rng.choice((0, 1, 2, 3, 7, 10, 11, 16, 21, 99))
        elif what == 2 and tensor.external_data:
            entry = rng.choice(tensor.external_data)
            entry.value = str(rng.choice(VALUES))[:200]
        else:
            tensor.name = rng.choice(graph.initializer).name
    elif kind == 3 and graph.node:
        node = rng.choice(graph.node)
        if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(("", "x", rng.choice(graph.initializer).name))
    elif kind == 4 and graph.node:
        node = rng.choice(graph.node)
        if node.attribute:
            rng.choice(node.attribute).i = rng.choice([n for n in NUMBERS if n < 1 << 63])
    elif graph.node:
        at = rng.randrange(len(graph.node))
        if rng.random() < 0.5:
            del graph.node[at]
        else:
            graph.node.add().CopyFrom(graph.node[at])
    return bytes(model.SerializeToString())


def xml_file(rng: random.Random, data: bytes) -> bytes:
    """An attribute's value, a layer or an edge dropped or doubled, an entity, or bytes."""
    text = data.decode("utf-8", "replace")
    kind = rng.randrange(6)
    if kind == 0:
        return of_bytes(rng, data)
    if kind <= 3:
        place, other = _found(rng, _ATTRIBUTE, text), _found(rng, _ATTRIBUTE, text)
        if place is None or other is None:
            return of_bytes(rng, data)
        value = str(rng.choice(VALUES)) if rng.random() < 0.6 else other[1]
        value = value.replace("&", "").replace("<", "").replace('"', "").replace("\0", "")
        return (text[: place.start(1)] + value + text[place.end(1) :]).encode()
    place = _found(rng, _ELEMENT, text)
    if place is None:
        return of_bytes(rng, data)
    return (text[: place.start()] + place[0] * 2 * (kind == 5) + text[place.end() :]).encode()


_ATTRIBUTE = re.compile(r'\w+="([^"]*)"')
_ELEMENT = re.compile(r"<edge [^>]*/>|<dim>[^<]*</dim>|<port.*?</port>", re.DOTALL)


def _found(rng: random.Random, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The next one from somewhere in the text on."""
    return pattern.search(text, rng.randrange(len(text))) or pattern.search(text) if text else None


MUTATE: dict[str, Callable[[random.Random, bytes], bytes]] = {
    ".json": json_file, ".safetensors": safetensors_file, ".gguf": gguf_file, ".onnx": onnx_file, ".xml": xml_file,
}  # fmt: skip


# ---- seeds: what a reader takes


def seeds(reader: str, folder: Path) -> list[Path]:
    """Valid inputs of a reader, small."""
    import fuzzseeds

    return list(fuzzseeds.make(reader, folder))


def one(reader: str, path: Path, guess: bool = True) -> str:
    """Read it as users do, or by this reader alone. The name of the outcome; raises what is no error of ours."""
    import slmops
    from slmops.core import plugins
    from slmops.core.errors import SlmopsError
    from slmops.core.scheme import Packed

    try:
        model = slmops.load(path) if guess else plugins.load("formats", reader).read(path)
        tensor = next(reversed(model.tensors.values()))
        rows = min(8, tensor.shape[0])
        for tensor in list(model.tensors.values())[:6]:
            rows = min(model.spec.row_multiple, tensor.shape[0]) if len(tensor.shape) > 1 else tensor.shape[0]
            if isinstance(tensor, Packed):
                tensor.block(0, rows)
            tensor.rows(0, rows)
    except SlmopsError as error:
        return type(error).__name__
    return "read"


def run(reader: str, mutants: int, seed: int, progress: bool) -> dict[str, Any]:
    """Fuzz one reader. The counts by outcome, the slowest mutant, and the failures with what repeats them."""
    rng = random.Random(f"{reader} {seed}")
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[dict[str, Any]] = []
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as scratch:
        originals = seeds(reader, Path(scratch) / "seeds")
        for original in originals:
            assert one(reader, original) == "read", f"the seed {original} is refused"
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for alarm in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(alarm, _alarm)
        held = {original: _small_files(original) for original in originals}
        gc.freeze()  # what is loaded by now stays: no collection need look at it again
        began, slowest, peak = time.monotonic(), 0.0, 0
        for number in range(mutants):
            original = rng.choice(originals)
            files, base = held[original], original if original.is_dir() else original.parent
            changed: dict[str, bytes] = {}
            for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
                name = rng.choices([name for name, _, _ in files], [weight for _, _, weight in files])[0]
                content = changed.get(name) or next(content for at, content, _ in files if at == name)
                changed[name] = MUTATE.get(Path(name).suffix, of_bytes)(rng, content)
            for name, content in changed.items():
                (base / name).write_bytes(content)
            start = time.process_time()
            try:
                signal.setitimer(signal.ITIMER_PROF, HANG)
                signal.setitimer(signal.ITIMER_REAL, BLOCKED)
                outcome = one(reader, original, guess=number % 8 == 0)
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
            took = time.process_time() - start
            if took > slowest:
                slowest = took
            if outcome in ("hang", "memory"):
                failures.append({"mutant": number, "files": sorted(changed), "error": outcome})
            outcomes[outcome] += 1
            for name in changed:
                (base / name).write_bytes(next(content for at, content, _ in files if at == name))
            if progress and number % 2000 == 1999:
                rate = (number + 1) / (time.monotonic() - began)
                print(f"\r{reader}: {number + 1:,} of {mutants:,}, {rate:,.0f} a second", end="", file=sys.stderr)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    bad = sum(count for name, count in outcomes.items() if name in ("hang", "memory") or name.startswith("traceback"))
    return {
        "reader": reader, "mutants": mutants, "seed": seed, "seconds": round(time.monotonic() - began, 1),
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
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = []
    for reader in READERS if arguments.reader == "all" else (arguments.reader,):
        if arguments.reader == "all":  # a process each: the limit on memory is the process's
            part = Path(tempfile.mkdtemp()) / "part.json"
            command = [sys.executable, __file__, reader, "--mutants", str(arguments.mutants), "--seed", str(arguments.seed)]
            import subprocess

            subprocess.run([*command, "--json", str(part)], check=False)
            found.extend(json.loads(part.read_text()))
            shutil.rmtree(part.parent)
        else:
            found.append(run(reader, arguments.mutants, arguments.seed, sys.stderr.isatty()))
    text = json.dumps(found, indent=1)
    if arguments.json:
        arguments.json.write_text(text)
    else:
        print(text)
    return 1 if any(one["failed"] for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
