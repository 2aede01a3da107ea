"""Codes of one block-affine scheme as codes of another that stand for the very same numbers.

Three things may differ: codes grow wider or move by a whole number, groups are cut into smaller ones, and a zero point
becomes a bias or the other way round. Whether that is exact follows from the schemes alone (always, never), or from the
scales and zero points of the tensor at hand. Nothing here rounds: what is not exact raises.
Rules: docs of each pair in tests/quantize/test_recode.py, which holds them against rational arithmetic.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.tensor import DTYPES, Array, Bytes, Floats, row_blocks
from slmops.quantize._affine import SIGNIFICANDS, Affine, packed, unpacked


class Inexact(Exception):
    """These numbers have no exact form in the target."""


def always(source: Scheme, target: Scheme) -> bool | None:
    """Whether every tensor of `source` has an exact form in `target`: True, False, or None: it depends on its numbers."""
    if source.name == target.name:
        return True
    if not isinstance(source, Affine) or not isinstance(target, Affine):
        return False
    if target.bits < source.bits or source.group % target.group:
        return False
    answers = [True if _numbers_fit(source, target) else None, _zero(source, target)]
    return False if False in answers else None if None in answers else True


def _numbers_fit(source: Affine, target: Affine) -> bool:
    """Whether every scale (and bias) of `source` may be one of `target`."""
    return source.significand <= target.significand and source.fits(target.scale)


def _zero(source: Affine, target: Affine) -> bool | None:
    most, top = (1 << source.bits) - 1, (1 << target.bits) - 1
    if target.biased:
        if source.biased:
            return True
        room = SIGNIFICANDS[next(name for name, dtype in DTYPES.items() if dtype == target.scale)] - source.significand
        if source.zero is not None:
            return True if (source.zero & (source.zero - 1)) == 0 else None
        return True if room >= source.bits else None
    if source.biased:
        return None
    if target.zero is None:
        return source.zero is None or source.zero <= top
    if source.zero is not None:
        shift = target.zero - source.zero
        return shift >= 0 and most + shift <= top
    return True if target.zero - most >= 0 and target.zero + most <= top else None


def recode(codes: Codes, source: Scheme, target: Scheme) -> Codes:
    """The same numbers as codes of `target`. Raises Inexact."""
    if source.name == target.name:
        return codes
    assert isinstance(source, Affine) and isinstance(target, Affine)
    scales, zeros, biases, shift = _parameters(codes, source, target)
    words = codes.codes
    if target.bits != source.bits or shift is not None:
        values = unpacked(words, source.bits, codes.scales.shape[1] * source.group)
        if shift is not None:
            values += np.repeat(shift, target.group, axis=1)
        words = packed(values, target.bits)
    return Codes(words, scales, zeros, biases)


def _parameters(codes: Codes, source: Affine, target: Affine) -> tuple[Floats, Bytes | None, Floats | None, Bytes | None]:
    """Scales, zeros, biases of the target, and what to add to each group's codes (uint8 [rows, groups]; None: nothing)."""
    parts = source.group // target.group

    def split(values: Array | None) -> Array | None:
        return values if values is None or parts == 1 else np.repeat(values, parts, axis=1)

    scales, zeros, biases = split(codes.scales), split(codes.zeros), split(codes.biases)
    assert scales is not None
    if not _numbers_fit(source, target):
        _exactly(scales, target)
    if target.biased:
        if biases is None:
            biases = _products(scales, zeros, source.zero or 0)
            _exactly(biases, target)
        elif not _numbers_fit(source, target):
            _exactly(biases, target)
        return scales, None, biases, None
    if biases is not None:
        zeros = _zero_points(scales, biases, (1 << source.bits) - 1)
    if target.zero is None:
        if zeros is None:
            zeros = np.full(scales.shape, source.zero, np.uint8)
        return scales, zeros, None, None
    if source.zero == target.zero if zeros is None else (zeros == target.zero).all():
        return scales, None, None, None
    shift = target.zero - (zeros.astype(np.int16) if zeros is not None else np.full(scales.shape, source.zero, np.int16))
    if shift.min() < 0 or shift.max() + (1 << source.bits) > 1 << target.bits:
        raise Inexact
    return scales, None, None, shift.astype(np.uint8)


def _exactly(values: Floats, target: Affine) -> None:
    """Raise Inexact where a value is none of `target`'s scales: its dtype does not hold it, or it has too many bits."""
    from slmops.quantize import _float_kernels

    flat = np.ascontiguousarray(values).reshape(-1)
    if not _float_kernels.exact(flat, target.significand, target.scale == DTYPES["f16"]):
        raise Inexact


def _products(scales: Floats, zeros: Bytes | None, zero: int) -> Floats:
    """-scale * z, or Inexact."""
    from slmops.quantize import _float_kernels

    biases = np.empty(scales.shape, np.float32)
    points = np.empty(0, np.uint8) if zeros is None else np.ascontiguousarray(zeros).reshape(-1)
    if not _float_kernels.products(np.ascontiguousarray(scales).reshape(-1), points, float(zero), biases.reshape(-1)):
        raise Inexact
    return biases


def _zero_points(scales: Floats, biases: Floats, most: int) -> Bytes:
    """The integer z with bias = -scale * z in every group, or Inexact. A scale of 0 with a bias of 0 takes any."""
    from slmops.quantize import _float_kernels

    zeros = np.empty(scales.shape, np.uint8)
    flat = (np.ascontiguousarray(part).reshape(-1) for part in (scales, biases))
    if not _float_kernels.zero_points(*flat, most, zeros.reshape(-1)):
        raise Inexact
    return zeros


def fit(tensor: Packed, targets: Iterable[Scheme], multiple: int = 1) -> Scheme | None:
    """The first of `targets` that holds the tensor exactly; reads its scales and zero points only where it depends on them.
    Codes that are yet to be computed are not: they go by what follows from the schemes alone.

    multiple: blocks of rows that are read start at multiples of it (Spec.row_multiple).
    """
    for target in targets:
        answer = always(tensor.scheme, target)
        if answer or (answer is None and tensor.parameters is not None and _scan(tensor, target, multiple)):
            return target
    return None


def _scan(tensor: Packed, target: Scheme, multiple: int) -> bool:
    source = tensor.scheme
    assert isinstance(source, Affine) and isinstance(target, Affine)
    assert tensor.parameters is not None
    parameters = tensor.parameters

    def fits(rows: tuple[int, int]) -> bool:
        try:
            _parameters(parameters(*rows), source, target)
        except Inexact:
            return False
        return True

    return all(threads().map(fits, row_blocks(tensor.shape, multiple)))


@functools.cache
def threads() -> ThreadPoolExecutor:
    """For scans: the kernels release the GIL."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "scan")
