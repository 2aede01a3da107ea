"""IQ3_S, 110 bytes for 256, 3.4 bits: a grid of 512 points for 4, f16 d. Read and passed on; not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("iq3_s", 3, 256, 110)
