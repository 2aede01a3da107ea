"""q4_1, ggml's Q4_1: value = d * code + m. Its minimum is any number, where q4a's is a zero point."""

from slmops.quantize._affine import SHRINKS, Affine

SCHEME = Affine("q4_1", 4, 32, None, 11, SHRINKS, biased=True)
