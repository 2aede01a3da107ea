"""The ONNX interpreter: runs an architecture's program and emits ONNX Runtime's fused operators.

Operators of `com.microsoft`: onnxruntime/docs/ContribOperators.md. Weights are external data whose place is decided here,
so that the graph is made without a weight in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slmops.core.adapter import Pair
from slmops.core.scheme import Packed
from slmops.core.spec import Rope
from slmops.core.tensor import Tensor
from slmops.formats import _encode
from slmops.formats._lora import A, B
from slmops.formats._onnx_data import ELEMENT_TYPES, FLOAT, INT32, INT64, DataFile, last_tokens, rotations
from slmops.quantize._affine import Affine
from slmops.quantize.w8a8 import ByRow

CONTRIB = "com.microsoft"
OPSET, IR_VERSION = 21, 10
CODES, SCALES, ZEROS, ZERO, BLOCKS = ".codes", ".scales", ".zeros", ".zero", ".codes.blocks"
"""How the initializers of a packed matrix are called after its role; a dense one has the role's very name."""
Dims = tuple[int | str, ...]


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
    changed         matrices that an adapter may change: each gets two inputs, empty unless an adapter is active

    Matrices stay apart as the program has them: query, key and value in one product measured alike, and one initializer a
    role is what other tools expect and what read back needs.
    """

    tensors: Mapping[str, Tensor]
    context: int
    activations: str = "float32"
    accuracy: int = 4
    rotates: bool = True
    changed: Mapping[str, Pair] = field(default_factory=dict)
    data: DataFile = field(default_factory=DataFile)
    nodes: list[Any] = field(default_factory=list)
    inputs: dict[str, tuple[int, Dims]] = field(default_factory=dict)
    optional: dict[str, tuple[int, Dims]] = field(default_factory=dict)
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
        if isinstance(tensor, Packed) and isinstance(tensor.scheme, ByRow):
            out = self._by_row(source, weight, tensor)
        elif isinstance(tensor, Packed):
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
        if weight in self.changed:
            out = self._adapted(source, out, weight)
        if bias is not None:
            out = self._node("Add", [out, self._vector(bias)], bias)
        return Wire(out)

    def _by_row(self, x: str, weight: str, tensor: Packed) -> str:
        """The product with activations that the operator rounds to 8 bits, with one scale for each call."""
        # Codes around 128, for products with signed ones saturate on processors without VNNI (mlas: U8S8 by vpmaddubsw).
        codes = self.data.rows(weight + CODES, weight, tensor.shape, "uint8", _encode.codes)
        scales = self.data.rows(weight + SCALES, weight, tensor.shape[:1], "float32", _encode.first_scales)
        zero = self.data.literal("middle" + ZERO, np.array(tensor.scheme.zero, np.uint8))
        matrix = self._node("Transpose", [codes], weight, perm=[1, 0])  # folded while loading, and packed anyway
        return self._node("DynamicQuantizeMatMul", [x, matrix, scales, zero], weight, CONTRIB)

    def _adapted(self, x: str, product: str, weight: str) -> str:
        """product + x @ A @ B. Both are inputs with a default of rank 0, which changes nothing: ONNX Runtime sets them from
        an adapter file when it is active (onnxruntime, OrtLoraAdapter)."""
        from onnx import helper

        width, depth = self.tensors[weight].shape
        element = ELEMENT_TYPES[self.activations]
        for name, dims, shape in ((weight + A, (depth, 0), (depth, "rank")), (weight + B, (0, width), ("rank", width))):
            self._small[name] = helper.make_tensor(name, element, dims, [])
            self.optional[name] = (element, shape)
        low = self._node("MatMul", [x, weight + A], weight)
        return self._node("Add", [product, self._node("MatMul", [low, weight + B], weight)], weight)

    def split(self, x: Wire, sizes: Sequence[int]) -> Sequence[Wire]:
        source = self._name(x)
        label = source.partition("/")[0]
        outs = [f"{label}/Split.{len(self.nodes)}.{number}" for number in range(len(sizes))]
        lengths = self._ints("split." + ".".join(map(str, sizes)), list(sizes))
        self._emit("Split", [source, lengths], outs, label, axis=-1)
        return [Wire(out) for out in outs]

    def norm(self, x: Wire, weight: str, eps: float, heads: int | None = None, offset: float = 0.0) -> Wire:
        gamma = self._vector(weight, offset)
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
        cap: float | None = None,
    ) -> Wire:
        name = f"layers.{layer}.attention"
        attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": scale}
        tables: list[str] = []
        if window is not None:
            attributes["local_window_size"] = window
        if cap is not None:
            attributes["softcap"] = cap
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
        name = self._name(gate)
        label = name.partition("/")[0]
        if activation == "silu":
            # ONNX Runtime fuses Sigmoid and Mul on the processor by itself; other providers know these two only.
            active = self._node("Mul", [name, self._node("Sigmoid", [name], label)], label)
        elif activation == "gelu_tanh":
            active = self._node("Gelu", [name], label, approximate="tanh")
        else:
            above = self._node("Relu", [name], label)
            active = self._node("Mul", [above, above], label)
        return Wire(self._node("Mul", [active, self._name(up)], label))

    def add(self, x: Wire, y: Wire) -> Wire:
        return Wire(terms=(x, y))

    def scale(self, x: Wire, factor: float) -> Wire:
        name = self._name(x)
        return Wire(self._node("Mul", [name, self._number(factor)], name.partition("/")[0]))

    def _number(self, value: float) -> str:
        """A constant of one number in the activations' type."""
        from onnx import helper

        name = f"number.{value:g}"
        self._small.setdefault(name, helper.make_tensor(name, self._type, [1], [value]))
        return name

    def head(self, x: Wire, weight: str, cap: float | None = None) -> Wire:
        source = self._name(x)
        begin = len(self.nodes)
        logits = self.linear(Wire(source), weight).name
        if cap is not None:
            low = self._node("Div", [logits, self._number(cap)], "logits")
            logits = self._node("Mul", [self._node("Tanh", [low], "logits"), self._number(cap)], "logits")
        self._cast(logits, self.activations, "logits", FLOAT)
        self.nodes[-1].output[0] = "logits"
        # Casts of the weights may stand before the product.
        self._head = next(index for index in range(begin, len(self.nodes)) if self.nodes[index].input[0] == source)
        self.outputs = {"logits": (FLOAT, ("batch_size", "sequence_length", self.tensors[weight].shape[0])), **self.outputs}
        return Wire("logits")

    # ---- the whole

    def proto(self, name: str, *, last: bool) -> bytes:
        """The finished model, its weights outside. `last`: logits of each sequence's last token alone, which is all that
        generation reads: a prompt costs neither the head's products nor their memory (0.6 MB a token of 152 k words)."""
        from onnx import NodeProto, helper

        nodes, outputs = list(self.nodes), dict(self.outputs)
        small = dict(self._small)
        if last:
            position = self._head
            head = NodeProto()
            head.CopyFrom(nodes[position])
            for key, value in (("zero", 0), ("one", 1)):
                small[key] = helper.make_tensor(key, INT64, [1], [value])
            cut = last_tokens(head.input[0])
            head.input[0] = cut[-1].output[0]
            nodes[position : position + 1] = [*cut, head]
            element, dims = outputs["logits"]
            outputs["logits"] = (element, (dims[0], 1, dims[2]))
        read = {source for node in nodes for source in node.input}
        for node in nodes:
            if node.op_type == "SkipSimplifiedLayerNormalization" and len(node.output) > 1 and node.output[3] not in read:
                del node.output[1:]
        sides = [
            [helper.make_tensor_value_info(key, element, dims) for key, (element, dims) in side.items()]
            for side in ({**self.inputs, **self.optional}, outputs)
        ]
        graph = helper.make_graph(nodes, name, *sides, [*small.values(), *self.data.initializers.values()])
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slmops")
        return bytes(model.SerializeToString(deterministic=True))

    # ---- weights

    def _scales(self, weight: str, tensor: Packed) -> tuple[str, str]:
        """Names of the scales [rows, groups] in the activations' type, and of the zero points where groups have their own.

        In the file scales are f16 where that holds them exactly, in half the bytes; ONNX Runtime folds the cast while it
        loads, so that it costs nothing later.
        """
        scheme = tensor.scheme
        assert isinstance(scheme, Affine)
        groups, dtype = tensor.shape[1] // scheme.group, scheme.scale
        shape = (tensor.shape[0], groups)
        scales = self.data.rows(weight + SCALES, weight, shape, dtype.name, _encode.scales(dtype))
        scales = self._cast(scales, dtype.name, weight + SCALES)
        if scheme.zero is not None:
            return scales, ""
        width = -(-groups * scheme.bits // 8)
        encode = _encode.zeros(scheme.bits, padded=True)
        return scales, self.data.rows(weight + ZEROS, weight, (shape[0], width), "uint8", encode)

    def _stored(self, weight: str) -> str:
        """dtype of a dense matrix in the file. bf16, which not every provider computes with, becomes f32: exact."""
        return "float16" if self.tensors[weight].dtype == np.float16 else "float32"

    def _dense(self, weight: str) -> str:
        dtype = np.dtype(self._stored(weight))
        return self.data.rows(weight, weight, self.tensors[weight].shape, dtype.name, _encode.dense(dtype))

    def _vector(self, role: str, offset: float = 0.0) -> str:
        """Norm weights (as they multiply) and biases: f32 in the file, like the checkpoint's own numbers."""
        single = np.dtype(np.float32)
        name = self.data.rows(role, role, self.tensors[role].shape, single.name, _encode.shifted(offset))
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
        near = self._table(label, rope, far=False)
        if rope.scaling != "longrope" or self.context <= rope.original_context:
            return near
        return self._either(label, self._table(label + ".far", rope, far=True), near, rope)

    def _table(self, label: str, rope: Rope, far: bool) -> list[str]:
        if label + ".cos" not in self.data.initializers:
            for name, values in zip(("cos", "sin"), rotations(rope, self.context, far), strict=True):
                self.data.literal(f"{label}.{name}", values)
        return [self._cast(name, "float32", label) for name in (label + ".cos", label + ".sin")]

    def _either(self, label: str, far: list[str], near: list[str], rope: Rope) -> list[str]:
        """The tables for a sequence that is longer than the original context, or those for one that is not."""
        from onnx import helper

        outs = [f"{label}.{part}.chosen" for part in ("cos", "sin")]
        if outs[0] not in self._casts:
            self._casts[outs[0]] = outs[0]
            past = self._node("Cast", [self._sequence_lengths()[1]], label, to=INT64)
            over = self._node("Greater", [past, self._ints(f"{label}.original", [rope.original_context])], label)
            branches = {}
            for key, tables in (("then_branch", far), ("else_branch", near)):
                inner = [f"{out}.{key}" for out in outs]
                nodes = [helper.make_node("Identity", [one], [out]) for one, out in zip(tables, inner, strict=True)]
                infos = [helper.make_tensor_value_info(out, self._type, None) for out in inner]
                branches[key] = helper.make_graph(nodes, f"{label}.{key}", [], infos)
            self._emit("If", [over], outs, label, **branches)
        return outs

    def _rotate(self, wire: Wire, label: str, rope: Rope, heads: int) -> Wire:
        self.inputs.setdefault("position_ids", (INT64, ("batch_size", "sequence_length")))
        ins = [self._name(wire), "position_ids", *self._tables(rope)]
        attributes = {"interleaved": 0, "num_heads": heads, "rotary_embedding_dim": 0}
        return Wire(self._node("RotaryEmbedding", ins, label, CONTRIB, **attributes))
