"""q4, the portable 4-bit scheme: bit for bit GGUF Q4_0, MatMulNBits, OpenVINO u4, MLX affine and W4A16.

Symmetric around 8, groups of 32 along the input, a signed scale of 8 significant bits (exact in f16 and in bf16).
"""

from slmops.quantize._affine import Affine

# Where the largest magnitude may land: near -8 (the longer side), or near 7 with the sign kept.
SCHEME = Affine("q4", 4, 32, 8, 8, search=(-9.0, -8.5, -8.0, -7.6, -7.2, -6.8, 6.4, 6.8, 7.2, 7.6, 8.2))
