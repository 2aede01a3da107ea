"""The interpreter that turns an architecture's program into an OpenVINO graph: stateful, 4-bit weights kept as codes.

The CPU plugin and the pass to paged attention recognise exact subgraphs: each method says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slmops.core.errors import Unsupported
from slmops.core.spec import Rope
from slmops.core.tensor import Tensor
from slmops.formats._openvino_ir import BROADCAST, DYNAMIC, Graph, Port, Shape, broadcast
from slmops.formats._openvino_weights import Constants

LOWEST = -65504.0
"""What a masked score gets: the lowest f16, as optimum writes it, so that half precision devices stay finite."""


class Emitter:
    """Ops[Port]. Weights become constants whose bytes their `regions` will fill."""

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str], steps: Mapping[str, float]) -> None:
        """steps: of the inputs that are rounded to 8 bits (Model.steps)."""
        self.graph = Graph()
        self.constants = Constants(self.graph, tensors, names)
        self._names, self._steps = names, steps
        self._rounded: dict[tuple[Port, float], Port] = {}
        self._rotations: dict[Rope, tuple[Port, Port]] = {}
        self._masks: dict[int | None, Port] = {}
        parameter = self.graph.parameter
        self.ids = parameter("input_ids", "i64", (DYNAMIC, DYNAMIC))
        self._attended = parameter("attention_mask", "i64", (DYNAMIC, DYNAMIC))
        self._positions = parameter("position_ids", "i64", (DYNAMIC, DYNAMIC))
        self._beam = parameter("beam_idx", "i32", (DYNAMIC,))
        sizes = self._op("ShapeOf", [self.ids], ("i64", (2,)), opset=3, data={"output_type": "i64"})
        self._batch = self._gather(sizes, [0])
        self._queries = self._gather(sizes, 1)
        keys = self._op("ShapeOf", [self._attended], ("i64", (2,)), opset=3, data={"output_type": "i64"})
        self._keys = self._gather(keys, 1)

    def embed(self, weight: str, ids: Port) -> Port:
        rows = self.graph.convert(ids, "i32")
        if self._steps and self.constants.by_row(weight):
            return self.constants.looked_up(weight, rows)
        table = self.constants.matrix(weight)
        shape = (*ids.shape, table.shape[1])
        inputs = [table, rows, self.graph.constant(0)]
        return self._op(
            "Gather", inputs, ("f32", shape), opset=8, data={"batch_dims": "0"}, name=f"{self._names[weight]}/gather"
        )

    def linear(self, x: Port, weight: str, bias: str | None = None) -> Port:
        result = self._matmul(x, weight)
        return self._binary("Add", result, self.constants.vector(bias, (1, 1, -1))) if bias else result

    def split(self, x: Port, sizes: Sequence[int]) -> Sequence[Port]:
        """Slices: VariadicSplit has several outputs, and every layer here has one."""
        parts, start = [], 0
        for size in sizes:
            parts.append(self._slice(x, start, start + size, axis=2))
            start += size
        return parts

    def norm(self, x: Port, weight: str, eps: float, heads: int | None = None, offset: float = 0.0) -> Port:
        """Power, ReduceMean, Add, Sqrt, Divide, Multiply, Multiply: fused to one RMS by the plugin.

        With `heads` the result keeps the heads apart, [batch, positions, heads, head_dim]: attention takes it so.
        """
        if heads:
            x = self._heads(x, heads)
        square = self._binary("Power", x, self.graph.constant(2.0))
        axes = self.graph.constant([-1])
        mean = self._op("ReduceMean", [square, axes], ("f32", (*x.shape[:-1], 1)), data={"keep_dims": "true"})
        root = self._binary("Add", mean, self.graph.constant(float(np.float32(eps))))
        root = self._op("Sqrt", [root], ("f32", root.shape))
        inverse = self._binary("Divide", self.graph.constant(1.0), root)
        return self._binary("Multiply", self._binary("Multiply", x, inverse), self.constants.vector(weight, (-1,), offset))

    def attention(
        self,
        query: Port,
        key: Port,
        value: Port,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: Rope | None,
        window: int | None,
        scale: float,
        cap: float | None = None,
    ) -> Port:
        """ScaledDotProductAttention over a state, in the shape that StatefulSDPAFusion and the pass to PA recognise."""
        if cap is not None:
            raise Unsupported("OpenVINO's attention has no soft cap on its scores", "choose another format: onnx")
        query = self._rotate(self._swap(self._heads(query, heads)), rope)
        key = self._rotate(self._swap(self._heads(key, kv_heads)), rope)
        value = self._swap(self._heads(value, kv_heads))
        key, value = self._cached(key, f"{layer}.key"), self._cached(value, f"{layer}.value")
        inputs = [query, self._repeat(key, heads), self._repeat(value, heads), self._mask(window)]
        if abs(scale - head_dim**-0.5) > 1e-7:
            inputs.append(self.graph.constant(scale))
        shape = (DYNAMIC, heads, DYNAMIC, head_dim)
        name = f"model.layers.{layer}.self_attn"
        data = {"causal": "false"}
        result = self._op("ScaledDotProductAttention", inputs, ("f32", shape), opset=13, data=data, name=name)
        return self._reshape(self._swap(result), [0, 0, heads * head_dim], (DYNAMIC, DYNAMIC, heads * head_dim))

    def gated(self, gate: Port, up: Port, activation: str) -> Port:
        if activation == "silu":
            active = self._op("Swish", [gate, self.graph.constant(1.0)], ("f32", gate.shape), opset=4)
        elif activation == "gelu_tanh":
            active = self._op("Gelu", [gate], ("f32", gate.shape), opset=7, data={"approximation_mode": "TANH"})
        else:
            above = self._op("ReLU", [gate], ("f32", gate.shape))
            active = self._binary("Multiply", above, above)
        return self._binary("Multiply", active, up)

    def add(self, x: Port, y: Port) -> Port:
        return self._binary("Add", x, y)

    def scale(self, x: Port, factor: float) -> Port:
        return self._binary("Multiply", x, self.graph.constant(float(np.float32(factor))))

    def head(self, x: Port, weight: str, cap: float | None = None) -> Port:
        """Ends in MatMul -> Result: GenAI cuts all but the last position before a head of this shape, or of
        MatMul -> Divide -> Tanh -> Multiply -> Result."""
        if cap is None:
            return self._matmul(x, weight, "logits")
        low = self._binary("Divide", self._matmul(x, weight), self.graph.constant(cap))
        return self._binary("Multiply", self._op("Tanh", [low], ("f32", low.shape)), self.graph.constant(cap))

    def finish(self, logits: Port, name: str) -> bytes:
        """The .xml of the whole model."""
        self.graph.node("Result", [logits], None, name="logits/result", names="logits")
        widths = [] if self._steps else self.constants.widths_by_row()
        # With a scale a row, larger groups of activations are faster (bench/activations.py); they must divide the rows.
        groups = [size for size in (128, 64, 32) if widths and not any(width % size for width in widths)]
        return self.graph.xml(name, {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(groups[0])} if groups else {})

    # Attention's parts.

    def _rotate(self, x: Port, rope: Rope | None) -> Port:
        """x * cos + concat(-second half, first half) * sin, which RoPEFusion knows."""
        if rope is None:
            return x
        cos, sin = self._rotation(rope)
        half, dim, whole = rope.dim // 2, rope.dim, x.shape[-1]
        turning = x if dim == whole else self._slice(x, 0, dim)
        first, second = self._slice(turning, 0, half), self._slice(turning, half, dim)
        negative = self._binary("Multiply", second, self.graph.constant(-1.0))
        turned = self._op("Concat", [negative, first], ("f32", turning.shape), data={"axis": "-1"})
        result = self._binary("Add", self._binary("Multiply", turning, cos), self._binary("Multiply", turned, sin))
        if dim == whole:
            return result
        return self._op("Concat", [result, self._slice(x, dim, whole)], ("f32", x.shape), data={"axis": "-1"})

    def _rotation(self, rope: Rope) -> tuple[Port, Port]:
        """Cosines and sines [batch, 1, positions, head_dim], made once for all layers."""
        if rope not in self._rotations:
            half = rope.dim // 2
            positions = self._op("Convert", [self._positions], ("f32", (-1, -1)), data={"destination_type": "f32"})
            positions = self._unsqueeze(positions, [2], (-1, -1, 1))
            frequencies = self._frequencies(rope)
            data = {"transpose_a": "false", "transpose_b": "false"}
            angles = self._op("MatMul", [positions, frequencies], ("f32", (-1, -1, half)), data=data)
            angles = self._op("Concat", [angles, angles], ("f32", (-1, -1, rope.dim)), data={"axis": "-1"})
            cos = self._op("Cos", [angles], ("f32", angles.shape))
            sin = self._op("Sin", [angles], ("f32", angles.shape))
            if rope.magnitude != 1:
                cos, sin = (self.scale(part, rope.magnitude) for part in (cos, sin))
            shape = (-1, 1, -1, rope.dim)
            self._rotations[rope] = self._unsqueeze(cos, [1], shape), self._unsqueeze(sin, [1], shape)
        return self._rotations[rope]

    def _frequencies(self, rope: Rope) -> Port:
        """[1, 1, half]; longrope's depend on the last position, which both back ends keep as an input."""
        near, far = (self.graph.constant(rope.frequencies(far).reshape(1, 1, -1)) for far in (False, True))
        if rope.scaling != "longrope":
            return near
        axes = self.graph.constant([0, 1])
        last = self._op("ReduceMax", [self._positions, axes], ("i64", ()), data={"keep_dims": "false"})
        over = self._binary("GreaterEqual", last, self.graph.constant(rope.original_context), "boolean")
        return self._op("Select", [over, far, near], ("f32", near.shape), data=BROADCAST)

    def _cached(self, new: Port, name: str) -> Port:
        """ReadValue, Gather by beam, Concat, Assign: [batch, kv heads, positions, head_dim] kept between calls."""
        _, heads, _, dim = new.shape
        layer, kind = name.split(".")
        variable = f"past_key_values.{layer}.{kind}present.{layer}.{kind}"
        constant = self.graph.constant
        empty = [self._batch, constant([heads]), constant([0]), constant([dim])]
        shape = self._op("Concat", empty, ("i64", (4,)), data={"axis": "0"})
        start = self._op("Broadcast", [constant(0.0), shape], ("f32", (-1, heads, 0, dim)), opset=3, data={"mode": "numpy"})
        data = {"variable_id": variable, "variable_type": "f32", "variable_shape": f"?,{heads},?,{dim}"}
        past = self._op("ReadValue", [start], ("f32", new.shape), opset=6, data=data)
        past = self._op("Gather", [past, self._beam, constant(0)], ("f32", new.shape), opset=8, data={"batch_dims": "0"})
        current = self._op("Concat", [past, new], ("f32", new.shape), data={"axis": "2"})
        self._op("Assign", [current], ("f32", new.shape), opset=6, data={"variable_id": variable})
        return current

    def _repeat(self, x: Port, heads: int) -> Port:
        """Each key-value head for its group of query heads. A ShapeOf in this path would block StatefulSDPAFusion."""
        _, kv_heads, _, dim = x.shape
        if kv_heads == heads:
            return x
        repeats = heads // kv_heads
        x = self._unsqueeze(x, [2], (-1, kv_heads, 1, -1, dim))
        target = self.graph.constant([1, 1, repeats, 1, 1])
        shape = (-1, kv_heads, repeats, -1, dim)
        x = self._op("Broadcast", [x, target], ("f32", shape), opset=3, data={"mode": "bidirectional"})
        return self._reshape(x, [0, heads, -1, dim], (-1, heads, -1, dim))

    def _mask(self, window: int | None) -> Port:
        """Additive mask [batch, 1, queries, keys], made once for all layers with the same window.

        Full attention: any mask will do, as paged attention makes its own. A window: paged attention reads it off this
        one pattern (transformers' own, through four BitwiseAnds) and silently drops any other.
        """
        if window in self._masks:
            return self._masks[window]
        constant = self.graph.constant
        zero, one = constant(0), constant(1)
        keys = self._op("Range", [zero, self._keys, one], ("i64", (-1,)), opset=4, data={"output_type": "i64"})
        first = self._binary("Subtract", self._keys, self._queries)
        queries = self._op("Range", [first, self._keys, one], ("i64", (-1,)), opset=4, data={"output_type": "i64"})
        keys = self._unsqueeze(self._unsqueeze(keys, [0], (1, -1)), [0, 1], (1, 1, 1, -1))
        queries = self._unsqueeze(self._unsqueeze(queries, [1], (-1, 1)), [0, 1], (1, 1, -1, 1))
        causal = self._binary("LessEqual", keys, queries, "boolean")
        padding = self._unsqueeze(self._attended, [1, 2], (-1, 1, 1, -1))
        padding = self._op("Convert", [padding], ("boolean", padding.shape), data={"destination_type": "boolean"})
        shown, hidden = constant(0.0), constant(LOWEST)
        if window is None:
            seen = self._binary("LogicalAnd", causal, padding, "boolean")
            mask = self._op("Select", [seen, shown, hidden], ("f32", seen.shape), data=BROADCAST)
        else:
            true = constant(np.array(True))
            near = self._binary("Greater", keys, self._binary("Add", queries, constant(-window)), "boolean")
            seen = self._and(self._and(true, near), causal)
            seen = self._and(self._and(true, seen), padding)
            lengths = [self._unsqueeze(length, [0], (1,)) for length in (self._queries, self._keys)]
            shape = self._op("Concat", [self._batch, constant([1]), *lengths], ("i64", (4,)), data={"axis": "0"})
            full = ("boolean", (-1, 1, -1, -1))
            seen = self._op("Broadcast", [seen, shape], full, opset=3, data={"mode": "bidirectional"})
            mask = self._op("Select", [seen, shown, hidden], ("f32", (-1, 1, -1, -1)), data=BROADCAST)
            mask = self._op(
                "Slice", [mask, constant([0]), lengths[1], constant([1]), constant([3])], ("f32", mask.shape), opset=8
            )
        self._masks[window] = mask
        return mask

    def _matmul(self, x: Port, weight: str, name: str = "") -> Port:
        if weight in self._steps and self.constants.by_row(weight):
            x = self._in_steps(x, self._steps[weight])
        matrix = self.constants.matrix(weight)
        data = {"transpose_a": "false", "transpose_b": "true"}
        shape = (*x.shape[:-1], matrix.shape[0])
        return self._op("MatMul", [x, matrix], ("f32", shape), data=data, name=name or f"{self._names[weight]}/matmul")

    def _in_steps(self, x: Port, step: float) -> Port:
        """FakeQuantize: the CPU plugin's low precision passes turn it into i8 and multiply whole numbers. Query, key and
        value share one."""
        if (x, step) not in self._rounded:
            low, high = (self.graph.constant(np.full((1, 1, 1), code * step, np.float32)) for code in (-128, 127))
            data = {"levels": "256", **BROADCAST}
            self._rounded[x, step] = self._op("FakeQuantize", [x, low, high, low, high], ("f32", x.shape), data=data)
        return self._rounded[x, step]

    # Small words.

    def _op(
        self,
        kind: str,
        inputs: Sequence[Port],
        result: tuple[str, Shape],
        *,
        opset: int = 1,
        data: Mapping[str, str] | None = None,
        name: str = "",
        rt_info: str = "",
    ) -> Port:
        return self.graph.node(kind, inputs, result, opset=opset, data=data, name=name, rt_info=rt_info)

    def _binary(self, kind: str, x: Port, y: Port, result: str = "") -> Port:
        return self.graph.binary(kind, x, y, result)

    def _and(self, x: Port, y: Port) -> Port:
        return self._op("BitwiseAnd", [x, y], ("boolean", broadcast(x.shape, y.shape)), opset=13, data=BROADCAST)

    def _gather(self, values: Port, index: int | list[int]) -> Port:
        shape: Shape = (len(index),) if isinstance(index, list) else ()
        inputs = [values, self.graph.constant(index), self.graph.constant(0)]
        return self._op("Gather", inputs, (values.type, shape), opset=8, data={"batch_dims": "0"})

    def _reshape(self, x: Port, sizes: list[int], shape: Shape, special_zero: str = "true") -> Port:
        return self._op("Reshape", [x, self.graph.constant(sizes)], (x.type, shape), data={"special_zero": special_zero})

    def _heads(self, x: Port, heads: int) -> Port:
        if len(x.shape) == 4:
            return x
        dim = x.shape[-1] // heads
        return self._reshape(x, [0, 0, heads, dim], (DYNAMIC, DYNAMIC, heads, dim))

    def _swap(self, x: Port) -> Port:
        """Positions and heads change places."""
        order = self.graph.constant([0, 2, 1, 3])
        return self._op("Transpose", [x, order], ("f32", (x.shape[0], x.shape[2], x.shape[1], x.shape[3])))

    def _slice(self, x: Port, start: int, stop: int, axis: int = 3) -> Port:
        """Elements start..stop of the last axis, which is number `axis`."""
        constant = self.graph.constant
        inputs = [x, constant([start]), constant([stop]), constant([1]), constant([axis])]
        return self._op("Slice", inputs, ("f32", (*x.shape[:-1], stop - start)), opset=8)

    def _unsqueeze(self, x: Port, axes: list[int], shape: Shape) -> Port:
        return self._op("Unsqueeze", [x, self.graph.constant(axes)], (x.type, shape))
