"""Q4_K_M: Q4_K, values and down in Q6_K in half of the layers; the head in Q6_K. As llama-quantize mixes it."""

from slmops.quantize._mixes import Mix, always, more

CHOOSE = Mix("q4_k", value=more("q6_k"), down=more("q6_k"), fused=always("q5_k")).choose
