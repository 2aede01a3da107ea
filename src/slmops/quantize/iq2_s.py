"""IQ2_S, 82 bytes for 256, 2.6 bits: a grid of 1,024 points for 8, f16 d. Read and passed on; not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("iq2_s", 2, 256, 82)
