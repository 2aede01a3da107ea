"""What an answer to a case is worth: one scorer a file, found because it is there. A file holds:

KEYS, OPTIONAL     the keys of a case that it must have, and may have
METRICS            names of its figures, the one that counts first; each is from 0 (wrong) to 1
make(keys)         -> a function of the answer's text to those figures; raises ValueError for a value that makes no sense

A scorer that weighs given continuations by their log-likelihood (it needs an engine that gives logits) has besides

continuations(keys)    the texts; the function that `make` gives then takes their log-likelihoods, natural, in that order
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slmops.core import plugins

Keys = Mapping[str, Any]
Marks = Mapping[str, float]
ROOM = "measure.scorers"


def make(name: str, keys: Keys) -> Callable[[Any], Marks]:
    """The scorer of this name for one case. Raises UsageError for an unknown name, ValueError for keys that it has not."""
    module = plugins.load(ROOM, name)
    if unknown := sorted(set(keys) - set(module.KEYS) - set(module.OPTIONAL)):
        known, said = ", ".join((*module.KEYS, *module.OPTIONAL)), " or ".join(map(repr, unknown))
        raise ValueError(f"the scorer {name} takes no {said}, only {known} (remarks go under 'note')")
    if lacking := sorted(set(module.KEYS) - set(keys)):
        raise ValueError(f"the scorer {name} needs {' and '.join(map(repr, lacking))}")
    found: Callable[[Any], Marks] = module.make(keys)
    return found


def continuations(name: str, keys: Keys) -> tuple[str, ...] | None:
    """What a scorer of log-likelihoods weighs; None of the others, which are given an answer."""
    module = plugins.load(ROOM, name)
    return module.continuations(keys) if hasattr(module, "continuations") else None


def texts(keys: Keys, key: str = "expected") -> tuple[str, ...]:
    """A key that holds a text, or a list of texts of which each will do."""
    value = keys[key]
    found = tuple(value) if isinstance(value, list) else (value,)
    if not found or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{key!r} must be a text or a list of texts")
    return found


def number(keys: Keys, key: str, default: float | None = None) -> float:
    """A key that holds a number."""
    value = keys.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise ValueError(f"{key!r} must be a number")
    return float(value)
