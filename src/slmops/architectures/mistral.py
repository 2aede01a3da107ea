"""Mistral 7B and its kin: llama's program, with a sliding window in the first version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.spec import Spec

GGUF = "llama"
GGUF_PERMUTED = ("attention.query", "attention.key")
GGUF_TAKES = ("output bias", "mlp bias", "rope freqs", "free head_dim")
MLX = "llama"
TOY = _decoder.toy("mistral", "MistralForCausalLM", sliding_window=None)

names = _decoder.names
shapes = _decoder.shapes
forward = _decoder.forward


def spec(config: Mapping[str, Any]) -> Spec:
    return _decoder.spec(config, windows=_decoder.windows(config))
