"""q8, the portable 8-bit scheme: bit for bit GGUF Q8_0 and its kin.

Symmetric around 128 (codes 1 to 255), groups of 32 along the input, a scale of 8 significant bits.
"""

from slmops.quantize._affine import Affine

SCHEME = Affine("q8", 8, 32, 128, 8, search=(126.5, 127.0, 127.5))
