"""Q5_K_M: Q5_K, values and down in Q6_K in half of the layers; the head in Q6_K. As llama-quantize mixes it."""

from slmops.quantize._mixes import Mix, always, more

CHOOSE = Mix("q5_k", value=more("q6_k"), down=more("q6_k"), fused=always("q6_k")).choose
