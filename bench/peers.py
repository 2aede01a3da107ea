#!/usr/bin/env python3
"""Install the converters that people use today and run them, measured, on one checkpoint.

    python bench/peers.py setup [PEER ...] [--env bench/.peers]
    python bench/peers.py run SOURCE OUT_FOLDER [--only NAME ...] [--json FILE]
    python bench/peers.py versions

Each stack gets a virtual environment of its own below --env, from the requirements in bench/peers/. The llama.cpp
tools are built for this CPU from the source that the llama-cpp-python sdist carries; that takes cmake, a C++ compiler
and minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import RunError, Usage

HERE = Path(__file__).resolve().parent
TOOLS = ("llama-quantize", "llama-imatrix", "llama-bench", "llama-server", "llama-perplexity")
Command = list[str | Path]


@dataclass(frozen=True)
class Peer:
    """One converter: the stack it needs and its commands, which write `out` (a file or a folder)."""

    name: str
    stack: str
    suffix: str
    about: str
    commands: Callable[[Path, Path, Path], list[Command]]


def default_env() -> Path:
    """Where the peers' environments lie: SLMOPS_PEERS, else bench/.peers."""
    return Path(os.environ.get("SLMOPS_PEERS", HERE / ".peers"))


def python(env: Path, stack: str) -> Path:
    """The interpreter of a peer's environment."""
    return env / "venv" / stack / "bin" / "python"


def llama_tool(env: Path, tool: str) -> Path:
    """A natively built llama.cpp program."""
    return env / "llamacpp" / "build" / "bin" / tool


def _gguf(env: Path, source: Path, out: Path) -> list[Command]:
    script = HERE / "peers" / "convert_hf_to_gguf.py"
    vendor = env / "llamacpp" / "sdist" / "vendor" / "llama.cpp"
    return [[python(env, "llamacpp"), script, vendor, source, "--outtype", "bf16", "--outfile", out]]


def _gguf_quantized(kind: str, *flags: str) -> Callable[[Path, Path, Path], list[Command]]:
    def commands(env: Path, source: Path, out: Path) -> list[Command]:
        middle = out.with_name(out.name + ".bf16")
        threads = str(harness.machine()["cores"])
        quantize: Command = [llama_tool(env, "llama-quantize"), *flags, middle, out, kind, threads]
        return [*_gguf(env, source, middle), quantize]

    return commands


def _mlx(env: Path, source: Path, out: Path) -> list[Command]:
    args = ["-q", "--q-bits", "4", "--q-group-size", "32"]
    return [[python(env, "mlx"), "-m", "mlx_lm", "convert", "--hf-path", source, "--mlx-path", out, *args]]


def _onnx(env: Path, source: Path, out: Path) -> list[Command]:
    builder: Command = [python(env, "onnx"), "-m", "onnxruntime_genai.models.builder"]
    return [[*builder, "-i", source, "-o", out, "-p", "int4", "-e", "cpu", "-c", out.with_name("onnx-cache")]]


def _openvino(env: Path, source: Path, out: Path) -> list[Command]:
    weights = ["--weight-format", "int4", "--sym", "--group-size", "32", "--ratio", "1.0"]
    tool = python(env, "openvino").with_name("optimum-cli")
    return [[tool, "export", "openvino", "-m", source, "--task", "text-generation-with-past", *weights, out]]


PEERS = {
    p.name: p
    for p in (
        Peer("gguf-bf16", "llamacpp", ".gguf", "llama.cpp convert_hf_to_gguf.py --outtype bf16", _gguf),
        Peer("gguf-q4_0", "llamacpp", ".gguf", "the same, then llama-quantize Q4_0", _gguf_quantized("Q4_0")),
        Peer("gguf-q4_0-pure", "llamacpp", ".gguf", "with --pure: every matrix", _gguf_quantized("Q4_0", "--pure")),
        Peer("gguf-q8_0", "llamacpp", ".gguf", "the same, then llama-quantize Q8_0", _gguf_quantized("Q8_0")),
        Peer("gguf-q4_k_m", "llamacpp", ".gguf", "the same, then llama-quantize Q4_K_M", _gguf_quantized("Q4_K_M")),
        Peer("mlx", "mlx", "", "mlx-lm convert -q --q-bits 4 --q-group-size 32", _mlx),
        Peer("onnx", "onnx", "", "onnxruntime-genai model builder -p int4 -e cpu", _onnx),
        Peer("openvino", "openvino", "", "optimum-cli export openvino, int4 --sym, groups of 32, ratio 1", _openvino),
    )
}


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def convert(name: str, env: Path, source: Path, folder: Path) -> tuple[Usage, Path]:
    """Run one peer on `source`; returns what it took (all its commands together) and the artifact below `folder`."""
    peer = PEERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / (name + peer.suffix)
    remove(out)
    total: Usage | None = None
    for i, command in enumerate(peer.commands(env, source, out)):
        used = harness.run(command, log=folder / f"{name}.{i}.log")
        total = total + used if total else used
    for middle in (out.with_name(out.name + ".bf16"), folder / "onnx-cache"):
        remove(middle)
    if not out.exists():
        raise RunError(f"{name} wrote nothing to {out}: see the logs beside it")
    assert total is not None
    return total, out


def setup(stack: str, env: Path) -> None:
    """Create the environment of one stack; what is there already is kept."""
    pip: Command = [python(env, stack), "-m", "pip", "install", "--quiet", "-c", HERE / "peers" / "constraints.txt"]
    wanted = HERE / "peers" / f"{stack}.txt"
    if not python(env, stack).exists():
        _do([sys.executable, "-m", "venv", env / "venv" / stack])
    if "torch" in wanted.read_text():
        _do([*pip, "torch"])  # first and alone: a later resolver must not pull the CUDA build
    _do([*pip, "-r", wanted])
    # comes along as a CUDA build that breaks every import of transformers beside a CPU torch; nothing here needs it
    _do([python(env, stack), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio"])
    if stack == "llamacpp":
        build_llamacpp(env / "llamacpp")


def build_llamacpp(folder: Path) -> None:
    """Build llama.cpp for this very CPU from the source in the llama-cpp-python sdist."""
    tools = [folder / "build" / "bin" / t for t in TOOLS]
    if all(t.exists() for t in tools):
        return
    for program in ("cmake", "c++"):
        if not shutil.which(program):
            raise SystemExit(f"error: {program} is missing: install cmake and a C++ compiler, then run setup again")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "sdist").exists():
        wanted = next(x for x in (HERE / "peers" / "sources.txt").read_text().split("\n") if "==" in x)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            only = ["--no-deps", "--no-binary", "llama-cpp-python"]
            _do([sys.executable, "-m", "pip", "download", "--quiet", *only, "-d", scratch, wanted])
            with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as tar:
                tar.extractall(scratch, filter="data")
            next(p for p in Path(scratch).iterdir() if p.is_dir()).rename(folder / "sdist")
    options = ["CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "LLAMA_CURL=OFF"]
    options += ["LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF"]
    source = folder / "sdist" / "vendor" / "llama.cpp"
    _do(["cmake", "-S", source, "-B", folder / "build", *(f"-D{o}" for o in options)])
    jobs = str(harness.machine()["cores"])
    _do(["cmake", "--build", folder / "build", "-j", jobs, "--target", *TOOLS])


def _do(command: Sequence[str | Path]) -> None:
    """Run one step of the set-up, at low priority, with its output shown."""
    words = [str(w) for w in command]
    print("+", " ".join(words), file=sys.stderr, flush=True)
    try:
        subprocess.run(["nice", "-n", "10", *words], check=True)
    except subprocess.CalledProcessError as e:
        raise SystemExit(f"error: that step ended with {e.returncode}: mend what it names, then run setup again") from e


def versions(env: Path) -> dict[str, dict[str, str]]:
    """The installed version of every package that bench/peers/ asks for, by stack."""
    code = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found: dict[str, dict[str, str]] = {}
    for stack in sorted({p.stack for p in PEERS.values()}):
        if not python(env, stack).exists():
            continue
        lines = (HERE / "peers" / f"{stack}.txt").read_text().split()
        names = [x.split("==")[0].split("[")[0] for x in lines if "==" in x]
        reply = subprocess.run([python(env, stack), "-c", code, *names], capture_output=True, text=True)
        if reply.returncode == 0:
            found[stack] = json.loads(reply.stdout)
    info = env / "llamacpp" / "sdist" / "PKG-INFO"
    if info.exists():
        line = next(x for x in info.read_text().split("\n") if x.startswith("Version:"))
        found.setdefault("llamacpp", {})["llama-cpp-python (source)"] = line.split()[1]
    return found


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--env", type=Path, default=default_env())
    verbs = a.add_subparsers(dest="verb", required=True)
    stacks = sorted({p.stack for p in PEERS.values()})
    s = verbs.add_parser("setup", help="install the peers")
    s.add_argument("stacks", nargs="*", metavar="STACK", help=f"some of {', '.join(stacks)}; all by default")
    r = verbs.add_parser("run", help="convert one checkpoint with each peer, measured")
    r.add_argument("source", type=Path)
    r.add_argument("out", type=Path)
    r.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    r.add_argument("--json", type=Path, help="write the figures here too")
    verbs.add_parser("versions", help="what is installed")
    o = a.parse_args()
    env = o.env.absolute()
    if o.verb == "setup":
        for stack in o.stacks or stacks:
            if stack not in stacks:
                raise SystemExit(f"error: no stack {stack!r}: choose from {', '.join(stacks)}")
            setup(stack, env)
    elif o.verb == "versions":
        print(json.dumps(versions(env), indent=1))
    else:
        run_all(env, o.source, o.out.absolute(), o.only, o.json)


def run_all(env: Path, source: Path, out: Path, names: Sequence[str], report: Path | None) -> None:
    """Each peer once, warm; a table on the terminal and, if asked, JSON."""
    harness.warm(source)
    rows, figures = [], {}
    for name in names:
        try:
            used, made = convert(name, env, source, out)
        except RunError as e:
            print(f"error: {name}: {e}", file=sys.stderr)
            continue
        nbytes = harness.size(made)
        figures[name] = harness.dump(used) | {"bytes": nbytes}
        cells = (f"{used.wall:.1f}", f"{used.cpu:.1f}", f"{used.rss / 1e9:.2f}", f"{used.tree / 1e9:.2f}")
        rows.append([name, *cells, f"{nbytes / 1e6:.0f}", f"{used.others:.2f}"])
        print(f"{name}: {used.wall:.1f} s", file=sys.stderr)
    head = ["peer", "wall s", "CPU s", "peak RSS GB", "tree GB", "output MB", "CPUs used by others"]
    print(harness.table(head, rows))
    facts = {"machine": harness.machine(), "versions": versions(env), "source": source.name, "peers": figures}
    harness.write_json(report, facts)
    if len(figures) < len(names):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
