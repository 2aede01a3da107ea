"""Q3_K_S: Q3_K throughout; the head in Q6_K. As llama-quantize mixes it."""

from slmops.quantize._mixes import Mix

CHOOSE = Mix("q3_k").choose
