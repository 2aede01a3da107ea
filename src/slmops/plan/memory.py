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
context. These are predictions of what ru_maxrss of the engine's process will be; `low` and `high` come from how far off they
have been: spread.json holds, for each engine, the least and the greatest ratio of measured to predicted, of how many
readings and shapes, and is written by bench/planner.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops.core import plugins, roles
from slmops.core.errors import Unsupported
from slmops.core.model import Model, Tokenizer
from slmops.core.scheme import stored_as
from slmops.core.spec import Spec
from slmops.engines import Footprint, _installed
from slmops.passes import activations, mix
from slmops.passes.quantize import chooser, quantize

KEEP = "keep"
"""In place of a scheme's name: what the model is stored as."""
TOKEN = 512
"""Bytes of a token in an engine's tokenizer: its text, its place in two maps, its merge."""
TOKEN_TEXT = 75
"""Bytes of a token in a tokenizer.json, merges and all: between 43 (SmolLM2) and 134 (Llama 3)."""
BLANK = Tokenizer(json.dumps({"added_tokens": [], "normalizer": None, "model": {"type": "BPE"}}).encode())
"""In place of the tokenizer when only weights are laid out."""
SPREAD = Path(__file__).with_name("spread.json")
FEW, GUESSED, LEAST = 4, 0.15, 0.05
"""With fewer readings than FEW, or of one shape, an interval is guessed; none is narrower than LEAST: machines differ."""
UNKNOWN, HALF = Footprint(base=300 << 20), 2.0
"""Of a format that no engine of ours opens: what it takes, and the bytes of a number in its KV cache."""


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
    """Between which shares of the prediction a measurement is expected."""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead

    @property
    def low(self) -> int:
        return round(self.total * self.spread[0])

    @property
    def high(self) -> int:
        return round(self.total * self.spread[1])


@functools.cache
def spread(engine: str) -> tuple[float, float]:
    """Between which shares of the prediction the next measurement in this engine is expected.

    n readings of a kind leave the next outside their range with a chance of 2 / (n + 1), and then mostly not by far: the
    range is widened on either side by the mean gap between neighbours.
    """
    one = json.loads(SPREAD.read_text(encoding="utf-8")).get(engine)
    if one is None or one["readings"] < FEW or one["shapes"] < 2:
        return 1 - GUESSED, 1 + GUESSED
    gap = (one["greatest"] - one["least"]) / (one["readings"] - 1)
    return min(one["least"] - gap, 1 - LEAST), max(one["greatest"] + gap, 1 + LEAST)


def footprint(form: str) -> tuple[str, Footprint]:
    """The engine that is preferred for a format among those installed, or of all, and what it takes."""
    names = _installed.engines_for(form)
    for name in [name for name in names if _installed.installed(name)] or names:
        return name, plugins.load("engines", name).FOOTPRINT
    return "", UNKNOWN


def engines(form: str, here: bool) -> list[str]:
    """The engines to choose among for a format: all that are installed; the usual one where none is, or for elsewhere."""
    found = [name for name in _installed.engines_for(form) if here and _installed.installed(name)]
    return found or [footprint(form)[0]]


def number(engine: str, kv: str = "auto") -> float:
    """Bytes of a number in the KV cache of this precision (KV in the engine's file); f16's of an engine that is not ours."""
    return float(plugins.load("engines", engine).KV[kv]) if engine else HALF


def smaller(engine: str) -> str | None:
    """The engine's smallest KV cache, where that is smaller than its usual one."""
    known: dict[str, float] = plugins.load("engines", engine).KV if engine else {"auto": HALF}
    least = min(known, key=lambda name: known[name])
    return least if known[least] < known["auto"] else None


def kv_cache(spec: Spec, context: int, number: float = 2.0) -> int:
    """Bytes of the keys and values of one sequence of `context` positions, `number` bytes each (2: f16)."""
    return round(2 * spec.layers * spec.kv_heads * spec.head_dim * context * number)


def overhead(
    spec: Spec, engine: Footprint, weights: int, prompt: int, parameters: int, scheme: str = "", untouched: int = 0
) -> int:
    """Bytes beside weights and KV cache when a prompt of so many tokens is computed; less than nothing where `untouched`
    bytes of the weights are mapped and not read."""
    chunk = min(prompt, engine.chunk or prompt)
    rows = min(chunk, engine.rows or chunk)
    activations = chunk * (2 * spec.intermediate + 4 * spec.hidden) * 4
    plain = scheme in ("f16", "bf16")
    copies = engine.plain if engine.plain is not None and plain else engine.copies
    held = round(copies * (weights - untouched))
    if engine.dense:  # codes lie beside the numbers that they are written out as until all are
        held = 2 * parameters + (0 if plain else weights)
    return engine.base + activations + rows * spec.vocab * 4 + TOKEN * spec.vocab + held - weights


def weights(model: Model, format_name: str, scheme_name: str) -> int:
    """Bytes of the model's weights in this format, from its layout. Raises Unsupported for a pair that cannot be.

    KEEP as scheme: everything as it was read; scales are scanned then where it depends on them whether the format holds it.
    Where all layers are alike, two and three of them are laid out and the rest counted on: the same but for the padding
    between tensors (under a thousandth), and a graph of 30 layers is not built for each candidate.
    """
    if (per_weight := mix.bits(scheme_name)) is not None:
        # Which matrix gets what is known after calibration only; what all of them take is the mix's name.
        return unmixed(model, format_name) + round(per_weight * mix.weights(model) / 8)
    if activations.told(scheme_name) or (scheme_name == KEEP and model.steps):
        activations.refuse_without_place(format_name)
    bare = dataclasses.replace(model, tokenizer=BLANK, chat_template=None, adapter=None)
    packed = bare if scheme_name == KEEP else quantize(bare, chooser(scheme_name))
    layers = model.spec.layers
    if layers <= 3 or scheme_name == KEEP or not _alike(packed):
        return _laid_out(packed, format_name)
    two, three = (_laid_out(_cut(packed, count), format_name) for count in (2, 3))
    return two + (layers - 2) * (three - two)


def unmixed(model: Model, format_name: str) -> int:
    """Bytes of what no mix changes: everything but the matrices' numbers."""
    return weights(model, format_name, "f16") - 2 * mix.weights(model)


def _laid_out(packed: Model, format_name: str) -> int:
    module = plugins.load("formats", format_name)
    if hasattr(module, "weights"):  # a format whose plan() holds more, or computes more, than weights
        return int(module.weights(packed))
    sizes: dict[str, int] = module.plan(packed).sizes
    return sum(sizes.values())


def _alike(model: Model) -> bool:
    """Whether every layer has the same tensors, stored alike, and computes alike."""
    if len(set(model.spec.windows)) > 1 or len(set(model.spec.ropes)) > 1:
        return False
    kinds: dict[str, set[tuple[str, tuple[int, ...]]]] = {}
    for role, tensor in model.tensors.items():
        kinds.setdefault(roles.kind(role), set()).add((stored_as(tensor), tensor.shape))
    return all(len(found) == 1 for found in kinds.values())


def _cut(model: Model, layers: int) -> Model:
    """The model with its first layers only."""
    spec = model.spec
    less = dataclasses.replace(spec, layers=layers, windows=spec.windows[:layers], ropes=spec.ropes[:layers])
    kept = {role: tensor for role, tensor in model.tensors.items() if (roles.layer(role) or 0) < layers}
    return dataclasses.replace(model, spec=less, tensors=kept)


def tokenizer(model: Model, format_name: str) -> int:
    """Bytes that the tokenizer will take in an artifact: about its tokenizer.json's, and in a GGUF two thirds of that."""
    text = len(model.tokenizer.json) or TOKEN_TEXT * model.spec.vocab
    return round(text * getattr(plugins.load("formats", format_name), "TOKENIZER_SHARE", 1.0))


def contexts(spec: Spec, asked: int | None = None) -> tuple[int, ...]:
    """The context lengths worth showing: 2k, 8k and the model's own, or the one that was asked for."""
    if asked is not None:
        return (asked,)
    return tuple(sorted({min(length, spec.context) for length in (2048, 8192, spec.context)}))


def writers() -> tuple[str, ...]:
    """Names of the formats that can be written and hold codes."""
    return tuple(name for name in plugins.names("formats") if hasattr(plugins.load("formats", name), "forms"))


def of(
    spec: Spec,
    form: str,
    scheme: str,
    context: int,
    size: int,
    parameters: int,
    where: tuple[str, Footprint] | None = None,
    kv: str = "auto",
) -> Memory:
    """The prediction for weights of `size` bytes, the context filled by one prompt, in the engine `where` (its name and what
    it takes), or else in the format's usual one, with its KV cache in this precision."""
    name, engine = where or footprint(form)
    known = form in plugins.names("formats")  # or else the name of a foreign quantization
    tables = getattr(plugins.load("formats", form), "tables", None) if known else None
    untouched = round(tables(spec) * (1 - context / max(spec.context, context))) if tables is not None else 0
    more = overhead(spec, engine, size, context, parameters, scheme, untouched)
    return Memory(form, scheme, name, context, size, kv_cache(spec, context, number(name, kv)), more, spread(name))


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
