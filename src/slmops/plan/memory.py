"""How much memory a model will take at run time, by format, scheme and context length. Opens no weight.

    total    = weights + KV cache + overhead
    weights  = the bytes of the format's own layout: exact, because plan() gives every byte's place
    KV cache = 2 (key and value) x layers x key-value heads x head size x context x bytes of a number
    overhead = the engine's process before a model is opened
             + the activations of one prompt chunk in f32: CHUNK x (vocabulary + 2 intermediate + 4 hidden) x 4 bytes
             + the tokenizer: TOKEN bytes for each of the vocabulary
             + where the engine repacks them, the weights once more

The bytes of a cached number are the engine's default on a CPU. A sliding window is not counted: engines may keep the whole
context. Codes are taken to stay codes, as in vLLM; transformers writes those of compressed-tensors out as dense numbers.
These are predictions without an interval, of what ru_maxrss of the engine's process will be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slmops.core import plugins
from slmops.core.errors import Unsupported
from slmops.core.model import Model
from slmops.core.spec import Spec
from slmops.passes.quantize import chooser, quantize

MIB = 1 << 20
CHUNK = 512
"""Tokens of a prompt that pass through the model at once; llama.cpp's n_ubatch."""


TOKEN = 512
"""Bytes of a token in an engine's tokenizer: its text, its place in two maps, its merge."""


@dataclass(frozen=True)
class Runtime:
    """What a format's usual engine takes besides the weights."""

    base: int = 300 * MIB
    """Bytes of the process with the engine loaded and no model."""
    kv: float = 2.0
    """Bytes of a number in the KV cache: f16 unless the engine's default on a CPU is another."""
    repacks: bool = False
    """Whether the engine keeps weights in a layout of its own beside the file, whose mapped pages count too."""


RUNTIMES = {
    # ru_maxrss of the worker with a model of 5 M parameters, less the rest of the formula, on x86-64 Linux.
    "gguf": Runtime(base=40 * MIB),
    "onnx": Runtime(base=60 * MIB, kv=4.0),  # the CPU provider computes in f32, and the cache follows
    "openvino": Runtime(base=130 * MIB, kv=1.0, repacks=True),  # u8
    "mlx": Runtime(base=260 * MIB),
    "compressed_tensors": Runtime(base=370 * MIB),
}
"""By format; one that is not named here is taken to be like Runtime()."""


@dataclass(frozen=True)
class Memory:
    """Predicted bytes at run time."""

    format: str
    scheme: str
    context: int
    weights: int
    kv_cache: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


def kv_cache(spec: Spec, context: int, number: float = 2.0) -> int:
    """Bytes of the keys and values of one sequence of `context` positions, `number` bytes each (2: f16)."""
    return round(2 * spec.layers * spec.kv_heads * spec.head_dim * context * number)


def overhead(spec: Spec, runtime: Runtime, weights: int, chunk: int = CHUNK) -> int:
    """Bytes of the engine, of the activations of a chunk of the prompt, of the tokenizer, and of repacked weights."""
    activations = chunk * (spec.vocab + 2 * spec.intermediate + 4 * spec.hidden) * 4
    return runtime.base + activations + TOKEN * spec.vocab + (weights if runtime.repacks else 0)


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


def predict(model: Model, schemes: Sequence[str], lengths: Sequence[int]) -> Iterator[Memory]:
    """For every format that can be written, every scheme and context length; impossible pairs are left out."""
    for name in writers():
        runtime = RUNTIMES.get(name, Runtime())
        for wanted in schemes:
            try:
                size = weights(model, name, wanted)
            except Unsupported:
                continue
            for length in lengths:
                yield Memory(
                    format=name,
                    scheme=wanted,
                    context=length,
                    weights=size,
                    kv_cache=kv_cache(model.spec, length, runtime.kv),
                    overhead=overhead(model.spec, runtime, size),
                )
