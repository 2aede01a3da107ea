"""Which codes of a format hold the codes of a model exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from slmops.core.errors import Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Packed, Scheme
from slmops.quantize._recode import fit, recode

Forms = Callable[[Scheme], Iterable[Scheme]]
"""A format's schemes that may take codes of the one given, the best first."""


def fitted(model: Model, title: str, forms: Forms, skip: Iterable[str] = ()) -> Model:
    """The model as the format holds it: every packed tensor, but those of the roles in `skip`, in a scheme of `forms`.

    Raises Unsupported for codes that none of them holds exactly. Reads scales and zero points where it depends on them.
    """
    tensors, skipped = dict(model.tensors), frozenset(skip)
    for role, tensor in model.tensors.items():
        if not isinstance(tensor, Packed) or role in skipped:
            continue
        candidates = list(forms(tensor.scheme))
        found = fit(tensor, candidates, model.spec.row_multiple)
        if found is None:
            tried = f" ({', '.join(one.name for one in candidates)})" if candidates else ""
            raise Unsupported(
                f"{title} cannot hold {role} exactly: no codes of it{tried} are those of {tensor.scheme.name}",
                "--quantize f32 --requantize keeps the numbers exactly, --quantize q4 --requantize quantizes them again",
            )
        tensors[role] = _as(tensor, found)
    return dataclasses.replace(model, tensors=tensors)


def _as(tensor: Packed, target: Scheme) -> Packed:
    source = tensor.scheme
    return Packed(tensor.shape, target, lambda start, stop: recode(tensor.block(start, stop), source, target))


def changed(model: Model, view: Model) -> Mapping[str, Scheme]:
    """Layout.forms: role -> the scheme in `view` where it is another than the model's."""
    found: dict[str, Scheme] = {}
    for role, tensor in model.tensors.items():
        held = view.tensors[role]
        if isinstance(tensor, Packed) and isinstance(held, Packed) and held.scheme.name != tensor.scheme.name:
            found[role] = held.scheme
    return found
