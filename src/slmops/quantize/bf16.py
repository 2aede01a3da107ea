"""bf16: plain numbers, for baselines and for engines without codes."""

from slmops.quantize._dense import Dense

SCHEME = Dense("bf16", 16)
