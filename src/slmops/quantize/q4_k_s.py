"""Q4_K_S: Q4_K, values and down in Q5_K in the first layers; the head in Q6_K. As llama-quantize mixes it."""

from slmops.quantize._mixes import Mix, first, leading

CHOOSE = Mix("q4_k", value=leading("q5_k", 4), down=first("q5_k", 8)).choose
