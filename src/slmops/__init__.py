"""slmops: small language models from checkpoint to production.

The verbs of the library are imported when first used, so that `import slmops` costs nothing:

    slmops.load(source)       a checkpoint, a name of the registry or of the Hub as a Model; no weight is read
    slmops.convert(...)       quantize once, write several formats, prove each in its engine
    slmops.verify(folder)     prove an artifact again
    slmops.generate(...)      text from an artifact, in its engine
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmops.compile import convert as convert
    from slmops.library import generate as generate
    from slmops.library import load as load
    from slmops.library import verify as verify

__version__ = "0.1.0"
_VERBS = {"load": "library", "convert": "compile", "verify": "library", "generate": "library"}


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'slmops' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"slmops.{_VERBS[name]}"), name)
