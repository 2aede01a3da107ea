"""What a checkpoint's config.json says about how its weights were quantized, in one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BITS_OF_METHOD = {
    "bitnet": 1.58, "fp8": 8, "fbgemm_fp8": 8, "finegrained_fp8": 8, "mxfp4": 4, "nvfp4": 4, "eetq": 8, "higgs": 4,
    "aqlm": 2, "vptq": 2, "spqr": 3,
}  # fmt: skip
"""Usual bits of methods whose config does not say them."""

DETAILS = ("desc_act", "sym", "zero_point", "version", "format", "quant_type", "bnb_4bit_quant_type", "mode")


@dataclass(frozen=True)
class Quantization:
    """How the weights are stored."""

    method: str
    bits: float | None = None
    group: int | None = None
    details: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """The precision class."""
        return precision(self.bits)


def precision(bits: float | None) -> str:
    """1-bit, ternary (1.58-bit), 2-bit ... 8-bit, 16-bit, 32-bit; `unknown` where nothing says."""
    if bits is None:
        return "unknown"
    if 1 < bits < 2:
        return "ternary (1.58-bit)"
    return f"{round(bits)}-bit"


def describe(config: Mapping[str, Any]) -> Quantization | None:
    """From transformers' quantization_config or MLX's quantization; None for a checkpoint in plain numbers."""
    found = config.get("quantization_config") or config.get("quantization")
    if not found:
        return None
    if not isinstance(found, Mapping):
        return Quantization("unknown")
    mlx = "quantization_config" not in config or ("group_size" in found and "quant_method" not in found)
    method = str(found.get("quant_method") or ("mlx" if mlx else "unknown"))[:40].lower()
    bits, group = _number(found, "bits", "w_bit", "nbits", "num_bits"), _number(found, "group_size", "q_group_size")
    details = [f"{key}={found[key]}"[:60] for key in DETAILS if isinstance(found.get(key), str | bool | int)]
    if method == "compressed-tensors":
        bits, group, more = _compressed(found)
        details += more
    elif method == "bitsandbytes":
        bits = 4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else bits
    elif method == "hqq":
        outer = found.get("quant_config")
        inner = outer.get("weight_quant_params") if isinstance(outer, Mapping) else None
        bits, group = _number(inner, "nbits") or bits, _number(inner, "group_size") or group
    elif isinstance(found.get("weights"), str):  # quanto: int4, float8
        digits = "".join(sign for sign in found["weights"] if sign.isdigit())
        bits = float(digits) if digits else bits
    if bits is None:
        bits = BITS_OF_METHOD.get(method)
    return Quantization(method, bits, None if group is None else int(group), tuple(details))


def _compressed(found: Mapping[str, Any]) -> tuple[float | None, float | None, list[str]]:
    """compressed-tensors keeps the scheme of each group of modules; the first tells."""
    groups = found.get("config_groups")
    for entry in groups.values() if isinstance(groups, Mapping) else ():
        inner = entry.get("weights") if isinstance(entry, Mapping) else None
        if isinstance(inner, Mapping):
            kind = [f"{inner.get('type')}, {'symmetric' if inner.get('symmetric') else 'asymmetric'}"]
            return _number(inner, "num_bits"), _number(inner, "group_size"), kind
    return None, None, []


def _number(found: Any, *keys: str) -> float | None:
    for key in keys:
        value = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1 << 20:
            return value
    return None
