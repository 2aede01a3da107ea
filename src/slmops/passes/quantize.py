"""Give every matrix of a model the scheme that it shall be stored in."""

from __future__ import annotations

import dataclasses

from slmops.core import plugins, roles
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Chooser, Codes, Packed, Scheme
from slmops.core.tensor import Array, Lazy, Tensor
from slmops.quantize import _affine
from slmops.quantize._cast import cast


def chooser(name: str) -> Chooser:
    """What `--quantize NAME` means: one scheme for every matrix (SCHEME in its file, or a name that says what it is, such as
    int4-g64-bias-bf16), or a mix of several (CHOOSE in its file). Raises UsageError for a name that means nothing."""
    known = _affine.parse(name)
    if known is not None:
        return lambda role, spec, shape: known
    module = plugins.load("quantize", name)
    if hasattr(module, "CHOOSE"):
        choose: Chooser = module.CHOOSE
        return choose
    scheme: Scheme = module.SCHEME
    if not scheme.makes:
        raise Unsupported(
            f"{name} can be read and passed on, but not made", "q4_k_m, iq4_xs or q2_k are small and can be made"
        )
    return lambda role, spec, shape: scheme


def quantize(model: Model, choose: Chooser, again: bool = False) -> Model:
    """Matrices in the scheme chosen for each; vectors, and matrices that its group does not divide, as they were.

    The role decides (core/roles.py). Nothing is computed here: each block is quantized when it is pulled. Raises
    Unsupported for codes of another scheme, unless they may be quantized `again`, from the numbers that they stand for.
    """
    tensors = dict(model.tensors)
    for role, tensor in model.tensors.items():
        if roles.facts(role).quantize:
            tensors[role] = _stored(role, tensor, choose(role, model.spec, tensor.shape), again)
    return dataclasses.replace(model, tensors=tensors)


def packed(model: Model) -> bool:
    """Whether any matrix holds codes already."""
    return any(isinstance(tensor, Packed) for tensor in model.tensors.values())


def left_dense(model: Model, choose: Chooser) -> list[str]:
    """Roles of the matrices that their scheme's group does not divide, and that therefore keep their dtype."""
    matrices = {role: tensor.shape for role, tensor in model.tensors.items() if roles.facts(role).quantize}
    return [role for role, shape in matrices.items() if shape[-1] % choose(role, model.spec, shape).group]


def _stored(role: str, tensor: Tensor, scheme: Scheme, again: bool) -> Tensor:
    if isinstance(tensor, Packed):
        if tensor.scheme.name == scheme.name:
            return tensor
        if not again:
            raise Unsupported(
                f"{role} is quantized already, as {tensor.scheme.name}; {scheme.name} would quantize it a second time",
                "leave --quantize out to keep its codes, or add --requantize to quantize the numbers that they stand for",
            )
    if tensor.shape[-1] % scheme.group:
        return tensor
    dense = scheme.dense
    if dense is not None:
        if tensor.dtype == dense and not isinstance(tensor, Packed):  # the dtype of codes is what they stand for
            return tensor

        def rows(start: int, stop: int) -> Array:
            return cast(tensor.rows(start, stop), dense)

        return Lazy(tensor.shape, dense, rows)

    def block(start: int, stop: int) -> Codes:
        try:
            return scheme.quantize(tensor.rows(start, stop))
        except CorruptInput as error:
            raise CorruptInput(f"{role}, rows {start} to {stop}: {error}", error.cure) from error

    return Packed(tensor.shape, scheme, block)
