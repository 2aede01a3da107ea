"""What a model's own parameters may be, and `options` of Ollama's requests: one table, by Ollama's names.

github.com/ollama/ollama, api/types.go (DefaultOptions) of 2026-08.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmops.core.errors import UsageError

MOST_TOKENS = 1 << 17
"""Of an answer: what stands for "as many as the context has room for"."""
MOST_STOPS, MOST_STOP = 16, 256
"""Stop strings, and letters of one."""


@dataclass(frozen=True)
class Parameter:
    """One, and what it may be."""

    kind: type
    least: float = 0
    most: float = 1
    field: str = ""
    """Of engines.Sampling, which it sets. Those without change no answer, or can be one thing alone here."""


_PLACED = Parameter(int, -(1 << 31), (1 << 31) - 1)

TABLE: Mapping[str, Parameter] = {
    "num_predict": Parameter(int, -2, MOST_TOKENS, "max_tokens"),
    "temperature": Parameter(float, 0, 100, "temperature"),
    "top_k": Parameter(int, 0, 1 << 20, "top_k"),
    "top_p": Parameter(float, 0, 1, "top_p"),
    "min_p": Parameter(float, 0, 1, "min_p"),
    "seed": Parameter(int, -(1 << 63), (1 << 63) - 1, "seed"),
    "repeat_penalty": Parameter(float, 1e-3, 10, "repeat_penalty"),
    "frequency_penalty": Parameter(float, -2, 2, "frequency_penalty"),
    "presence_penalty": Parameter(float, -2, 2, "presence_penalty"),
    # What is another way of sampling, where it asks for something, is not done.
    "repeat_last_n": Parameter(int, 64, 64),
    "typical_p": Parameter(float, 1, 1),
    "tfs_z": Parameter(float, 1, 1),
    "mirostat": Parameter(int, 0, 0),
    "mirostat_tau": Parameter(float, -1e308, 1e308),
    "mirostat_eta": Parameter(float, -1e308, 1e308),
    "penalize_newline": Parameter(bool),
    # Where and how fast the model computes is the server's business; Ollama has dropped some of these itself.
    "num_ctx": Parameter(int, 1, 1 << 30),
    "num_keep": _PLACED,
    "num_batch": _PLACED,
    "num_gpu": _PLACED,
    "main_gpu": _PLACED,
    "num_thread": _PLACED,
    "draft_num_predict": _PLACED,
    "numa": Parameter(bool),
    "low_vram": Parameter(bool),
    "f16_kv": Parameter(bool),
    "logits_all": Parameter(bool),
    "vocab_only": Parameter(bool),
    "use_mmap": Parameter(bool),
    "use_mlock": Parameter(bool),
    "embedding_only": Parameter(bool),
}
"""`stop` stands beside it: a text or a list of texts."""


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that say something, whole numbers as such. Raises UsageError for what is not known, or not done."""
    found = {}
    for name, value in given.items():
        if name != "stop" and name not in TABLE:
            raise UsageError(f"{name[:100]} is not known, or cannot be done here", f"one of: stop, {', '.join(TABLE)}")
        if value is not None:
            found[name] = _stops(value) if name == "stop" else _number(name, TABLE[name], value)
    return found


def _number(name: str, one: Parameter, value: Any) -> Any:
    if one.kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name} is true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not one.least <= value <= one.most:
        raise UsageError(f"{name} is a number from {one.least:g} to {one.most:g} here")
    if one.kind is int and value != int(value):
        raise UsageError(f"{name} is a whole number")
    if name == "num_predict" and value == 0:
        raise UsageError("num_predict is at least 1, or -1 for as many as the context has room for")
    return one.kind(value)


def _stops(value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > MOST_STOPS:
        raise UsageError(f"stop is a text, or a list of at most {MOST_STOPS}")
    if not all(isinstance(one, str) and 0 < len(one) <= MOST_STOP for one in found):
        raise UsageError(f"a stop string has 1 to {MOST_STOP} letters")
    return found


def sampling(checked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of engines.Sampling that they set; a seed of -1 is another one each time, and sets none."""
    found = {one.field: checked[name] for name, one in TABLE.items() if one.field and name in checked}
    if found.get("max_tokens", 1) < 0:
        found["max_tokens"] = MOST_TOKENS
    if (seed := found.pop("seed", -1)) != -1:
        found["seed"] = seed & 0x7FFF_FFFF
    if found.get("top_p") == 0:
        found["top_p"] = 1e-6  # the likeliest alone, as llama.cpp has it
    return found


def stops(checked: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The stop strings; None where nothing is said of them, which is not the same as none."""
    return tuple(checked["stop"]) if "stop" in checked else None


def schema() -> dict[str, Any]:
    """As JSON Schema."""
    names = {int: "integer", float: "number", bool: "boolean"}
    text = {"type": "string", "minLength": 1, "maxLength": MOST_STOP}
    properties: dict[str, Any] = {"stop": {"anyOf": [text, {"type": "array", "items": text, "maxItems": MOST_STOPS}]}}
    for name, one in TABLE.items():
        bounds = {} if one.kind is bool else {"minimum": one.least, "maximum": one.most}
        properties[name] = {"type": names[one.kind], **bounds}
    nothing = {"type": "null"}
    found = {name: {"anyOf": [one, nothing]} for name, one in properties.items()}
    return {"type": "object", "properties": found, "additionalProperties": False}
