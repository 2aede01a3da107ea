"""MXFP4, 17 bytes for 32, 4-bit floats under one power of two (OCP microscaling). Read and passed on; not made here."""

from slmops.quantize._ggml_grids import by_grid

SCHEME = by_grid("mxfp4", 4, 32, 17, halves=())
