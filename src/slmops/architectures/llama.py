"""Llama 2 and 3, SmolLM2, TinyLlama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.spec import Spec

GGUF = "llama"
GGUF_PERMUTED = ("attention.query", "attention.key")
GGUF_TAKES = ("output bias", "mlp bias", "rope freqs", "free head_dim")
MLX = "llama"
TOY = _decoder.toy(
    "llama",
    "LlamaForCausalLM",
    tie_word_embeddings=True,
    rope_scaling={
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
)

names = _decoder.names
shapes = _decoder.shapes
forward = _decoder.forward


def spec(config: Mapping[str, Any]) -> Spec:
    biased = bool(config.get("attention_bias", False))
    return _decoder.spec(config, attention_bias=biased, output_bias=biased, mlp_bias=bool(config.get("mlp_bias", False)))
