"""The interpreter that goes back: forwards as the reference interpreter, backwards as transformers' own modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from needs import needs
from slmops.core import plugins
from slmops.core.errors import UsageError
from slmops.core.model import Weights
from slmops.core.tensor import Floats
from slmops.ops.numpy import NumpyOps
from slmops.source import load

pytestmark = [pytest.mark.slow, needs("torch", "transformers")]
Toy = Callable[..., Path]
PLACES = {"attention.query": "self_attn.q_proj", "attention.output": "self_attn.o_proj", "mlp.down": "mlp.down_proj"}


class Hidden(NumpyOps):
    def head(self, x: Floats, weight: str, cap: float | None = None) -> Floats:
        return x


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "smollm3", "mistral", "olmo2"])
@pytest.mark.parametrize("keep", [True, False])
def test_there_and_back(toy: Toy, family: str, keep: bool) -> None:
    import torch
    import transformers

    from slmops.ops.torch import TorchOps

    folder = toy(family)
    model = load(folder)
    random = np.random.default_rng(0)
    ids = random.integers(5, model.spec.vocab, (2, 100))
    program = plugins.load("architectures", family)
    seen: dict[str, tuple[Floats, Floats]] = {}
    ops = TorchOps(model.tensors, lambda role, x, gradient: seen.update({role: (x.copy(), gradient.copy())}), keep)
    hidden = ops.forward(program.forward, model.spec, ids)
    truth = program.forward(Hidden(model.tensors), model.spec, Weights(model.tensors), ids)
    assert np.abs(hidden - truth).max() < 1e-4 * np.abs(truth).max()
    pull = random.standard_normal(hidden.shape).astype(np.float32)
    looked_up = ops.backward(pull)

    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    kept: dict[str, tuple[object, object]] = {}

    def hook(role: str) -> Callable[..., None]:
        def keep_both(module: object, inputs: tuple[object, ...], output: object) -> None:
            output.retain_grad()  # type: ignore[attr-defined]
            kept[role] = (inputs[0], output)

        return keep_both

    for role, name in PLACES.items():
        for number in range(model.spec.layers):
            theirs.get_submodule(f"model.layers.{number}.{name}").register_forward_hook(hook(f"layers.{number}.{role}"))
    theirs.model.embed_tokens.register_forward_hook(hook("embedding"))
    (theirs.model(torch.from_numpy(ids)).last_hidden_state * torch.from_numpy(pull)).sum().backward()

    def near(found: Floats, expected: object) -> bool:
        other = expected.detach().numpy().reshape(found.shape)  # type: ignore[attr-defined]
        return bool(np.abs(found - other).max() < 1e-3 * np.abs(other).max())

    for role, (x, gradient) in seen.items():
        if role in kept:
            assert near(x, kept[role][0]) and near(gradient, kept[role][1].grad), role  # type: ignore[attr-defined]
    assert set(kept) - set(seen) == {"embedding"}
    scale = model.spec.hidden**0.5 if family == "gemma3_text" else 1.0  # theirs scales within the lookup
    assert near(looked_up / np.float32(scale), kept["embedding"][1].grad)  # type: ignore[attr-defined]


@pytest.mark.parametrize("keep", [True, False])
def test_a_token_that_the_table_lacks_is_said(toy: Toy, keep: bool) -> None:
    """A tokenizer may have added tokens that the model never got."""
    import torch

    from slmops.ops.torch import TorchOps

    model = load(toy("llama"))
    for ops, ids in (
        (TorchOps(model.tensors, lambda *_: None, keep), torch.tensor([[3, model.spec.vocab]])),
        (NumpyOps(model.tensors), np.array([[3, model.spec.vocab]])),
    ):
        with pytest.raises(UsageError, match="and the model knows"):
            ops.embed("embedding", ids)  # type: ignore[attr-defined]
