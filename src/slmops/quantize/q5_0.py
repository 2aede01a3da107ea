"""q5_0, ggml's Q5_0: value = d * (code - 16). Holds any 4-bit code less its zero point."""

from slmops.quantize._affine import Affine

SCHEME = Affine("q5_0", 5, 32, 16, 11, search=(-16.0, -15.5, 15.0, 15.5))
