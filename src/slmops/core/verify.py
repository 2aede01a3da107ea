"""What every Model must satisfy, whoever made it: a table of rules, run after reading and between passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from slmops.core import plugins
from slmops.core.errors import CorruptInput
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.core.tensor import DTYPES

Shapes = Mapping[str, tuple[int, ...]]
Rule = Callable[[Model, Shapes], Iterator[str]]


def all_present(model: Model, shapes: Shapes) -> Iterator[str]:
    for role in shapes:
        if role not in model.tensors:
            yield f"{role} is missing"


def none_unexpected(model: Model, shapes: Shapes) -> Iterator[str]:
    for role in model.tensors:
        if role not in shapes:
            yield f"{role} is not part of a {model.spec.family} of this size"


def shapes_right(model: Model, shapes: Shapes) -> Iterator[str]:
    for role, tensor in model.tensors.items():
        if role in shapes and tensor.shape != shapes[role]:
            yield f"{role} is {list(tensor.shape)}, where config.json makes it {list(shapes[role])}"


def dtypes_known(model: Model, shapes: Shapes) -> Iterator[str]:
    for role, tensor in model.tensors.items():
        if tensor.dtype not in DTYPES.values():
            yield f"{role} is stored as {tensor.dtype.name}; known are {', '.join(DTYPES)}"


def groups_whole(model: Model, shapes: Shapes) -> Iterator[str]:
    for role, tensor in model.tensors.items():
        if isinstance(tensor, Packed) and (len(tensor.shape) != 2 or tensor.shape[1] % tensor.scheme.group):
            yield f"{role} {list(tensor.shape)} cannot be cut into groups of {tensor.scheme.group}"


def ids_in_vocabulary(model: Model, shapes: Shapes) -> Iterator[str]:
    tokenizer = model.tokenizer
    for name, number in (("bos", tokenizer.bos), ("pad", tokenizer.pad), *(("eos", eos) for eos in tokenizer.eos)):
        if number is not None and not 0 <= number < model.spec.vocab:
            yield f"the {name} id {number} lies outside the vocabulary of {model.spec.vocab}"


RULES: tuple[Rule, ...] = (
    all_present, none_unexpected, shapes_right, dtypes_known, groups_whole, ids_in_vocabulary,
)  # fmt: skip


def verify(model: Model) -> None:
    """Raise CorruptInput naming the first faults, if there are any. Reads no weight."""
    shapes = plugins.load("architectures", model.spec.family).shapes(model.spec)
    faults = [fault for rule in RULES for fault in rule(model, shapes)]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        cure = "config.json and the weights must belong together: download both again"
        raise CorruptInput(f"{model.name}: {'; '.join(faults[:3])}{more}", cure)
