"""Phi-3-mini and Phi-4-mini: query, key and value in one matrix, gate and up in another, longrope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.spec import Spec

GGUF = "phi3"
GGUF_PERMUTED = ()
GGUF_TAKES = ("fused", "partial rotation", "longrope")
MLX = "phi3"
TOY = _decoder.toy(
    "phi3", "Phi3ForCausalLM", partial_rotary_factor=0.5, original_max_position_embeddings=512, pad_token_id=0
)

names = _decoder.names
shapes = _decoder.shapes
forward = _decoder.forward


def spec(config: Mapping[str, Any]) -> Spec:
    return _decoder.spec(config, fused=True, windows=_decoder.windows(config))
