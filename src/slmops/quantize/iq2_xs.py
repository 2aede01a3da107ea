"""IQ2_XS, 74 bytes for 256, 2.3 bits: a grid of 512 points for 8, f16 d. Read and passed on; not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("iq2_xs", 2, 256, 74)
