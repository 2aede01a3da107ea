"""Decoders that nobody here wrote: what a file of each format holds, according to the format's own software."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NAME = "model.layers.0.mlp.down_proj"


def bits(stored: np.ndarray, width: int, columns: int) -> np.ndarray:
    """Fields of `width` bits, packed little-endian along each row -> one a byte."""
    ones = np.unpackbits(np.ascontiguousarray(stored), axis=-1, bitorder="little").reshape(len(stored), columns, width)
    return (ones * (1 << np.arange(width))).sum(-1).astype(np.uint8)


GRIDS = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "mxfp4")


def grid_bytes(kind: str, width: int, rows: int) -> np.ndarray:
    """Rows of `width` random bytes that are valid blocks of a type that slmops does not make: their scales are ordinary."""
    import gguf

    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]][1]
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (rows * width // size, size), dtype=np.uint8)
    if kind == "mxfp4":
        blocks[:, 0] = blocks[:, 0] % 16 + 110
    elif kind == "iq1_m":  # d lies in the high nibbles of the last four words
        blocks[:, 49::2] = blocks[:, 49::2] & 0x0F | np.array([0x00, 0x00, 0x00, 0x20], np.uint8)
    else:
        blocks[:, :2] = (rng.random(len(blocks)) * 0.01).astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, width)


def ggml(stored: np.ndarray, kind: str) -> np.ndarray:
    import gguf

    found: np.ndarray = gguf.quants.dequantize(np.ascontiguousarray(stored), gguf.GGMLQuantizationType[kind.upper()])
    return found


def decode(form: str, folder: Path) -> np.ndarray:
    """The matrix layers.0.mlp.down, [rows, columns] of f32 or f64."""
    found: np.ndarray = DECODERS[form](folder)
    return found


def _gguf(folder: Path) -> np.ndarray:
    import gguf

    reader = gguf.GGUFReader(folder / "model.gguf")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_down.weight")
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def _safetensors(folder: Path) -> dict[str, Any]:
    import torch  # noqa: F401 - bfloat16 needs it
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def _mlx(folder: Path) -> np.ndarray:
    import mlx.core as mx

    arrays = mx.load(str(folder / "model.safetensors"))
    said = json.loads((folder / "config.json").read_text())["quantization"]
    said = said.get(NAME) or said
    wide = [arrays[f"{NAME}.{part}"].astype(mx.float32) for part in ("scales", "biases")]
    with mx.stream(mx.cpu):
        found = mx.dequantize(arrays[f"{NAME}.weight"], *wide, group_size=said["group_size"], bits=said["bits"])
        return np.array(found.astype(mx.float32))


def _onnx(folder: Path) -> np.ndarray:
    """The MatMulNBits node alone, times the identity; or DequantizeLinear of what DynamicQuantizeMatMul multiplies by."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    whole = onnx.load(folder / "model.onnx", load_external_data=True)
    held = {tensor.name: tensor for tensor in whole.graph.initializer}
    nodes = [node for node in whole.graph.node if node.op_type == "MatMulNBits" and "layers.0.mlp.down" in node.input[1]]
    by_row = [one for one in whole.graph.node if one.op_type == "DynamicQuantizeMatMul" and "mlp.down" in one.input[2]]
    assert len(nodes) + len(by_row) == 1
    if by_row:
        turned = {node.output[0]: node.input[0] for node in whole.graph.node if node.op_type == "Transpose"}
        matrix, scales, zero = (onnx.numpy_helper.to_array(held[turned.get(name, name)]) for name in by_row[0].input[1:])
        return _dequantized(matrix, scales, np.broadcast_to(zero, scales.shape))
    numbers = {attribute.name: attribute.i for attribute in nodes[0].attribute}
    casts = {node.output[0]: node.input[0] for node in whole.graph.node if node.op_type == "Cast"}
    inside = [held[casts.get(name, name)] for name in nodes[0].input[1:] if name]
    if inside[1].data_type == TensorProto.FLOAT16:  # the CPU kernel of f32 wants scales of f32
        wide = onnx.numpy_helper.to_array(inside[1]).astype(np.float32)
        inside[1] = onnx.numpy_helper.from_array(wide, inside[1].name)
    numbers["accuracy_level"] = 0
    names = ["x", *(tensor.name for tensor in inside)]
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **numbers)
    shape = [numbers["K"], numbers["N"]]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape[0], shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        inside,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.eye(shape[0], dtype=np.float32)})[0].T


def _dequantized(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """By ONNX's own operator, a scale and a zero point a row."""
    import onnx
    import onnxruntime
    from onnx import helper

    parts = zip(("codes", "scales", "zeros"), (codes, scales, zeros), strict=True)
    inside = [onnx.numpy_helper.from_array(np.ascontiguousarray(part), name) for name, part in parts]
    node = helper.make_node("DequantizeLinear", [one.name for one in inside], ["y"], axis=0)
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, codes.shape)
    model = helper.make_model(
        helper.make_graph([node], "one", [], [value], inside), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {})[0]
    return found


def _openvino(folder: Path) -> np.ndarray:
    """The part of the graph that makes the matrix of its constants, run in f32."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(folder / "openvino_model.xml")
    last = next(
        node.input_value(1)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MatMul" and "mlp.down" in node.get_friendly_name()
    )
    part = ov.Model([ov.opset13.result(last)], [], "one")
    compiled = core.compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(compiled([]).values()))


def _compressed_tensors(folder: Path) -> np.ndarray:
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    arrays = _safetensors(folder)
    config = QuantizationConfig.model_validate(json.loads((folder / "config.json").read_text())["quantization_config"])
    compressor = BaseCompressor.get_value_from_registry(config.format)
    state = {key.removeprefix(f"{NAME}."): value for key, value in arrays.items() if key.startswith(f"{NAME}.")}
    state["weight_scale"] = state["weight_scale"].to(torch.float32)
    (group,) = config.config_groups.values()
    return compressor.decompress(state, group)["weight"].to(torch.float64).numpy()


def _huggingface(folder: Path) -> np.ndarray:
    import torch

    return _safetensors(folder)[f"{NAME}.weight"].to(torch.float32).numpy()


DECODERS = {
    "gguf": _gguf,
    "mlx": _mlx,
    "onnx": _onnx,
    "openvino": _openvino,
    "compressed_tensors": _compressed_tensors,
    "huggingface": _huggingface,
}
