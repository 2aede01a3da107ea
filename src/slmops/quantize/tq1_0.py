"""tq1_0, ggml's TQ1_0: value = d * (code - 1) with codes 0, 1, 2; five of them in a byte in the file."""

from slmops.quantize._affine import Affine

SCHEME = Affine("tq1_0", 2, 256, 1, 11)
