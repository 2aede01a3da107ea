"""Codes that a format must write as plain numbers, and finds again: their scales stand in a file beside the weights.

The file is safetensors by content: `scales` [rows, groups] in the scheme's own dtype, `zeros` U8 or `biases` where groups
have their own, the scheme's name in the metadata. Its name ends otherwise, because vLLM loads every *.safetensors of a
folder. Without it, or after it was deleted, the numbers are plain and nothing else changes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from slmops.core import plugins, scheme
from slmops.core.errors import CorruptInput
from slmops.core.layout import Block, Layout, Region
from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.tensor import Array, Bytes, Tensor
from slmops.formats import _encode, _files, _safetensors
from slmops.formats._safetensors import Place
from slmops.quantize._affine import Affine, packed, parse
from slmops.quantize._cast import check_finite

NAME = "embedding.scales"
_CURE = "delete it to read the embedding as plain numbers, or convert the source again"


def keeps(held: Scheme) -> bool:
    """Whether the scales of a scheme tell all: block-affine ones that are found by their name."""
    return isinstance(held, Affine) and _named(held.name) == held


def beside(layout: Layout, role: str, tensor: Packed) -> Layout:
    """The layout with the scales of a tensor that it holds as plain numbers; as it is, where the scheme has no name here."""
    held = tensor.scheme
    if not keeps(held):
        return layout
    assert isinstance(held, Affine)
    shape = (tensor.shape[0], tensor.shape[1] // held.group)
    places = [Place("scales", held.scale, shape, role, _encode.scales(held.scale))]
    if held.biased:
        places.append(Place("biases", held.scale, shape, role, _encode.biases(held.scale)))
    elif held.zero is None:
        places.append(Place("zeros", np.dtype(np.uint8), shape, role, _zeros))
    head, offsets = _safetensors.build(places, {"scheme": held.name})
    regions = [
        Region(NAME, offsets[place.name], shape[1] * place.dtype.itemsize, place.encode) for place in places if place.encode
    ]
    return dataclasses.replace(
        layout,
        sizes={**layout.sizes, NAME: len(head) + sum(place.nbytes for place in places)},
        literals=(*layout.literals, (NAME, 0, head)),
        regions={**layout.regions, role: (*layout.regions[role], *regions)},
    )


def _zeros(block: Block) -> Array:
    assert isinstance(block, Codes) and block.zeros is not None
    return block.zeros


def _named(name: str) -> Affine | None:
    """The block-affine scheme of this name, if there is one."""
    found = parse(name)
    if found is None and name in plugins.names("quantize"):
        listed = scheme.load(name)
        found = listed if isinstance(listed, Affine) else None
    return found


def found(folder: Path, numbers: Tensor) -> Tensor:
    """The codes that these numbers came from, where the folder has their scales; else the numbers."""
    if not _files.there(folder, NAME):
        return numbers
    stored, metadata = _safetensors.header(_files.inside(folder, NAME))
    held = _named(metadata.get("scheme", ""))
    if held is None:
        raise CorruptInput(f"{NAME} names no scheme that can be read", _CURE)
    (rows, columns), dtype = numbers.shape, held.scale
    wanted = {"scales": dtype}
    if held.biased:
        wanted["biases"] = dtype
    elif held.zero is None:
        wanted["zeros"] = np.dtype(np.uint8)
    shape = (rows, columns // held.group)
    if columns % held.group or {name: (one.dtype, one.shape) for name, one in stored.items()} != {
        name: (kind, shape) for name, kind in wanted.items()
    }:
        raise CorruptInput(f"{NAME} does not hold the parameters of {rows} x {columns} numbers in {held.name}", _CURE)

    def parameters(start: int, stop: int) -> Codes:
        parts = {name: one.rows(start, stop) for name, one in stored.items()}
        scales = parts["scales"].astype(np.float32)
        biases = parts["biases"].astype(np.float32) if held.biased else None
        for part in (scales, biases):
            if part is not None:
                check_finite(part, NAME, start)
        return Codes(np.empty((stop - start, 0), np.uint8), scales, parts.get("zeros"), biases)

    def block(start: int, stop: int) -> Codes:
        known = parameters(start, stop)
        values = np.asarray(numbers.rows(start, stop)).astype(np.float32)
        result = dataclasses.replace(known, codes=packed(_codes(values, known, held), held.bits))
        if not np.array_equal(held.dequantize(result), values):
            raise CorruptInput(
                f"{NAME} is not of these weights: rows {start} to {stop} are no {held.name} of its scales", _CURE
            )
        return result

    return Packed(numbers.shape, held, block, parameters)


def _codes(values: Array, known: Codes, held: Affine) -> Bytes:
    """The nearest code of each number, one a byte [rows, columns]."""
    groups = values.reshape(*known.scales.shape, held.group)
    scales = known.scales[:, :, None]
    low: Array | float
    if known.biases is not None:
        shifted, low = groups - known.biases[:, :, None], 0.0
    else:
        shifted, low = (
            groups,
            known.zeros[:, :, None].astype(np.float32) if known.zeros is not None else float(held.zero or 0),
        )
    with np.errstate(all="ignore"):  # a quotient that is no number stands for no code, and is found when it is multiplied
        found = np.rint(np.divide(shifted, scales, out=np.zeros_like(shifted), where=scales != 0)) + low
        clipped = np.nan_to_num(np.clip(found, 0, (1 << held.bits) - 1))
    codes: Bytes = clipped.astype(np.uint8).reshape(values.shape)
    return codes
