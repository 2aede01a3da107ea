"""Model: a frozen description of a checkpoint whose weights are read only when asked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slmops.core import roles
from slmops.core.adapter import Adapter
from slmops.core.spec import Spec
from slmops.core.tensor import Tensor, elements

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer as data. `json` is the text of a Hugging Face tokenizer.json, whatever the source had."""

    json: bytes
    config: Mapping[str, Any] = field(default_factory=dict)
    """tokenizer_config.json, without the chat template."""
    bos: int | None = None
    eos: tuple[int, ...] = ()
    """Every id that ends a generation, the tokenizer's own eos first."""
    pad: int | None = None
    adds_bos: bool = False
    """Whether encoding a text puts `bos` before it."""
    sentencepiece: bytes | None = None
    """The source's tokenizer.model, where it had one."""

    @functools.cached_property
    def parsed(self) -> Mapping[str, Any]:
        """`json` as a value; read-only by custom. Parsed once: real ones have 10 MB."""
        value: dict[str, Any] = json.loads(self.json)
        return value

    @functools.cached_property
    def encoder(self) -> tokenizers.Tokenizer:
        """The source's own tokenizer, ready to encode."""
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.json.decode())


@dataclass(frozen=True)
class Model:
    """Spec, tensors by role, tokenizer, chat template; and where it came from."""

    name: str
    spec: Spec
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer
    chat_template: str | None
    config: Mapping[str, Any]
    """config.json as found: written through to the formats that carry one."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """generation_config.json as found."""
    licence: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    """Where it was read from: path or Hub name with revision, files with their sizes."""

    steps: Mapping[str, float] = field(default_factory=dict)
    """Role of a matrix -> the step by which its input is rounded to 8 bits (-128 to 127 steps) before they are multiplied;
    empty where activations are no business of the artifact's."""
    adapter: Adapter | None = None
    """A LoRA that stands beside the weights and is not in them."""

    @property
    def parameters(self) -> int:
        """Numbers held, a tied head counted once."""
        return sum(elements(tensor.shape) for tensor in self.tensors.values())


class Weights:
    """How a program names its weights: `w("norm")`, `w.layer(3)("mlp.up")`, `.get` where it may be absent.

    Hands out roles, not numbers: what a role becomes (an array, a graph's node) is the interpreter's business.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors, self._prefix = tensors, prefix

    def __call__(self, name: str) -> str:
        role = self._prefix + name
        if role not in self._tensors:
            raise KeyError(role)
        return role

    def get(self, name: str) -> str | None:
        role = self._prefix + name
        return role if role in self._tensors else None

    def layer(self, number: int) -> Weights:
        return Weights(self._tensors, f"layers.{number}.")


def bytes_by_group(model: Model) -> Iterator[tuple[str, int]]:
    """(embedding | head | attention | mlp | norm, bytes as stored), in that order; absent groups are left out."""
    total: dict[str, int] = {}
    for role, tensor in model.tensors.items():
        heading = roles.group(role)
        total[heading] = total.get(heading, 0) + elements(tensor.shape) * tensor.dtype.itemsize
    for heading in ("embedding", "head", "attention", "mlp", "norm"):
        if heading in total:
            yield heading, total[heading]
