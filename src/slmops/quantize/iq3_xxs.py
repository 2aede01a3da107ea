"""IQ3_XXS, 98 bytes for 256, 3.1 bits: a grid of 256 points for 4, f16 d. Read and passed on; not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("iq3_xxs", 3, 256, 98)
