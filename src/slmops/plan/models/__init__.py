"""Models that are described, so that one can be chosen before anything is downloaded: a TOML file each, here or in the
user's own folder.

description = "..."      source               its name on the Hub (or a path)
licence                  gated                true where the Hub asks to accept its terms first
context                  the tokens that its maker states, without extensions such as YaRN
languages, strengths     those of TASKS that its maker says it is made for; seen: where that is said
[config]                 of its config.json, what shapes and the KV cache follow from
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from slmops.core import plugins
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SlmopsError
from slmops.core.model import Model, Tokenizer
from slmops.core.tensor import DTYPES, Lazy
from slmops.plan._described import Shelf

TASKS = ("chat", "code", "extraction", "multilingual", "reasoning", "summarization", "tools", "tuning")
"""What a model is used for; tuning: to be fine-tuned for one narrow task."""
KEYS: dict[str, Any] = {"description": str, "source": str, "licence": str, "gated": bool, "context": int,
        "languages": str, "strengths": list, "seen": str, "config": dict}  # fmt: skip
SHELF = Shelf("models", Path(__file__).resolve().parent, KEYS, ("gated", "languages", "seen"), "docs/models.md")


@dataclass(frozen=True)
class Described:
    """A model of the catalogue. `model` has shapes and no weights: predictions can be made of it, nothing else."""

    name: str
    description: str
    source: str
    licence: str
    gated: bool
    context: int
    languages: str
    strengths: tuple[str, ...]
    model: Model


def names() -> tuple[str, ...]:
    """All described models, the user's own ones too."""
    return SHELF.names()


def load(name: str) -> Described:
    """By name, the user's own before ours, or by the path of a .toml file. Raises UsageError or CorruptInput."""
    path = SHELF.find(name)
    said = SHELF.read(path)
    if unknown := set(map(str, said["strengths"])) - set(TASKS):
        raise CorruptInput(f"{path}: there is no task {min(unknown)!r}", f"known are: {', '.join(TASKS)}")
    if said["context"] < 1:
        raise CorruptInput(f"{path}: a context of {said['context']} tokens makes no sense")
    try:
        model = hollow(path.stem, said["config"], said["licence"])
    except SlmopsError as error:
        raise CorruptInput(f"{path}: {error}", error.cure or "see docs/models.md for what it holds") from None
    return Described(
        name=path.stem,
        description=said["description"],
        source=said["source"],
        licence=said["licence"],
        gated=said.get("gated", False),
        context=said["context"],
        languages=said.get("languages", ""),
        strengths=tuple(map(str, said["strengths"])),
        model=model,
    )


def hollow(name: str, config: Mapping[str, Any], licence: str | None = None) -> Model:
    """The model that a config.json describes, as bf16, without weights and tokenizer. Raises what from_config raises."""
    spec = specs.from_config(config)
    shapes: Mapping[str, tuple[int, ...]] = plugins.load("architectures", spec.family).shapes(spec)
    tensors = {role: Lazy(shape, DTYPES["bf16"], _nothing) for role, shape in shapes.items()}
    return Model(name, spec, tensors, Tokenizer(b""), None, config, licence=licence)


def _nothing(start: int, stop: int) -> NoReturn:
    raise AssertionError("a described model has no weights")
