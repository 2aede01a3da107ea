"""What others make of a folder that slmops wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from slmops import compile as compiler
from slmops.core.model import Model


def written(model: Model, folder: Path) -> Path:
    """The model as a plain Hugging Face folder, by the compiler."""
    (made,) = compiler.convert(model, ["huggingface"], compiler.KEEP, folder, verify=False)
    return made.folder


def transformers_logits(folder: Path, ids: Sequence[int]) -> np.ndarray:
    """f32 [ids, vocab] of transformers' own implementation."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        found: np.ndarray = model(torch.tensor([list(ids)])).logits[0].numpy()
    return found
