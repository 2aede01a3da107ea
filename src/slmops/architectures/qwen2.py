"""Qwen2 and Qwen2.5: biases on query, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.spec import Spec

GGUF = "qwen2"
GGUF_PERMUTED = ()
GGUF_TAKES = ()
MLX = "qwen2"
TOY = _decoder.toy("qwen2", "Qwen2ForCausalLM")

names = _decoder.names
shapes = _decoder.shapes
forward = _decoder.forward


def spec(config: Mapping[str, Any]) -> Spec:
    windows = _decoder.windows({"use_sliding_window": False, **config})
    return _decoder.spec(config, attention_bias=True, windows=windows)
