"""q4a, 4-bit with an integer zero point a group: bit for bit GGUF Q4_1, MatMulNBits and W4A16 asymmetric.

Groups of 32 along the input; a scale of 7 significant bits, so that zero * scale (11 bits) is exact in f16.
"""

from slmops.quantize._affine import Affine

SCHEME = Affine("q4a", 4, 32, None, 7, search=(1.04, 1.0, 0.95, 0.9, 0.85, 0.8))
