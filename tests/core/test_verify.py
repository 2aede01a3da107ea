"""The rules that every Model must satisfy: each is broken in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slmops.core import scheme
from slmops.core.errors import CorruptInput
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.core.tensor import Constant, Tensor
from slmops.core.verify import RULES, verify
from slmops.formats import huggingface


@pytest.fixture
def model(toy: Callable[..., Path]) -> Model:
    return huggingface.read(toy("qwen3"))


def swapped(model: Model, role: str, tensor: Tensor | None) -> Model:
    tensors = {**model.tensors, role: tensor}
    return dataclasses.replace(model, tensors={key: value for key, value in tensors.items() if value is not None})


def zeros(*shape: int, dtype: str = "f4") -> Constant:
    return Constant(np.zeros(shape, dtype))


def test_good_one_passes(model: Model) -> None:
    verify(model)


def test_each_rule_finds_its_fault(model: Model) -> None:
    odd = Packed((48, 48), scheme.load("q4"), lambda start, stop: pytest.fail("a weight was read"))
    broken = {
        "all_present": (swapped(model, "layers.1.mlp.up", None), "layers.1.mlp.up is missing"),
        "none_unexpected": (swapped(model, "layers.7.mlp.up", zeros(256, 128)), "layers.7.mlp.up is not part"),
        "shapes_right": (swapped(model, "norm", zeros(64)), "norm is"),
        "dtypes_known": (swapped(model, "norm", zeros(128, dtype="f8")), "float64"),
        "groups_whole": (swapped(model, "layers.0.mlp.up", odd), "groups of 32"),
        "ids_in_vocabulary": (
            dataclasses.replace(model, tokenizer=dataclasses.replace(model.tokenizer, eos=(320,))),
            "eos id 320",
        ),
    }
    assert set(broken) == {rule.__name__ for rule in RULES}
    for name, (one, words) in broken.items():
        with pytest.raises(CorruptInput) as caught:
            verify(one)
        assert words in str(caught.value), name


def test_many_faults_are_counted(model: Model) -> None:
    with pytest.raises(CorruptInput, match=r"and \d+ more"):
        verify(dataclasses.replace(model, tensors={}))
