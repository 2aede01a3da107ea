#!/usr/bin/env python3
"""Compare slmops' conversion with each format's own converter, in interleaved pairs.

    python bench/convert.py pairs SOURCE [--formats gguf onnx ...] [--repeat 5] [--cold] [--json FILE]
    python bench/convert.py memory SHALLOW DEEP [--formats ...] [--json FILE]

`pairs` runs, for every repetition and format, slmops and then the peer (A B A B), and slmops once with every format in
one call against the sum of the peers in the same repetition. Figures are wall and CPU seconds, peak resident memory and
output bytes; ratios are ours over theirs, the median of the pairs with their range. The page cache is warm unless
--cold.

`memory` converts checkpoints of one shape and growing depth (make_checkpoint.py --layers) and shows whether the peak
resident memory grows with the model.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import peers
from harness import Usage

PEER_OF = {  # the converter that writes the same format and bits; compressed-tensors has none that fits a CPU
    "gguf": "gguf-q4_0",
    "onnx": "onnx",
    "openvino": "openvino",
    "mlx": "mlx",
    "compressed-tensors": None,
}
ALL = "all in one call"
Runs = dict[str, list[dict[str, float]]]


def slmops(words: Sequence[str], source: Path, formats: Sequence[str], out: Path) -> list[str | Path]:
    """The command line of one conversion; several formats are separated by commas."""
    return [*words, "convert", source, "--to", ",".join(formats), "--quantize", "q4", "--no-verify", "-o", out]


def find_slmops(given: str | None) -> list[str]:
    """The command that was given, else `slmops` on PATH, else the module in this interpreter."""
    words = shlex.split(given) if given else ["slmops"] if shutil.which("slmops") else [sys.executable, "-m", "slmops"]
    if subprocess.run([*words, "--help"], capture_output=True).returncode:
        raise SystemExit(f"error: `{' '.join(words)} --help` fails: install slmops here or name it with --slmops")
    return words


class Bench:
    """One session: where things are, and how a run is prepared."""

    def __init__(self, o: argparse.Namespace, scratch: Path) -> None:
        self.words = find_slmops(o.slmops)
        self.env: Path = o.env.absolute()
        self.cold: bool = o.cold
        self.scratch = scratch

    def prepare(self, source: Path) -> None:
        """Bring the page cache into the stated condition."""
        harness.warm(source)
        if self.cold:
            harness.drop_caches()

    def ours(self, source: Path, formats: Sequence[str]) -> tuple[Usage, int]:
        """Convert with slmops; what it took and the bytes written."""
        out = self.scratch / "ours"
        peers.remove(out)
        self.prepare(source)
        used = harness.run(slmops(self.words, source, formats, out), log=self.scratch / "ours.log")
        nbytes = harness.size(out)
        peers.remove(out)
        return used, nbytes

    def theirs(self, source: Path, name: str) -> tuple[Usage, int]:
        """Convert with a peer; all its commands together."""
        self.prepare(source)
        used, made = peers.convert(name, self.env, source, self.scratch / "theirs")
        nbytes = harness.size(made)
        peers.remove(made)
        return used, nbytes


def entry(used: Usage, nbytes: int) -> dict[str, float]:
    """One run as the report keeps it."""
    return harness.dump(used) | {"bytes": nbytes}


def pairs(bench: Bench, source: Path, formats: Sequence[str], repeat: int) -> dict[str, Any]:
    """Interleaved runs; returns every run by format and side."""
    found: dict[str, Runs] = {f: {"ours": [], "theirs": []} for f in [*formats, ALL]}
    for i in range(repeat):
        total: Usage | None = None
        written = 0
        for f in formats:
            found[f]["ours"].append(entry(*bench.ours(source, [f])))
            peer = PEER_OF[f]
            if peer:
                used, nbytes = bench.theirs(source, peer)
                found[f]["theirs"].append(entry(used, nbytes))
                total = total + used if total else used
                written += nbytes
            print(f"{i + 1}/{repeat} {f}: {_walls(found[f])}", file=sys.stderr, flush=True)
        if len(formats) > 1:
            found[ALL]["ours"].append(entry(*bench.ours(source, formats)))
            if total:
                found[ALL]["theirs"].append(entry(total, written))
            print(f"{i + 1}/{repeat} {ALL}: {_walls(found[ALL])}", file=sys.stderr, flush=True)
    return {f: runs | {"ratios": _ratios(runs)} for f, runs in found.items() if runs["ours"]}


def _walls(runs: Runs) -> str:
    return " against ".join(f"{side[-1]['wall']:.1f} s" for side in runs.values() if side)


def _ratios(runs: Runs) -> dict[str, dict[str, float]]:
    """Ours over theirs, pair by pair."""
    if not runs["theirs"]:
        return {}
    keys = ("wall", "cpu", "rss", "bytes")
    return {k: harness.ratio([r[k] for r in runs["ours"]], [r[k] for r in runs["theirs"]]) for k in keys}


def pairs_table(found: dict[str, Any]) -> str:
    """Medians of both sides and the ratios of the pairs."""
    rows = []
    for f, runs in found.items():
        cells = [f]
        for key, scale, digits in (("wall", 1, 1), ("cpu", 1, 1), ("rss", 1e6, 0), ("bytes", 1e6, 0)):
            for side in ("ours", "theirs"):
                v = [r[key] for r in runs[side]]
                cells.append(f"{harness.median(v) / scale:.{digits}f}" if v else "-")
            if key != "bytes":
                cells.append(harness.show(runs["ratios"][key]) if runs["ratios"] else "-")
        rows.append(cells)
    head = ["format"]
    for name in ("wall s", "CPU s", "peak RSS MB"):
        head += [f"{name}, slmops", "peer", "ratio"]
    return harness.table([*head, "output MB, slmops", "peer"], rows)


def memory(bench: Bench, sources: Sequence[Path], formats: Sequence[str]) -> dict[str, Any]:
    """Peak memory of each format at each depth."""
    found: dict[str, Any] = {}
    for f in [*formats, ALL] if len(formats) > 1 else formats:
        found[f] = {}
        for source in sources:
            layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
            used, nbytes = bench.ours(source, formats if f == ALL else [f])
            found[f][layers] = entry(used, nbytes) | {"input_bytes": harness.size(source)}
            print(f"{f}, {layers} layers: {used.rss / 1e6:.0f} MB", file=sys.stderr, flush=True)
    return found


def memory_table(found: dict[str, Any]) -> str:
    """Peak memory by depth, and what one layer more adds."""
    depths = sorted(next(iter(found.values())))
    rows = []
    for f, by in found.items():
        cells = [f"{by[d]['rss'] / 1e6:.0f} (tree {by[d]['tree'] / 1e6:.0f})" for d in depths]
        low, high = depths[0], depths[-1]
        slope = (by[high]["rss"] - by[low]["rss"]) / 1e6 / max(1, high - low)
        rows.append([f, *cells, f"{slope:+.2f}"])
    return harness.table(["peak RSS MB", *(f"{d} layers" for d in depths), "MB a layer"], rows)


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = a.add_subparsers(dest="verb", required=True)
    p = verbs.add_parser("pairs", help="against the peers")
    p.add_argument("source", type=Path)
    p.add_argument("--repeat", type=int, default=5)
    m = verbs.add_parser("memory", help="peak memory against depth")
    m.add_argument("source", type=Path, nargs="+", help="checkpoints of one shape, different in depth")
    for v in (p, m):
        v.add_argument("--formats", nargs="+", choices=PEER_OF, default=list(PEER_OF))
        v.add_argument("--env", type=Path, default=peers.default_env(), help="the peers' environments")
        v.add_argument("--slmops", help="the command, if it is not `slmops` on PATH")
        v.add_argument("--work", type=Path, default=Path(), help="a folder on the disk to write to")
        v.add_argument("--cold", action="store_true", help="drop the page cache before every run (needs root)")
        v.add_argument("--json", type=Path, help="write every run here")
    o = a.parse_args()
    with tempfile.TemporaryDirectory(dir=o.work, prefix="bench-") as scratch:
        bench = Bench(o, Path(scratch))
        try:
            if o.verb == "pairs":
                found = pairs(bench, o.source, o.formats, o.repeat)
                print(pairs_table(found))
            else:
                found = memory(bench, o.source, o.formats)
                print(memory_table(found))
        except harness.RunError as e:
            raise SystemExit(f"error: {e}") from e
    facts = {"machine": harness.machine(), "versions": peers.versions(bench.env), "cold": o.cold}
    sources = o.source if isinstance(o.source, list) else [o.source]
    harness.write_json(o.json, facts | {"source": [s.name for s in sources], o.verb: found})
    print(f"\n{facts['machine']['cpu']}, {facts['machine']['cores']} cores, load {facts['machine']['load_average']}")


if __name__ == "__main__":
    main()
