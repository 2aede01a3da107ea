#!/usr/bin/env python3
"""Quality at equal bits: slmops' solved codes beside the best that mlx-lm, the GenAI builder and NNCF make themselves.

    python bench/quality_peers.py MODEL --calibrate FILE --text NAME=FILE ... [--work DIR] [--peers NAME ...] [--tune N]

Every matrix is quantized, embedding and head included, by all of them; bits are of codes, scales and zero points together.
Each artifact is read code for code (formats/), its numbers are written as an f32 GGUF, and llama-perplexity judges that
one, as in bench/quality.py: one judge for all formats. Peers run in the environments of bench/peers.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import harness
import peers
from quality import Bench

from slmops import compile as compiler
from slmops.core.scheme import Packed
from slmops.core.tensor import elements
from slmops.passes.calibrate import Calibration
from slmops.source import load

Command = list[str | Path]


def mlx_rounded(env: Path, model: Path, text: Path, out: Path) -> Command:
    flags = ["-q", "--q-bits", "4", "--q-group-size", "64"]
    return [peers.python(env, "mlx"), "-m", "mlx_lm", "convert", *flags, "--hf-path", model, "--mlx-path", out]


def mlx_gptq(env: Path, model: Path, text: Path, out: Path) -> Command:
    """Its calibration text is looked for in a cache in the home folder; main() puts ours there."""
    flags = ["--bits", "4", "--group-size", "64", "--fallback-bits", "4", "--fallback-group-size", "64"]
    return [peers.python(env, "mlx"), "-m", "mlx_lm", "gptq", *flags, "--model", model, "--mlx-path", out]


def genai(env: Path, model: Path, text: Path, out: Path) -> Command:
    options = ["--extra_options", "algo_config=k_quant", "op_types_to_quantize=MatMul/Gather"]
    builder: Command = [peers.python(env, "onnx"), "-m", "onnxruntime_genai.models.builder"]
    return [*builder, "-i", model, "-o", out, "-p", "int4", "-e", "cpu", "-c", out.with_name("cache"), *options]


def nncf(env: Path, model: Path, text: Path, out: Path) -> Command:
    return [peers.python(env, "openvino"), peers.HERE / "peers" / "nncf_best.py", model, text, "8192", out]


PEERS = {
    "mlx-lm, rounded": (mlx_rounded, ("mlx", "int4-g64-bias-bf16")),
    "mlx-lm, GPTQ": (mlx_gptq, ("mlx", "int4-g64-bias-bf16")),
    "GenAI builder, k_quant": (genai, ("onnx", "q4a")),
    "NNCF, scale estimation and GPTQ": (nncf, ("openvino", "q4")),
}
"""Name -> how it is made, and the format and scheme of ours with as many bits or fewer."""


def judged(bench: Bench, folder: Path, work: Path) -> tuple[float, dict[str, tuple[float, float]]]:
    """Bits for each weight of the matrices, and the divergence by text."""
    model = load(str(folder))
    held = [tensor for tensor in model.tensors.values() if isinstance(tensor, Packed)]
    bits = 8 * sum(tensor.scheme.nbytes(tensor.shape) for tensor in held) / sum(elements(tensor.shape) for tensor in held)
    (made,) = compiler.convert(model, ["gguf"], "f32", work, verify=False, requantize=True, replace=True)
    return bits, bench.divergence(made.folder / "model.gguf")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--text", nargs="+", required=True, metavar="NAME=FILE", help="held-out texts")
    parser.add_argument("--tokens", type=int, default=8192, help="of the calibration text that is used by all")
    parser.add_argument("--tune", type=int, default=8, help="passes of slmops' tuned rows (0: none)")
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's programs; default: those of bench/peers.py")
    parser.add_argument("--work", type=Path, required=True, help="kept, and gone on from")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    given = parser.parse_args(words)
    env = peers.default_env()
    llama = given.llama or peers.llama_tool(env, "llama-perplexity").parent
    work = given.work
    work.mkdir(parents=True, exist_ok=True)
    texts = {name: Path(file) for name, _, file in (text.partition("=") for text in given.text)}
    bench = Bench(given.model, texts, llama, work, given.tokens)
    model = load(str(given.model))
    encoder, content = model.tokenizer.encoder, given.calibrate.read_text(encoding="utf-8", errors="ignore")
    seen = work / "home" / ".cache" / "mlx-lm" / "calibration_v5.txt"
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.write_text(encoder.decode(encoder.encode(content, add_special_tokens=False).ids[: given.tokens]))
    apart = {"HOME": str(work / "home"), "PYTHONPATH": ""}
    print("| artifact | bits for a weight | " + " | ".join(f"{name}: KL x 1000" for name in texts) + " |")
    print("|---|---:|" + "---:|" * len(texts))

    def line(name: str, folder: Path) -> None:
        bits, found = judged(bench, folder, work / "judged")
        cells = (f"{1000 * mean:.3f} ± {1000 * error:.3f}" for mean, error in (found[text] for text in texts))
        print(f"| {name} | {bits:.3f} | {' | '.join(cells)} |", flush=True)

    ours: set[tuple[str, str]] = set()
    for name in given.peers:
        command, mine = PEERS[name]
        out = work / name.replace(" ", "-").replace(",", "")
        if not out.exists():
            harness.run(command(env, given.model, seen, out), log=out.with_suffix(".log"), env=apart)
        line(name, out)
        if mine in ours:
            continue
        ours.add(mine)
        form, scheme = mine
        for said, weighted, tune in (("without PyTorch", False, 0), ("weighted", True, 0), ("tuned", True, given.tune)):
            if said == "tuned" and not tune:
                continue
            folder = work / f"{form}-{scheme}-{said.replace(' ', '-')}"
            with tempfile.TemporaryDirectory(dir=work) as scratch:
                text = Calibration(model, content, Path(scratch), given.tokens, weighted, tune)
                compiler.convert(model, [form], scheme, folder, verify=False, calibration=text)
            line(f"slmops {scheme} in {form}, {said}", folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
