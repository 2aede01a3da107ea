"""Low-rank adapters beside the matrices of a model of mlx-lm: which one is chosen for each call of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slmops.engines import _adapters


def attach(model: Any, files: Sequence[str]) -> Callable[[int | None], None]:
    """Put PEFT's files beside the model's matrices; what comes back chooses one of them by its place, or none."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_unflatten

    chosen: int | None = None

    class Adapted(nn.Module):  # type: ignore[misc]  # mlx has no types that are followed here
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner
            self._pairs: dict[int | None, tuple[Any, Any]] = {}

        def __call__(self, x: Any) -> Any:
            found = self.inner(x)
            if (pair := self._pairs.get(chosen)) is None:
                return found
            return found + ((x @ pair[0]) @ pair[1]).astype(found.dtype)

    able = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear | nn.QuantizedLinear)}
    adapted: dict[str, Adapted] = {}
    for number, file in enumerate(files):
        for module, a, b in _adapters.pairs(Path(file)):
            if module not in able:
                raise _adapters.missing("mlx-lm", module, list(able))
            adapted.setdefault(module, Adapted(able[module]))._pairs[number] = (mx.array(a.T), mx.array(b.T))
    if adapted:
        model.update_modules(tree_unflatten(list(adapted.items())))

    def choose(which: int | None) -> None:
        nonlocal chosen
        chosen = which

    return choose
