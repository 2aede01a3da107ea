"""q8_0, ggml's own Q8_0 as others make it: q8 with a scale of any f16 value, which bf16 cannot hold."""

from slmops.quantize._affine import Affine

SCHEME = Affine("q8_0", 8, 32, 128, 11, search=(127.0,))
