#!/usr/bin/env python3
"""Quality for bytes: slmops' solved and mixed files beside llama.cpp's with its importance matrix, judged by llama.cpp.

    python bench/quality.py MODEL --calibrate FILE ... --text NAME=FILE ... [--llama DIR] [--work DIR] [--json FILE]

Every file is a real GGUF. The divergence is that of llama-perplexity --kl-divergence against the unquantized file, over the
chunks of each held-out text (windows of 512 tokens, their second halves; the error is llama.cpp's own standard error).
Several --calibrate files are several draws of calibration text: both sides get each of them, and the range is shown.
Mixes are asked for at the bytes of llama.cpp's file, so that equal sizes are compared.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers

from slmops import compile as compiler
from slmops.core.scheme import Packed
from slmops.passes import mix
from slmops.passes.calibrate import Calibration
from slmops.source import load

MEAN = re.compile(r"Mean\s+KLD:\s+([-+0-9.e]+)\s+±\s+([0-9.e]+)")


@dataclass(frozen=True)
class Row:
    """One way to make a file: of llama.cpp, or of slmops; `beside` names what it is compared with."""

    name: str
    beside: str
    scheme: str
    """Of slmops; "mixed" at the bytes of `beside`; of llama.cpp's, its type."""
    weighted: bool | None = None
    """None: not solved."""
    theirs: bool = False
    tune: int = 0
    """Passes over the text that move scales and norms afterwards."""


TUNE = 8
ROWS = (
    Row("Q4_K_M, imatrix", "", "Q4_K_M", theirs=True),
    Row("q4_k_m, rounded", "Q4_K_M, imatrix", "q4_k_m"),
    Row("q4_k_m, solved", "Q4_K_M, imatrix", "q4_k_m", weighted=False),
    Row("q4_k_m, solved, weighted", "Q4_K_M, imatrix", "q4_k_m", weighted=True),
    Row("mixed, solved, weighted", "Q4_K_M, imatrix", "mixed", weighted=True),
    Row("mixed, solved, weighted, tuned", "Q4_K_M, imatrix", "mixed", weighted=True, tune=TUNE),
    Row("Q3_K_M, imatrix", "", "Q3_K_M", theirs=True),
    Row("q3_k_m, solved, weighted", "Q3_K_M, imatrix", "q3_k_m", weighted=True),
    Row("mixed at Q3_K_M's size", "Q3_K_M, imatrix", "mixed", weighted=True),
    Row("mixed at Q3_K_M's size, tuned", "Q3_K_M, imatrix", "mixed", weighted=True, tune=TUNE),
    Row("q4, rounded", "", "q4"),
    Row("q4, solved", "q4, rounded", "q4", weighted=False),
    Row("q4, solved, weighted", "q4, rounded", "q4", weighted=True),
    Row("q4, solved, weighted, tuned", "q4, rounded", "q4", weighted=True, tune=TUNE),
)


class Bench:
    """Makes files and judges them; what is made once stays in `work`."""

    def __init__(self, source: Path, texts: dict[str, Path], llama: Path, work: Path, tokens: int) -> None:
        self._model, self._texts, self._llama, self._work, self._tokens = load(str(source)), texts, llama, work, tokens
        self._reference = self._convert("bf16", work / "reference", None)

    def _tool(self, name: str, *arguments: str | Path) -> str:
        command = [str(self._llama / name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
        return done.stdout + done.stderr

    def _convert(self, scheme: str, out: Path, calibration: Calibration | None) -> Path:
        (made,) = compiler.convert(self._model, ["gguf"], scheme, out, verify=False, calibration=calibration)
        return made.folder / "model.gguf"

    def file(self, row: Row, calibrate: Path, beside: Path | None) -> Path:
        """The GGUF of a row for one draw of calibration text."""
        name = re.sub(r"\W+", "-", row.name)
        out = self._work / f"{calibrate.stem}-{name}"
        if row.theirs:
            return self._theirs(row.scheme, calibrate, out)
        with tempfile.TemporaryDirectory(dir=self._work) as scratch:
            calibration = None
            if row.weighted is not None:
                text = calibrate.read_text(encoding="utf-8", errors="ignore")
                calibration = Calibration(self._model, text, Path(scratch), self._tokens, row.weighted, row.tune)
            scheme = row.scheme
            if scheme == "mixed" and beside is not None:
                held = [tensor for tensor in load(str(beside)).tensors.values() if isinstance(tensor, Packed)]
                size = sum(tensor.scheme.nbytes(tensor.shape) for tensor in held)
                scheme = f"mixed:{8 * size / mix.weights(self._model) - 5e-7:.6f}bpw"
            return self._convert(scheme, out, calibration)

    def _theirs(self, kind: str, calibrate: Path, out: Path) -> Path:
        matrix = self._work / f"{calibrate.stem}.imatrix.gguf"
        if not matrix.is_file():
            self._tool("llama-imatrix", "-m", self._reference, "-f", calibrate, "-o", matrix, "-c", "512")
        out.mkdir(exist_ok=True)
        file = out / "model.gguf"
        if not file.is_file():
            self._tool("llama-quantize", "--imatrix", matrix, self._reference, file, kind)
        return file

    def divergence(self, file: Path) -> dict[str, tuple[float, float]]:
        """Mean KL divergence and its standard error, by text."""
        found = {}
        for name, text in self._texts.items():
            base = self._work / f"{name}.logits"
            common = ("-f", text, "-c", "512")
            if not base.is_file():
                self._tool("llama-perplexity", "-m", self._reference, *common, "--save-all-logits", base)
            for _ in range(3):  # its log's last lines are lost at times
                said = self._tool("llama-perplexity", "-m", file, *common, "--kl-divergence-base", base, "--kl-divergence")
                if (mean := MEAN.search(said)) is not None:
                    break
            else:
                sys.exit(f"llama-perplexity says no mean KLD:\n{said[-1500:]}")
            found[name] = float(mean[1]), float(mean[2])
        return found


def table(found: dict[str, list[dict[str, Any]]], texts: Sequence[str]) -> str:
    """Of each row: bytes, and for each text the mean over draws, the standard error, the ratio and its range."""
    lines = ["| file | MB | " + " | ".join(f"{name}: KL x 1000 | ratio" for name in texts) + " |"]
    lines.append("|---|---:|" + "---:|---:|" * len(texts))
    for row in ROWS:
        draws = found.get(row.name)
        if not draws:
            continue
        cells = []
        for name in texts:
            values = [draw["kl"][name] for draw in draws]
            mean = sum(value for value, _ in values) / len(values)
            error = max(error for _, error in values)
            cells.append(f"{1000 * mean:.3f} ± {1000 * error:.3f}")
            if row.beside in found:
                ratios = [
                    one["kl"][name][0] / other["kl"][name][0] for one, other in zip(draws, found[row.beside], strict=True)
                ]
                spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
                cells.append(f"{sum(ratios) / len(ratios):.2f}{spread}")
            else:
                cells.append("")
        size = sum(float(draw["bytes"]) for draw in draws) / len(draws) / 1e6
        lines.append(f"| {row.name} | {size:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True, help="one draw of calibration text each")
    parser.add_argument("--text", nargs="+", required=True, metavar="NAME=FILE", help="held-out texts")
    parser.add_argument("--tokens", type=int, default=8192, help="of a calibration text that slmops uses")
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's programs; default: those of bench/peers.py")
    parser.add_argument("--work", type=Path, help="kept, and gone on from; default: a temporary folder")
    parser.add_argument("--rows", nargs="*", help="only these, by name")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    llama = given.llama or peers.llama_tool(peers.default_env(), "llama-perplexity").parent
    if shutil.which(str(llama / "llama-imatrix")) is None:
        sys.exit(f"{llama} has no llama-imatrix: build llama.cpp's tools and give their folder with --llama")
    texts = {name: Path(file) for name, _, file in (text.partition("=") for text in given.text)}
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(given.model, texts, llama, work, given.tokens)
        found: dict[str, list[dict[str, object]]] = {}
        files: dict[tuple[str, Path], Path] = {}
        for row in ROWS:
            if (
                given.rows
                and row.name not in given.rows
                and row.name not in [r.beside for r in ROWS if r.name in given.rows]
            ):
                continue
            for calibrate in given.calibrate:
                file = bench.file(row, calibrate, files.get((row.beside, calibrate)))
                files[row.name, calibrate] = file
                one = {"calibrate": calibrate.name, "bytes": file.stat().st_size, "kl": bench.divergence(file)}
                found.setdefault(row.name, []).append(one)
                print(row.name, one, file=sys.stderr, flush=True)
    print(table(found, list(texts)))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
