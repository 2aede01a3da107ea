"""q4_0, ggml's own Q4_0 as others make it: q4 with a scale of any f16 value, which bf16 cannot hold."""

from slmops.quantize._affine import Affine

SCHEME = Affine("q4_0", 4, 32, 8, 11, search=(-8.0, 7.0))
