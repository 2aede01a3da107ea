"""SmolLM3: llama, but every fourth layer does not rotate (NoPE)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.errors import CorruptInput
from slmops.core.spec import Spec

GGUF = "smollm3"
GGUF_PERMUTED = ("attention.query", "attention.key")
GGUF_TAKES = ("free head_dim", "every fourth layer unrotated")
MLX = "smollm3"
TOY = _decoder.toy(
    "smollm3",
    "SmolLM3ForCausalLM",
    num_hidden_layers=5,
    no_rope_layers=[1, 1, 1, 0, 1],
    tie_word_embeddings=True,
    pad_token_id=0,
)

names = _decoder.names
shapes = _decoder.shapes
forward = _decoder.forward


def spec(config: Mapping[str, Any]) -> Spec:
    biased = bool(config.get("attention_bias", False))
    windows = _decoder.windows({"use_sliding_window": False, **config})
    mlp_bias = bool(config.get("mlp_bias", False))
    result = _decoder.spec(config, attention_bias=biased, output_bias=biased, mlp_bias=mlp_bias, windows=windows)
    every = _decoder.size(config, "no_rope_layer_interval", 1024, 4)
    # 1 where a layer rotates, whatever the name suggests (configuration_smollm3.py).
    rotates = config.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(result.layers)]
    if not isinstance(rotates, list) or len(rotates) != result.layers:
        raise CorruptInput(f"config.json: no_rope_layers is not a list of {result.layers} numbers")
    return dataclasses.replace(result, ropes=tuple(result.rope if one else None for one in rotates))
