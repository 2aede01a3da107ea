"""q5_1, ggml's Q5_1: value = d * code + m."""

from slmops.quantize._affine import SHRINKS, Affine

SCHEME = Affine("q5_1", 5, 32, None, 11, SHRINKS, biased=True)
