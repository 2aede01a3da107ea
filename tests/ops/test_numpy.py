"""The reference interpreter against transformers' own implementation of every family."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slmops.core import plugins
from slmops.core.model import Model, Tokenizer
from slmops.core.tensor import Constant
from slmops.ops.numpy import Reference

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", plugins.names("architectures"))
@pytest.mark.parametrize("chunks", [None, (80, 120), (1,) * 40 + (160,)])
def test_logits_are_those_of_transformers(family: str, chunks: tuple[int, ...] | None) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the judge here: pip install 'slmops[train]'")
    transformers = pytest.importorskip("transformers")
    module = plugins.load("architectures", family)
    config = transformers.AutoConfig.for_model(**module.TOY)
    torch.manual_seed(0)
    judge = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for name, parameter in judge.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.1)
    spec = module.spec(module.TOY)
    weights = {name: value.detach().numpy() for name, value in judge.state_dict().items()}
    tensors = {role: Constant(weights[name]) for role, name in module.names(spec).items()}
    assert {role: tensor.shape for role, tensor in tensors.items()} == module.shapes(spec)
    model = Model("toy", spec, tensors, Tokenizer(b""), None, module.TOY)
    assert model.parameters == judge.num_parameters()
    ids = np.random.default_rng(0).integers(0, spec.vocab, 200)
    with torch.no_grad():
        expected = judge(torch.tensor(ids[None])).logits.numpy()[0]
    actual = Reference(model).logits(ids.tolist(), chunks)
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-4


LONG = {"type": "longrope", "short_factor": [1.0 + 0.05 * i for i in range(8)],
        "long_factor": [1.0 + 0.9 * i for i in range(8)]}  # fmt: skip


@pytest.mark.parametrize("length", [40, 64, 65, 200])
def test_longrope_changes_its_factors_past_the_original_context(length: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the judge here: pip install 'slmops[train]'")
    transformers = pytest.importorskip("transformers")
    module = plugins.load("architectures", "phi3")
    said = {**module.TOY, "rope_scaling": LONG, "original_max_position_embeddings": 64, "sliding_window": None}
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(said)))
    torch.manual_seed(0)
    judge = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for name, parameter in judge.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.1)
    spec = module.spec(said)
    assert spec.rope.scaling == "longrope" and spec.rope.magnitude > 1
    weights = {name: value.detach().numpy() for name, value in judge.state_dict().items()}
    tensors = {role: Constant(weights[name]) for role, name in module.names(spec).items()}
    ids = np.random.default_rng(0).integers(0, spec.vocab, length)
    with torch.no_grad():
        expected = judge(torch.tensor(ids[None])).logits.numpy()[0]
    actual = Reference(Model("toy", spec, tensors, Tokenizer(b""), None, said)).logits(ids.tolist())
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-4
