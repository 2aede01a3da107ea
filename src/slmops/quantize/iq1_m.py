"""IQ1_M, 56 bytes for 256, 1.8 bits: a grid of 2,048 points for 8, d in bits of its scales. Read, not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("iq1_m", 1, 256, 56, halves=())
