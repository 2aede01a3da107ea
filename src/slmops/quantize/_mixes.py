"""The mixes that people know by name (Q4_K_M and kin): a type for each tensor by its role and layer, as llama-quantize does.

Source: llama.cpp, src/llama-quant.cpp (llama_tensor_get_type), for dense decoders without an importance matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slmops.core import roles, scheme
from slmops.core.scheme import Scheme
from slmops.core.spec import Spec

Rule = Callable[[int, int, int], str | None]
"""(layer, layers, query heads a key-value head) -> a scheme, or None: the mix's usual one."""

NARROW = {"q2_k": "iq4_nl", "q3_k": "iq4_nl", "iq4_xs": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""What takes the place of a super-block whose 256 elements do not divide the rows."""


def always(name: str) -> Rule:
    return lambda layer, layers, sharing: name


def more(name: str) -> Rule:
    """The first and last eighth of the layers, and every third between them (use_more_bits)."""
    return lambda i, n, _: name if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2 else None


def first(name: str, part: int, rest: str | None = None) -> Rule:
    """The first of `part` parts of the layers; `rest` behind them."""
    return lambda i, n, _: name if i < n // part else rest


def leading(name: str, count: int, rest: str | None = None) -> Rule:
    """The first `count` layers; `rest` behind them."""
    return lambda i, n, _: name if i < count else rest


def shared(name: str, least: int = 4, otherwise: str | None = None) -> Rule:
    """Where at least so many query heads share a key-value head."""
    return lambda i, n, sharing: name if sharing >= least else otherwise


def usual(layer: int, layers: int, sharing: int) -> str | None:
    """The mix's usual scheme, everywhere."""
    return None


@dataclass(frozen=True)
class Mix:
    """Types by role; None: the usual one."""

    most: str
    value: Rule = usual
    down: Rule = usual
    output: Rule = usual
    fused: Rule = usual
    """Query, key and value in one."""
    head: str = "q6_k"
    """Of the head, or of the embedding where it is tied."""

    def choose(self, role: str, spec: Spec, shape: tuple[int, ...]) -> Scheme:
        """The scheme of a matrix of this role and shape."""
        layer, kind = roles.layer(role), roles.kind(role)
        name: str | None = None
        if kind == "head" or (kind == "embedding" and spec.tied):
            name = self.head
        elif layer is not None:
            rules = {
                "attention.value": self.value,
                "attention.output": self.output,
                "attention.query_key_value": self.fused,
                "mlp.down": self.down,
            }
            if kind in rules:
                name = rules[kind](layer, spec.layers, spec.heads // spec.kv_heads)
        found = scheme.load(name or self.most)
        return scheme.load(NARROW[found.name]) if shape[-1] % found.group and found.name in NARROW else found
