"""Spec: the sizes and constants that a decoder's program needs, the same for every family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slmops.core import plugins
from slmops.core.errors import CorruptInput, UnknownFamily, Unsupported
from slmops.core.tensor import Floats


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. Pairs are (i, i + dim/2), as Hugging Face lays them out.

    scaling: none | linear | llama3 | longrope (which has other divisors past `original_context`); yarn is refused while
    reading.
    """

    dim: int
    theta: float
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    """longrope's divisors within the original context and past it, [dim/2]."""
    magnitude: float = 1.0
    """What cosines and sines are multiplied with (longrope's attention factor)."""

    def divisors(self, far: bool = False) -> Floats:
        """By how much each base frequency is divided, f32 [dim/2]; all ones without scaling (GGUF's rope_freqs).

        far: for sequences longer than the original context, where that makes a difference.
        """
        base = 1.0 / self.theta ** (np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if self.scaling == "longrope":
            return np.array(self.long if far else self.short, np.float32)
        if self.scaling == "linear":
            return np.full(base.shape, self.factor, np.float32)
        if self.scaling == "llama3":
            # transformers/modeling_rope_utils.py, _compute_llama3_parameters
            length = 2 * math.pi / base
            low, high = self.original_context / self.low_freq_factor, self.original_context / self.high_freq_factor
            blend = (self.original_context / length - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            smooth = 1.0 / ((1 - blend) / self.factor + blend)
            result = np.where(length > low, self.factor, np.where(length < high, 1.0, smooth))
            return result.astype(np.float32)
        return np.ones(base.shape, np.float32)

    def frequencies(self, far: bool = False) -> Floats:
        """Radians per position, f32 [dim/2]."""
        base = 1.0 / self.theta ** (np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        return (base / self.divisors(far)).astype(np.float32)


@dataclass(frozen=True)
class Spec:
    """Sizes of a decoder. Everything a `forward` reads and every format writes; facts of one family stay in its file."""

    family: str
    """Hugging Face's model_type, the name of the file in slmops/architectures."""
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    rope: Rope
    tied: bool
    attention_bias: bool = False
    """Biases on query, key and value."""
    output_bias: bool = False
    mlp_bias: bool = False
    head_norm: bool = False
    """RMS norm over each head of query and key (qwen3)."""
    windows: tuple[int | None, ...] = field(default=())
    """Sliding window of each layer, in positions; None is full attention; () is full everywhere."""
    ropes: tuple[Rope | None, ...] = field(default=())
    """Rotation of each layer where they differ; None rotates nothing; () is `rope` everywhere."""
    fused: bool = False
    """Query, key and value are one matrix, and so are gate and up (phi3)."""
    activation: str = "silu"
    """Of the gated MLP: silu, gelu_tanh or relu2."""
    norm_offset: float = 0.0
    """Added to the weight of every norm before it multiplies (gemma: 1)."""
    attention_scale: float | None = None
    """What scores are multiplied with; None: one over the root of head_dim."""
    attention_cap: float | None = None
    """Scores s become cap * tanh(s / cap) where it is set; so do logits by `logit_cap`."""
    logit_cap: float | None = None

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None

    def rotation(self, layer: int) -> Rope | None:
        return self.ropes[layer] if self.ropes else self.rope

    @property
    def score_scale(self) -> float:
        return self.attention_scale or float(self.head_dim**-0.5)

    @property
    def row_multiple(self) -> int:
        """Blocks of rows start at multiples of this: heads stay whole, and zero points pack by eight."""
        return math.lcm(8, self.head_dim)


def from_config(config: Mapping[str, Any]) -> Spec:
    """config.json -> Spec, by the family that it names."""
    if config.get("auto_map"):
        raise Unsupported(
            "this checkpoint needs its own code (auto_map in config.json), and slmops runs no remote code",
            "use a checkpoint of a family that slmops knows: " + ", ".join(plugins.names("architectures")),
        )
    family = config.get("model_type")
    if not isinstance(family, str) or family not in plugins.names("architectures"):
        said = f"model_type {str(family)[:80]!r}" if family is not None else "no model_type"
        raise UnknownFamily(f"config.json says {said}", f"known families: {', '.join(plugins.names('architectures'))}")
    try:
        spec: Spec = plugins.load("architectures", family).spec(config)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
        # A family's reader checks sizes; what else is malformed surfaces as one of these.
        raise CorruptInput(f"config.json cannot be read as {family}: {error!r}"[:300]) from None
    for held in (spec, spec.rope, *spec.ropes):
        for name, value in vars(held).items() if held is not None else ():
            if isinstance(value, float) and not math.isfinite(value):
                raise CorruptInput(f"config.json gives {name} = {value}, which is no number to compute with")
    return spec
