"""The ONNX interpreter: runs an architecture's program and emits ONNX Runtime's fused operators.

Operators of `com.microsoft`: onnxruntime/docs/ContribOperators.md. Weights are external data whose place is decided here,
so that the graph is made without a weight in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slmops.core.errors import Unsupported
from slmops.core.layout import Region
from slmops.core.scheme import Packed
from slmops.core.spec import Rope
from slmops.core.tensor import Array, Tensor, elements
from slmops.formats import _encode

DATA = "model.onnx.data"
CONTRIB = "com.microsoft"
OPSET, IR_VERSION = 21, 10
PAGE, LINE = 4096, 64
FLOAT, UINT8, INT32, INT64, FLOAT16 = 1, 2, 6, 7, 10
"""onnx.TensorProto.DataType"""
ELEMENT_TYPES = {"float32": FLOAT, "float16": FLOAT16, "uint8": UINT8}
CODES, SCALES, ZEROS, ZERO, BLOCKS = ".codes", ".scales", ".zeros", ".zero", ".codes.blocks"
"""How the initializers of a packed matrix are called after its role; a dense one has the role's very name."""
Dims = tuple[int | str, ...]


class DataFile:
    """Assigns places in the external data file and hands out the initializers that point there."""

    def __init__(self) -> None:
        self.size = 0
        self.literals: list[tuple[str, int, bytes]] = []
        self.regions: dict[str, list[Region]] = {}
        self.initializers: dict[str, Any] = {}

    def literal(self, name: str, values: Array) -> str:
        """A constant that is known now."""
        if name not in self.initializers:
            self.literals.append((DATA, self._point(name, values.shape, values.dtype.name), values.tobytes()))
        return name

    def rows(self, name: str, role: str, shape: tuple[int, ...], dtype: str, encode: _encode.Encoder) -> str:
        """An initializer that the rows of this role fill; `shape` may be another than the tensor's behind the first axis."""
        if name not in self.initializers:
            offset = self._point(name, shape, dtype)
            unit = elements(shape[1:]) * np.dtype(dtype).itemsize
            self.regions.setdefault(role, []).append(Region(DATA, offset, unit, encode))
        return name

    def alias(self, name: str, of: str, shape: tuple[int, ...]) -> str:
        """Another initializer over the same bytes in another shape: nothing is copied, on disk or in memory."""
        if name not in self.initializers:
            tensor = type(self.initializers[of])()
            tensor.CopyFrom(self.initializers[of])
            tensor.name = name
            del tensor.dims[:]
            tensor.dims.extend(shape)
            self.initializers[name] = tensor
        return name

    def _point(self, name: str, shape: tuple[int, ...], dtype: str) -> int:
        from onnx import TensorProto

        nbytes = elements(shape) * np.dtype(dtype).itemsize
        # ONNX Runtime maps the file into memory: what is large starts on a page, the rest on a cache line.
        align = PAGE if nbytes >= PAGE else LINE
        offset = -(-self.size // align) * align
        self.size = offset + nbytes
        tensor = TensorProto(name=name, dims=shape, data_type=ELEMENT_TYPES[dtype], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", DATA), ("offset", str(offset)), ("length", str(nbytes))):
            tensor.external_data.add(key=key, value=value)
        self.initializers[name] = tensor
        return offset


@dataclass(eq=False)
class Wire:
    """A value of the graph, by name. A sum has none until it is read: a norm that follows computes both at once."""

    name: str = ""
    terms: tuple[Wire, Wire] | None = None


@dataclass
class Graph:
    """Implements slmops.ops.Ops for wires.

    activations     float32, or float16 where the provider computes in it
    accuracy        MatMulNBits' accuracy_level: 4 rounds activations to int8 by blocks, 0 leaves it to the provider
    rotates         whether the provider's attention rotates; if not, operators of their own do

    Matrices stay apart as the program has them: query, key and value in one product measured alike (within noise, on
    the processor), and one initializer a role is what other tools expect and what read back needs.
    """

    tensors: Mapping[str, Tensor]
    context: int
    activations: str = "float32"
    accuracy: int = 4
    rotates: bool = True
    data: DataFile = field(default_factory=DataFile)
    nodes: list[Any] = field(default_factory=list)
    inputs: dict[str, tuple[int, Dims]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, Dims]] = field(default_factory=dict)
    _small: dict[str, Any] = field(default_factory=dict)
    _casts: dict[str, str] = field(default_factory=dict)
    _lengths: tuple[str, str] | None = None
    _head: int = 0

    # ---- the operations

    def embed(self, weight: str, ids: Wire) -> Wire:
        tensor = self.tensors[weight]
        if not isinstance(tensor, Packed):
            rows = self._node("Gather", [self._dense(weight), ids.name], weight)
            return Wire(self._cast(rows, self._stored(weight), weight))
        bits, group = tensor.scheme.bits, tensor.scheme.group
        vocab, hidden = tensor.shape
        codes = self.data.rows(weight + CODES, weight, (vocab, hidden * bits // 8), "uint8", _encode.codes)
        scales, zeros = self._scales(weight, tensor)
        if not zeros:
            # The operator's own default differs between versions and code types, so it is always said.
            constant = (tensor.scheme.zero or 0) * (0x11 if bits == 4 else 1)
            width = -(-(hidden // group) * bits // 8)
            zeros = self.data.literal(weight + ZERO, np.full((vocab, width), constant, np.uint8))
        attributes = {"bits": bits, "block_size": group, "gather_axis": 0, "quantize_axis": 1}
        return Wire(self._node("GatherBlockQuantized", [codes, ids.name, scales, zeros], weight, CONTRIB, **attributes))

    def linear(self, x: Wire, weight: str, bias: str | None = None) -> Wire:
        tensor = self.tensors[weight]
        source = self._name(x)
        if isinstance(tensor, Packed):
            bits, group = tensor.scheme.bits, tensor.scheme.group
            (width, depth), label = tensor.shape, weight
            shape = (width, depth // group, group * bits // 8)
            if weight + CODES in self.data.initializers:  # the embedding's, whose head is tied
                codes = self.data.alias(weight + BLOCKS, weight + CODES, shape)
                label = "head"
            else:
                codes = self.data.rows(weight + CODES, weight, shape, "uint8", _encode.codes)
            scales, zeros = self._scales(weight, tensor)
            ins = [source, codes, scales, *([zeros] if zeros else [])]
            attributes = {"K": depth, "N": width, "bits": bits, "block_size": group, "accuracy_level": self.accuracy}
            out = self._node("MatMulNBits", ins, label, CONTRIB, **attributes)
        else:
            matrix = self._cast(self._dense(weight), self._stored(weight), weight)
            # As it is stored, [output, input]: a Transpose would be folded into a copy.
            out = self._node("FusedMatMul", [source, matrix], weight, CONTRIB, transB=1)
        if bias is not None:
            out = self._node("Add", [out, self._vector(bias)], bias)
        return Wire(out)

    def norm(self, x: Wire, weight: str, eps: float, heads: int | None = None) -> Wire:
        gamma = self._vector(weight)
        how: dict[str, Any] = {"axis": -1, "epsilon": eps, "stash_type": 1}
        if heads is not None:
            shape = self._ints(f"heads.{heads}", [0, 0, heads, self.tensors[weight].shape[0]])
            split = self._node("Reshape", [self._name(x), shape], weight)
            normed = self._node("SimplifiedLayerNormalization", [split, gamma], weight, **how)
            return Wire(self._node("Reshape", [normed, self._ints("merge", [0, 0, -1])], weight))
        if x.terms is None or x.name:
            return Wire(self._node("SimplifiedLayerNormalization", [self._name(x), gamma], weight, **how))
        terms = [self._name(term) for term in x.terms]
        x.name = f"{weight}.sum"
        outs = [f"{weight}.out", "", "", x.name]
        self._emit("SkipSimplifiedLayerNormalization", [*terms, gamma], outs, weight, CONTRIB, epsilon=eps)
        return Wire(outs[0])

    def attention(
        self,
        query: Wire,
        key: Wire,
        value: Wire,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: Rope | None,
        window: int | None,
        scale: float,
    ) -> Wire:
        name = f"layers.{layer}.attention"
        attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": scale}
        tables: list[str] = []
        if window is not None:
            attributes["local_window_size"] = window
        if rope is not None and self.rotates:
            tables = self._tables(rope)
            attributes |= {"do_rotary": 1, "rotary_interleaved": 0}
        elif rope is not None:
            query = self._rotate(query, f"{name}.query", rope, heads)
            key = self._rotate(key, f"{name}.key", rope, kv_heads)
        three = [self._name(wire) for wire in (query, key, value)]
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        for before, after in zip(past, present, strict=True):
            self.inputs[before] = (self._type, ("batch_size", kv_heads, "past_sequence_length", head_dim))
            self.outputs[after] = (self._type, ("batch_size", kv_heads, "total_sequence_length", head_dim))
        ins = [*three, *past, *self._sequence_lengths(), *tables]
        self._emit("GroupQueryAttention", ins, [f"{name}.out", *present], name, CONTRIB, **attributes)
        return Wire(f"{name}.out")

    def gated(self, gate: Wire, up: Wire, activation: str) -> Wire:
        if activation != "silu":
            raise Unsupported(f"activation {activation!r} has no ONNX form yet")
        name = self._name(gate)
        label = name.partition("/")[0]
        # ONNX Runtime fuses Sigmoid and Mul on the processor by itself; other providers know these two only.
        active = self._node("Mul", [name, self._node("Sigmoid", [name], label)], label)
        return Wire(self._node("Mul", [active, self._name(up)], label))

    def add(self, x: Wire, y: Wire) -> Wire:
        return Wire(terms=(x, y))

    def head(self, x: Wire, weight: str) -> Wire:
        source = self._name(x)
        begin = len(self.nodes)
        self._cast(self.linear(Wire(source), weight).name, self.activations, "logits", FLOAT)
        self.nodes[-1].output[0] = "logits"
        # Casts of the weights may stand before the product.
        self._head = next(index for index in range(begin, len(self.nodes)) if self.nodes[index].input[0] == source)
        self.outputs = {"logits": (FLOAT, ("batch_size", "sequence_length", self.tensors[weight].shape[0])), **self.outputs}
        return Wire("logits")

    # ---- the whole

    def proto(self, name: str, *, last: bool) -> bytes:
        """The finished model, its weights outside. `last`: logits of the last position alone, which is all that
        generation reads: a prompt costs neither the head's products nor their memory (0.6 MB a token of 152 k words)."""
        from onnx import NodeProto, helper

        nodes, outputs = list(self.nodes), dict(self.outputs)
        small = dict(self._small)
        if last:
            position = self._head
            head = NodeProto()
            head.CopyFrom(nodes[position])
            for key, values in (("last", [-1]), ("end", [2**62]), ("one", [1])):
                small[key] = helper.make_tensor(key, INT64, [1], values)
            cut = helper.make_node("Slice", [head.input[0], "last", "end", "one"], ["head.last"], "head/Slice")
            head.input[0] = "head.last"
            nodes[position : position + 1] = [cut, head]
            element, dims = outputs["logits"]
            outputs["logits"] = (element, (dims[0], 1, dims[2]))
        read = {source for node in nodes for source in node.input}
        for node in nodes:
            if node.op_type == "SkipSimplifiedLayerNormalization" and len(node.output) > 1 and node.output[3] not in read:
                del node.output[1:]
        sides = [
            [helper.make_tensor_value_info(key, element, dims) for key, (element, dims) in side.items()]
            for side in (self.inputs, outputs)
        ]
        graph = helper.make_graph(nodes, name, *sides, [*small.values(), *self.data.initializers.values()])
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slmops")
        return bytes(model.SerializeToString(deterministic=True))

    # ---- weights

    def _scales(self, weight: str, tensor: Packed) -> tuple[str, str]:
        """Names of the scales [rows, groups] in the activations' type, and of the zero points where groups have their own.

        In the file scales are f16, which holds them exactly in half the bytes; ONNX Runtime folds the cast while it
        loads, so that it costs nothing later.
        """
        groups = tensor.shape[1] // tensor.scheme.group
        half = np.dtype(np.float16)
        shape = (tensor.shape[0], groups)
        scales = self._cast(
            self.data.rows(weight + SCALES, weight, shape, half.name, _encode.scales(half)), half.name, weight + SCALES
        )
        if tensor.scheme.zero is not None:
            return scales, ""
        return scales, self.data.rows(weight + ZEROS, weight, (shape[0], -(-groups // 2)), "uint8", _encode.zeros4)

    def _stored(self, weight: str) -> str:
        """dtype of a dense matrix in the file. bf16, which not every provider computes with, becomes f32: exact."""
        return "float16" if self.tensors[weight].dtype == np.float16 else "float32"

    def _dense(self, weight: str) -> str:
        dtype = np.dtype(self._stored(weight))
        return self.data.rows(weight, weight, self.tensors[weight].shape, dtype.name, _encode.dense(dtype))

    def _vector(self, role: str) -> str:
        """Norm weights and biases: f32 in the file, like the checkpoint's own numbers whatever they were stored as."""
        single = np.dtype(np.float32)
        name = self.data.rows(role, role, self.tensors[role].shape, single.name, _encode.dense(single))
        return self._cast(name, single.name, role)

    # ---- helpers

    @property
    def _type(self) -> int:
        return ELEMENT_TYPES[self.activations]

    def _emit(
        self, op: str, ins: Sequence[str], outs: Sequence[str], label: str, domain: str = "", **attributes: Any
    ) -> None:
        from onnx import helper

        name = f"{label}/{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, ins, outs, name, domain=domain, **attributes))

    def _node(self, op: str, ins: Sequence[str], label: str, domain: str = "", **attributes: Any) -> str:
        """Emit an operator of one output and name it."""
        out = f"{label}/{op}.{len(self.nodes)}.out"
        self._emit(op, ins, [out], label, domain, **attributes)
        return out

    def _name(self, wire: Wire) -> str:
        """The wire's name; a sum that waited until now is computed."""
        if not wire.name:
            assert wire.terms is not None
            x, y = (self._name(term) for term in wire.terms)
            wire.name = self._node("Add", [x, y], x.partition("/")[0])
        return wire.name

    def _ints(self, name: str, values: list[int]) -> str:
        """A small constant that shapes are computed from: inside the proto, where every optimizer sees it."""
        from onnx import helper

        self._small.setdefault(name, helper.make_tensor(name, INT64, [len(values)], values))
        return name

    def _cast(self, name: str, dtype: str, label: str, to: int | None = None) -> str:
        """`name` of this dtype in the activations' type (or `to`); what is in it already stays as it is."""
        to = self._type if to is None else to
        if ELEMENT_TYPES[dtype] == to:
            return name
        if name not in self._casts:
            self._casts[name] = self._node("Cast", [name], label, to=to)
        return self._casts[name]

    def _sequence_lengths(self) -> tuple[str, str]:
        """seqlens_k int32 [batch] (last position of each sequence) and total_sequence_length int32 []."""
        if self._lengths is None:
            one = self._ints("one", [1])
            length = self._node("ReduceSum", ["attention_mask", one], "lengths", keepdims=0)
            last = self._node("Cast", [self._node("Sub", [length, one], "lengths")], "lengths", to=INT32)
            shape = self._node("Shape", ["attention_mask"], "lengths", start=1, end=2)
            total = self._node("Cast", [self._node("Squeeze", [shape], "lengths")], "lengths", to=INT32)
            self._lengths = (last, total)
        return self._lengths

    def _tables(self, rope: Rope) -> list[str]:
        """cos and sin [context, dim/2] of every position, computed in f32 as the checkpoints' own code does."""
        label = f"rope.{rope.dim}.{rope.theta:g}.{rope.scaling}"
        if label + ".cos" not in self.data.initializers:
            angles = np.arange(self.context, dtype=np.float32)[:, None] * rope.frequencies()[None]
            self.data.literal(label + ".cos", np.cos(angles))
            self.data.literal(label + ".sin", np.sin(angles))
        return [self._cast(name, "float32", label) for name in (label + ".cos", label + ".sin")]

    def _rotate(self, wire: Wire, label: str, rope: Rope, heads: int) -> Wire:
        self.inputs.setdefault("position_ids", (INT64, ("batch_size", "sequence_length")))
        ins = [self._name(wire), "position_ids", *self._tables(rope)]
        attributes = {"interleaved": 0, "num_heads": heads, "rotary_embedding_dim": 0}
        return Wire(self._node("RotaryEmbedding", ins, label, CONTRIB, **attributes))
