"""tq2_0, ggml's TQ2_0: value = d * (code - 1), 2 bits a code. Made for ternary weights: -1, 0, 1."""

from slmops.quantize._affine import Affine

SCHEME = Affine("tq2_0", 2, 256, 1, 11)
