#!/usr/bin/env python3
"""Do engines gain from 8-bit weights with 8-bit activations (W8A8) beyond what they run already, and what does it cost?

    python bench/activations.py speed [--engine onnx|openvino] [--shape qwen3-0.6b] [--layers 4] [--prompt 128]
                                      [--repeat 9] [--threads 2] [--json FILE]
    python bench/activations.py quality samples/home [--json FILE]

`speed` multiplies through a stack of all matrices of so many layers (no attention, no head; weights are random numbers,
which cost the same) in ways that the engine has, in one process: one row (decoding) and --prompt rows (prefill). The ways
take turns, the order alternates, and each is divided by the first, which is q8 as slmops writes it, round by round. Memory
is what a process of its own grows by when it opens the stack and runs it, once a way.

`quality` is the divergence (KL, nats a token) that each rounding of activations costs a trained model, in the reference
interpreter: all else is f32. Scales of static ones come from the calibration text, the divergence from another.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np

SHAPES = {  # hidden, query, key and value, intermediate
    "qwen3-0.6b": (1024, 2048, 1024, 3072),
    "qwen3-4b": (2560, 4096, 1024, 9728),
    "toy": (64, 64, 64, 128),
}
SECONDS = 0.12
"""Of one timing: as many runs as fit."""
GROUP = 32
WHOLE_ROW = 1 << 30
"""A group size of OpenVINO that is more than any row has: one scale a row."""
Run = Callable[[int], None]


def matrices(shape: str, layers: int) -> Iterator[tuple[str, int, int]]:
    """(name, outputs, inputs) of a stack."""
    hidden, query, key, inner = SHAPES[shape]
    for layer in range(layers):
        for name, out, depth in (
            ("query", query, hidden), ("key", key, hidden), ("value", key, hidden), ("output", hidden, query),
            ("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner),
        ):  # fmt: skip
            yield f"{layer}.{name}", out, depth


def codes(out: int, depth: int, bits: int) -> Any:
    """Random signed codes [out, depth] whose spread is that of normal numbers in blocks."""
    most = (1 << (bits - 1)) - 1
    random = np.random.default_rng(out * 31 + depth)
    return np.clip(np.rint(random.standard_normal((out, depth), np.float32) * most / 2.3), -most, most).astype(np.int8)


# ---- ONNX Runtime

ONNX = {
    "q8, int8 blocks": ("blocks", 8, 4),
    "q8, f32": ("blocks", 8, 0),
    "q4, int8 blocks": ("blocks", 4, 4),
    "w8a8, dynamic": ("dynamic", 8, 0),
    "w8a8-static": ("static", 8, 0),
}
"""How weights and activations are held -> operator, bits, MatMulNBits' accuracy_level. The first is what slmops writes."""


def onnx_stack(shape: str, layers: int, way: str, threads: int) -> Run:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind, bits, level = ONNX[way]
    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(name: str, array: Any) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(operator: str, ins: list[str], name: str, domain: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, ins, [name], domain=domain, **attributes))
        return name

    if kind in ("dynamic", "static"):
        constant("middle", np.uint8(128))
    if kind == "static":
        constant("scale", np.float32(0.02))
        constant("zero", np.uint8(128))
    sizes = {name: (out, depth) for name, out, depth in matrices(shape, layers)}
    rounded: dict[str, str] = {}

    def linear(x: str, name: str) -> str:
        out, depth = sizes[name]
        made, contrib = codes(out, depth, bits), "com.microsoft"
        if kind == "blocks":
            packed = (made.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8).reshape(out, depth // GROUP, GROUP)
            if bits == 4:
                packed = packed[..., ::2] | packed[..., 1::2] << 4
            scales = constant(f"{name}.s", np.full((out, depth // GROUP), 0.04 / (1 << bits), np.float32))
            how = {"K": depth, "N": out, "bits": bits, "block_size": GROUP, "accuracy_level": level}
            return node("MatMulNBits", [x, constant(f"{name}.w", packed), scales], name, contrib, **how)
        matrix = constant(f"{name}.w", (made.view(np.uint8) ^ np.uint8(0x80)).T)
        scales = constant(f"{name}.s", np.full(out, 0.04 / 256, np.float32))
        if kind == "dynamic":
            return node("DynamicQuantizeMatMul", [x, matrix, scales, "middle"], name, contrib)
        if x not in rounded:
            rounded[x] = node("QuantizeLinear", [x, "scale", "zero"], f"{x}.q")
        return node("MatMulIntegerToFloat", [rounded[x], matrix, "scale", scales, "zero", "middle"], name, contrib)

    alike = SHAPES[shape][0] == SHAPES[shape][2]
    x = _program(layers, alike, linear, lambda kind, ins, name: node(kind, ins, name))
    hidden = SHAPES[shape][0]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "stack", [value("x", TensorProto.FLOAT, ["rows", hidden])], [value(x, TensorProto.FLOAT, ["rows", hidden])],
        weights,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    data = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    del data, graph, weights[:]
    inputs = {rows: rows_of(rows, hidden) for rows in (1, 2)}

    def run(rows: int) -> None:
        if rows not in inputs:
            inputs[rows] = rows_of(rows, hidden)
        session.run(None, {"x": inputs[rows]})

    return run


def _program(
    layers: int, alike: bool, linear: Callable[[Any, str], Any], do: Callable[[str, list[Any], str], Any], x: Any = "x"
) -> Any:
    """The stack: all of a layer's products in their order, sums and products of elements between them.

    alike: keys and values are as wide as the stream and are added to it; engines leave out what is unused.
    """
    for layer in range(layers):
        query, key, value = (linear(x, f"{layer}.{name}") for name in ("query", "key", "value"))
        out = do("Add", [linear(query, f"{layer}.output"), x], f"{layer}.a")
        if alike:
            out = do("Add", [out, do("Mul", [key, value], f"{layer}.kv")], f"{layer}.b")
        gate, up = linear(out, f"{layer}.gate"), linear(out, f"{layer}.up")
        both = do("Mul", [do("Sigmoid", [gate], f"{layer}.s"), up], f"{layer}.g")
        x = do("Tanh", [do("Add", [linear(both, f"{layer}.down"), out], f"{layer}.c")], f"{layer}.x")
    return x


def rows_of(rows: int, hidden: int) -> Any:
    return np.random.default_rng(rows).standard_normal((rows, hidden), np.float32)


# ---- OpenVINO

OPENVINO: dict[str, tuple[str, int, int | None]] = {
    "q8, default": ("blocks", 8, None),
    "q8, f32": ("blocks", 8, 0),
    "q4, default": ("blocks", 4, None),
    "q8, groups of 128": ("blocks", 8, 128),
    "w8a8, dynamic, groups of 32": ("row", 8, 32),
    "w8a8, dynamic, groups of 128": ("row", 8, 128),
    "w8a8, dynamic, a row": ("row", 8, WHOLE_ROW),
    "w8a8-static": ("static", 8, 0),
}
"""How weights and activations are held -> kind, bits, DYNAMIC_QUANTIZATION_GROUP_SIZE. The first is what slmops writes."""


def openvino_stack(shape: str, layers: int, way: str, threads: int) -> Run:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it forks
    import openvino
    from openvino import opset13 as ops

    kind, bits, group = OPENVINO[way]
    hidden = SHAPES[shape][0]
    sizes = {name: (out, depth) for name, out, depth in matrices(shape, layers)}
    rounded: dict[str, Any] = {}

    def linear(x: Any, name: str) -> Any:
        out, depth = sizes[name]
        made = codes(out, depth, bits)
        if kind == "blocks":
            blocks = (out, depth // GROUP, GROUP)
            if bits == 4:
                nibbles = (made & 15).astype(np.uint8).reshape(-1)
                packed = openvino.Tensor(nibbles[::2] | nibbles[1::2] << 4, openvino.Shape(blocks), openvino.Type.i4)
                held.append(packed)
                constant = ops.constant(packed)
            else:
                constant = ops.constant(made.reshape(blocks), openvino.Type.i8)
            scales = ops.constant(np.full((*blocks[:2], 1), 0.04 / (1 << bits), np.float16))
            value = ops.multiply(ops.convert(constant, "f16"), scales)
            value = ops.convert(ops.reshape(value, np.array([out, depth]), False), "f32")
        else:
            scales = ops.constant(np.full((out, 1), 0.04 / 256, np.float32))
            value = ops.multiply(ops.convert(ops.constant(made, openvino.Type.i8), "f32"), scales)
        if kind == "static":
            key = x.get_friendly_name()
            if key not in rounded:
                low, high = (ops.constant(np.array([[edge]], np.float32)) for edge in (-2.56, 2.54))
                rounded[key] = ops.fake_quantize(x, low, high, low, high, 256)
            x = rounded[key]
        return ops.matmul(x, value, False, True)

    held: list[Any] = []
    words = {"Add": ops.add, "Mul": ops.multiply}
    one = {"Sigmoid": ops.sigmoid, "Tanh": ops.tanh}
    start = ops.parameter([-1, hidden], np.float32, name="x")
    alike = hidden == SHAPES[shape][2]
    last = _program(layers, alike, linear, lambda kind, ins, _: (words | one)[kind](*ins), start)
    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if group is not None:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group
    compiled = core.compile_model(openvino.Model([last], [start]), "CPU", settings)
    request = compiled.create_infer_request()
    inputs: dict[int, Any] = {}

    def run(rows: int) -> None:
        if rows not in inputs:
            inputs[rows] = rows_of(rows, hidden)
        request.infer([inputs[rows]], share_inputs=True, share_outputs=True)

    return run


# ---- speed

ENGINES: dict[str, tuple[dict[str, Any], Callable[[str, int, str, int], Run]]] = {
    "onnx": (ONNX, onnx_stack),
    "openvino": (OPENVINO, openvino_stack),
}


def timed(run: Run, rows: int) -> float:
    """Seconds of one run, of as many as fit in SECONDS."""
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS or not count:
        run(rows)
        count += 1
    return spent / count


def speed(o: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for engine in [o.engine] if o.engine else ENGINES:
        ways, build = ENGINES[engine]
        memory = {way: child_memory(o, engine, way) for way in ways}
        stacks = {way: build(o.shape, o.layers, way, o.threads) for way in ways}
        seen: dict[str, dict[str, list[float]]] = {way: {"decode": [], "prefill": []} for way in ways}
        for phase, rows in (("decode", 1), ("prefill", o.prompt)):
            for run in stacks.values():
                run(rows)
            for turn in range(o.repeat):
                for way in list(ways)[:: -1 if turn % 2 else 1]:
                    seen[way][phase].append(timed(stacks[way], rows))
        first, table = next(iter(ways)), []
        for way in ways:
            ratios = {phase: harness.ratio(seen[first][phase], seen[way][phase]) for phase in ("decode", "prefill")}
            milliseconds = [f"{1000 * harness.median(seen[way][phase]):.2f}" for phase in ("decode", "prefill")]
            cells = [milliseconds[0], harness.show(ratios["decode"]), milliseconds[1], harness.show(ratios["prefill"])]
            table.append([way, *cells, f"{memory[way] / 1e6:.0f}"])
            report.setdefault(engine, {})[way] = {"seconds": seen[way], "faster": ratios, "memory": memory[way]}
        head = [engine, "decode ms", "times as fast", f"prefill ms, {o.prompt} rows", "times as fast", "memory MB"]
        print(harness.table(head, table) + "\n", flush=True)
    return {"machine": harness.machine(), "shape": o.shape, "layers": o.layers, "threads": o.threads, "engines": report}


def child_memory(o: argparse.Namespace, engine: str, way: str) -> int:
    """Bytes resident that opening and running a stack adds to a process."""
    words = [sys.executable, __file__, "memory", engine, o.shape, str(o.layers), way, str(o.threads), str(o.prompt)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def memory(engine: str, shape: str, layers: str, way: str, threads: str, prompt: str) -> None:
    import ctypes
    import gc

    def resident() -> int:
        gc.collect()
        if sys.platform == "linux":  # what the building of the graph gave back is not the engine's
            ctypes.CDLL(None).malloc_trim(0)
        import psutil

        return int(psutil.Process().memory_info().rss)

    ENGINES[engine][1]("toy", 1, way, int(threads))(int(prompt))
    before = resident()
    run = ENGINES[engine][1](shape, int(layers), way, int(threads))
    run(int(prompt))
    print(resident() - before)


# ---- quality

Rounding = Callable[[Any, str], Any]


def symmetric(x: Any, axis: tuple[int, ...] | None, most: int = 127) -> Any:
    """Rounded to -127..127 with a scale for each vector along the other axes."""
    scale = np.abs(x).max(axis=axis, keepdims=True) / most
    return np.rint(x / np.where(scale > 0, scale, 1)) * scale


def in_blocks(x: Any, _: str) -> Any:
    return symmetric(x.reshape(*x.shape[:-1], -1, GROUP), (-1,)).reshape(x.shape)


def in_rows(x: Any, _: str) -> Any:
    return symmetric(x, (-1,))


def whole(x: Any, _: str) -> Any:
    """DynamicQuantizeLinear: 256 steps from the least to the greatest number of the whole tensor, zero among them."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    step = (high - low) / 255 or 1.0
    zero = round(-low / step)
    return (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * np.float32(step)


def _rows(array: Any, start: int, stop: int) -> Any:
    return array[start:stop]


def quality(o: argparse.Namespace) -> dict[str, Any]:
    from slmops import source
    from slmops.core import plugins
    from slmops.core.model import Weights
    from slmops.measure import quality as windows_of
    from slmops.measure import statistics
    from slmops.ops.numpy import NumpyOps, log_softmax
    from slmops.passes import activations, smooth
    from slmops.passes.quantize import chooser, quantize

    model = source.load(str(o.source))
    edges: dict[str, tuple[float, float]] = {}

    class Rounded(NumpyOps):
        """Every matrix's input rounded before it is multiplied."""

        rounding: Rounding

        def linear(self, x: Any, weight: str, bias: str | None = None) -> Any:
            return super().linear(np.asarray(self.rounding(x, weight), np.float32), weight, bias)

    def watch(x: Any, weight: str) -> Any:
        low, high = edges.get(weight, (0.0, 0.0))
        edges[weight] = (min(low, float(x.min())), max(high, float(x.max())))
        return x

    def static(x: Any, weight: str) -> Any:
        low, high = edges[weight]
        step = (high - low) / 255 or 1.0
        zero = round(-low / step)
        return (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * np.float32(step)

    def stepped(told: dict[str, float], x: Any, weight: str) -> Any:
        step = np.float32(told[weight])
        return np.clip(np.rint(x / step), -128, 127) * step

    def run(tensors: Any, rounding: Rounding, windows: Any) -> Iterator[Any]:
        ops = Rounded(tensors, keep=True)
        ops.rounding = rounding
        program = plugins.load("architectures", model.spec.family)
        for ids in windows:
            ops.reset()
            yield program.forward(ops, model.spec, Weights(tensors), np.array([ids]))[0]

    def cut(name: str, most: int) -> list[list[int]]:
        content = (o.source / name).read_text(encoding="utf-8")
        return windows_of.windows(model.tokenizer.encoder.encode(content, add_special_tokens=False).ids, 256, most)

    told = cut("eval/text.txt", 32)
    seen, kept = told[: len(told) // 2], told[len(told) // 2 :]
    blocks = quantize(model, chooser("q8")).tensors
    by_row = dict(model.tensors)
    for role, tensor in blocks.items():
        if role in model.tensors and tensor is not model.tensors[role]:
            from slmops.core.tensor import Lazy, to_numpy

            array = np.asarray(symmetric(to_numpy(model.tensors[role]), (-1,)), np.float32)
            by_row[role] = Lazy(array.shape, array.dtype, functools.partial(_rows, array))
    for _ in run(by_row, watch, seen):
        pass
    evened = smooth.smooth(model, np.array(seen))
    even_rows = quantize(evened, chooser("w8a8_static")).tensors
    uneven, even = (functools.partial(stepped, activations.steps(one, np.array(seen))) for one in (model, evened))
    reference = [log_softmax(logits) for logits in run(model.tensors, lambda x, _: x, kept)]
    report, table = {}, []
    for name, tensors, rounding in (
        ("q8 in groups of 32, activations f32", blocks, lambda x, _: x),
        ("q8 in groups of 32, int8 in blocks of 32", blocks, in_blocks),
        ("a scale a row, activations f32", by_row, lambda x, _: x),
        ("w8a8, dynamic: a scale a row of activations", by_row, in_rows),
        ("w8a8, dynamic: a scale a call", by_row, whole),
        ("static: a scale and a zero point a matrix, by the least and the greatest number", by_row, static),
        ("static: a step a matrix, of least squared error", by_row, uneven),
        ("w8a8_static: the same, channels evened out", even_rows, even),
    ):
        kl: list[float] = []
        for p, logits in zip(reference, run(tensors, rounding, kept), strict=True):
            kl += np.sum(np.exp(p) * (p - log_softmax(logits)), axis=-1).astype(float).tolist()
        found = statistics.mean(kl, [len(ids) for ids in kept])
        report[name] = {"kl": found.value, "error": found.error}
        table.append([name, f"{found.value:.5f} ± {found.error:.5f}"])
    print(harness.table(["weights and activations", "KL, nats a token"], table))
    return {"source": o.source.name, "positions": sum(map(len, kept)), "kl": report}


def main() -> None:
    if sys.argv[1:2] == ["memory"]:
        memory(*sys.argv[2:])
        return
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = a.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("speed")
    one.add_argument("--engine", choices=ENGINES)
    one.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    one.add_argument("--layers", type=int, default=4)
    one.add_argument("--prompt", type=int, default=128, help="rows of prefill")
    one.add_argument("--repeat", type=int, default=9, help="rounds")
    one.add_argument("--threads", type=int, default=harness.machine()["cores"])
    other = verbs.add_parser("quality")
    other.add_argument("source", type=Path, help="a trained model with eval/*.txt")
    for verb in (one, other):
        verb.add_argument("--json", type=Path, help="write the figures here too")
    o = a.parse_args()
    harness.write_json(o.json, {"speed": speed, "quality": quality}[o.verb](o))


if __name__ == "__main__":
    main()
