"""Qwen3: an RMS norm over each head of query and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.spec import Spec

GGUF = "qwen3"
GGUF_PERMUTED = ()
GGUF_TAKES = ("head norm", "free head_dim")
MLX = "qwen3"
TOY = _decoder.toy("qwen3", "Qwen3ForCausalLM", tie_word_embeddings=True)

names = _decoder.names
shapes = _decoder.shapes
forward = _decoder.forward


def spec(config: Mapping[str, Any]) -> Spec:
    biased = bool(config.get("attention_bias", False))
    windows = _decoder.windows({"use_sliding_window": False, **config})
    return _decoder.spec(config, head_norm=True, attention_bias=biased, output_bias=biased, windows=windows)
