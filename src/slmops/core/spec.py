"""Spec: the sizes and constants that a decoder's program needs, the same for every family."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from slmops.core.tensor import Floats


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. Pairs are (i, i + dim/2), as Hugging Face lays them out.

    scaling: none | linear | llama3 | yarn is refused while reading (it changes with the length).
    """

    dim: int
    theta: float
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def divisors(self) -> Floats:
        """By how much each base frequency is divided, f32 [dim/2]; all ones without scaling (GGUF's rope_freqs)."""
        base = 1.0 / self.theta ** (np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
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

    def frequencies(self) -> Floats:
        """Radians per position, f32 [dim/2]."""
        base = 1.0 / self.theta ** (np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        return (base / self.divisors()).astype(np.float32)


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

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None

    @property
    def row_multiple(self) -> int:
        """Blocks of rows start at multiples of this: heads stay whole, and zero points pack by eight."""
        return math.lcm(8, self.head_dim)
