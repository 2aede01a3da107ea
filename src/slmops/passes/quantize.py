"""Give every matrix of a model the scheme that it shall be stored in."""

from __future__ import annotations

import dataclasses

from slmops.core import roles
from slmops.core.errors import CorruptInput
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.tensor import Array, Lazy, Tensor
from slmops.quantize._cast import cast


def quantize(model: Model, scheme: Scheme) -> Model:
    """Matrices in `scheme`; vectors, and matrices whose columns the scheme's group does not divide, as they were.

    The role decides (core/roles.py). Nothing is computed here: each block is quantized when it is pulled.
    """
    return dataclasses.replace(
        model, tensors={role: _stored(role, tensor, scheme) for role, tensor in model.tensors.items()}
    )


def left_dense(model: Model, scheme: Scheme) -> list[str]:
    """Roles of the matrices that the scheme's group does not divide, and that therefore keep their dtype."""
    return [role for role, tensor in model.tensors.items() if roles.facts(role).quantize and tensor.shape[-1] % scheme.group]


def _stored(role: str, tensor: Tensor, scheme: Scheme) -> Tensor:
    if not roles.facts(role).quantize or tensor.shape[-1] % scheme.group:
        return tensor
    dense = scheme.dense
    if dense is not None:
        if tensor.dtype == dense:
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
