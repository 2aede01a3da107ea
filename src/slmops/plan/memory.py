"""How much memory a model will take at run time, by format, scheme, engine and context length. Opens no weight.

    total    = weights + KV cache + overhead
    weights  = the bytes of the format's own layout: exact, because plan() gives every byte's place
    KV cache = 2 (key and value) x layers x key-value heads x head size x context x bytes of a number
    overhead = the engine's process before a model is opened
             + the activations of a chunk of the prompt in f32: chunk x (2 intermediate + 4 hidden) x 4 bytes
             + the logits that it holds: rows x vocabulary x 4 bytes
             + the tokenizer: TOKEN bytes for each of the vocabulary
             + where the engine repacks or unpacks the weights, what that adds to the file's bytes

What differs between engines stands in their files (FOOTPRINT). A sliding window is not counted: engines may keep the whole
context. These are predictions of what ru_maxrss of the engine's process will be; `low` and `high` are the total times the
least and the greatest ratio of measured to predicted that bench/planner.py has found for the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slmops.core import plugins
from slmops.core.errors import Unsupported
from slmops.core.model import Model
from slmops.core.spec import Spec
from slmops.engines import Footprint, _host
from slmops.passes.quantize import chooser, quantize

TOKEN = 512
"""Bytes of a token in an engine's tokenizer: its text, its place in two maps, its merge."""
UNKNOWN = Footprint(base=300 << 20)
"""Of a format that no engine of ours opens."""


@dataclass(frozen=True)
class Memory:
    """Predicted bytes at run time."""

    format: str
    scheme: str
    engine: str
    context: int
    weights: int
    kv_cache: int
    overhead: int
    spread: tuple[float, float]
    """Least and greatest ratio of what was measured in this engine to what was predicted."""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead

    @property
    def low(self) -> int:
        return round(self.total * self.spread[0])

    @property
    def high(self) -> int:
        return round(self.total * self.spread[1])


def footprint(form: str) -> tuple[str, Footprint]:
    """The engine that is preferred for a format among those installed, or of all, and what it takes."""
    names = _host.engines_for(form)
    for name in [name for name in names if _host.installed(name)] or names:
        return name, plugins.load("engines", name).FOOTPRINT
    return "", UNKNOWN


def engines(form: str, here: bool) -> list[str]:
    """The engines to choose among for a format: all that are installed; the usual one where none is, or for elsewhere."""
    found = [name for name in _host.engines_for(form) if here and _host.installed(name)]
    return found or [footprint(form)[0]]


def kv_cache(spec: Spec, context: int, number: float = 2.0) -> int:
    """Bytes of the keys and values of one sequence of `context` positions, `number` bytes each (2: f16)."""
    return round(2 * spec.layers * spec.kv_heads * spec.head_dim * context * number)


def overhead(spec: Spec, engine: Footprint, weights: int, prompt: int, parameters: int) -> int:
    """Bytes beside weights and KV cache when a prompt of so many tokens is computed."""
    chunk = min(prompt, engine.chunk or prompt)
    rows = min(chunk, engine.rows or chunk)
    activations = chunk * (2 * spec.intermediate + 4 * spec.hidden) * 4
    held = 2 * parameters if engine.dense else round(engine.copies * weights)
    return engine.base + activations + rows * spec.vocab * 4 + TOKEN * spec.vocab + max(0, held - weights)


def weights(model: Model, format_name: str, scheme_name: str) -> int:
    """Bytes of the model's weights in this format, from its layout. Raises Unsupported for a pair that cannot be."""
    module = plugins.load("formats", format_name)
    sizes: dict[str, int] = module.plan(quantize(model, chooser(scheme_name))).sizes
    return sum(sizes.values())


def contexts(spec: Spec, asked: int | None = None) -> tuple[int, ...]:
    """The context lengths worth showing: 2k, 8k and the model's own, or the one that was asked for."""
    if asked is not None:
        return (asked,)
    return tuple(sorted({min(length, spec.context) for length in (2048, 8192, spec.context)}))


def writers() -> tuple[str, ...]:
    """Names of the formats that can be written and hold codes."""
    return tuple(name for name in plugins.names("formats") if hasattr(plugins.load("formats", name), "forms"))


def of(
    spec: Spec, form: str, scheme: str, context: int, size: int, parameters: int, engine_name: str | None = None
) -> Memory:
    """The prediction for weights of `size` bytes in an engine (the format's usual one), the context filled by one prompt."""
    name, engine = (engine_name, plugins.load("engines", engine_name).FOOTPRINT) if engine_name else footprint(form)
    more = overhead(spec, engine, size, context, parameters)
    return Memory(form, scheme, name, context, size, kv_cache(spec, context, engine.kv), more, engine.spread)


def predict(model: Model, schemes: Sequence[str], lengths: Sequence[int]) -> Iterator[Memory]:
    """For every format that can be written, every scheme and context length; impossible pairs are left out."""
    for name in writers():
        for wanted in schemes:
            try:
                size = weights(model, name, wanted)
            except Unsupported:
                continue
            for length in lengths:
                yield of(model.spec, name, wanted, length, size, model.parameters)
