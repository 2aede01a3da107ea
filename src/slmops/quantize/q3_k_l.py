"""Q3_K_L: Q3_K, values, outputs and down in Q5_K; the head in Q6_K. As llama-quantize mixes it."""

from slmops.quantize._mixes import Mix, always

CHOOSE = Mix("q3_k", value=always("q5_k"), down=always("q5_k"), output=always("q5_k"), fused=always("q4_k")).choose
