"""Q5_K_S: Q5_K throughout; the head in Q6_K. As llama-quantize mixes it."""

from slmops.quantize._mixes import Mix

CHOOSE = Mix("q5_k").choose
