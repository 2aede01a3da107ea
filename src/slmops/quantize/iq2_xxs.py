"""IQ2_XXS, 66 bytes for 256, 2.1 bits: a grid of 256 points for 8, f16 d. Read and passed on; not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("iq2_xxs", 2, 256, 66)
