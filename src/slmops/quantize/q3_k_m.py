"""Q3_K_M: Q3_K, values and down with more bits in the first layers, outputs in Q4_K, head in Q6_K: llama-quantize's mix."""

from slmops.quantize._mixes import Mix, always, first, leading

CHOOSE = Mix(
    "q3_k",
    value=leading("q5_k", 2, "q4_k"),
    down=first("q5_k", 16, "q4_k"),
    output=always("q4_k"),
    fused=always("q4_k"),
).choose
