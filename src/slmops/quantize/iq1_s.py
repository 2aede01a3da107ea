"""IQ1_S, 50 bytes for 256, 1.6 bits: a grid of 2,048 points for 8, f16 d. Read and passed on; not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("iq1_s", 1, 256, 50)
