"""f32: plain numbers, for baselines and for engines without codes."""

from slmops.quantize._dense import Dense

SCHEME = Dense("f32", 32)
