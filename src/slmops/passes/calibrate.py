"""What a model's layers see on a text: the second moments of every matrix's input, by the reference interpreter; weighted
by gradients where PyTorch is installed (passes/_fisher.py).

Windows pass in batches, so that each weight is read once for many tokens; the head's logits are never computed. The matrices
stand in files, for together they are larger than the model's own layers.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, EngineMissing, SourceNotFound, UsageError
from slmops.core.model import Model
from slmops.core.tensor import Floats
from slmops.passes._moments import Moments, let_go, zeros
from slmops.passes._windows import Inputs, through

WINDOW = 256
MOST_BYTES = 64 << 20
TOKENS = 8192
"""Of a text that are used."""


def read(path: Path, render: Callable[[Sequence[Mapping[str, Any]]], str]) -> str:
    """A text file, or JSON lines with a "text" or "messages", which `render` writes as the model sees them."""
    if not path.is_file():
        raise SourceNotFound(f"there is no file {path}", "give a text of the model's own domain")
    try:
        content = path.read_bytes()[:MOST_BYTES].decode("utf-8", "ignore")
        if path.suffix != ".jsonl":
            return content
        lines = content.splitlines()[: None if len(content) < MOST_BYTES else -1]
        rows = [json.loads(line) for line in lines if line.strip()]
        return "\n\n".join(str(row["text"]) if "text" in row else render(row["messages"]) for row in rows)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptInput(f"{path}: {error!r}"[:200], "each line is an object with a text, or messages") from None


class Calibration:
    """A text as windows of the model's tokens, and the second moments that they give once somebody asks.

    weighted: by gradients; None: where PyTorch is installed. tune: passes over the windows that move scales and norms once
    codes are solved (passes/tune.py). Raises UsageError for a text of less than a window.
    """

    def __init__(
        self,
        model: Model,
        content: str,
        folder: Path,
        tokens: int = TOKENS,
        weighted: bool | None = None,
        tune: int = 0,
    ) -> None:
        self.tune = tune
        torch = importlib.util.find_spec("torch") is not None
        self.weighted = torch if weighted is None else weighted
        if tune < 0:
            raise UsageError(f"--tune {tune} is no count of passes over the calibration text", "such as --tune 8")
        if tune and not torch:
            raise EngineMissing("tuning scales and norms takes PyTorch", 'pip install "slmops[train]"')
        length = min(WINDOW, model.spec.context)
        ids = model.tokenizer.encoder.encode(content, add_special_tokens=False).ids[:tokens]
        self._model, self._folder = model, folder
        self.windows = np.array(ids[: len(ids) // length * length], np.int64).reshape(-1, length)
        if not len(self.windows):
            raise UsageError(f"the calibration text has {len(ids)} tokens, and {length} are the least", "give a longer one")

    @property
    def tokens(self) -> int:
        return int(self.windows.size)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the ids: with it a step is told from another."""
        return hashlib.sha256(self.windows.tobytes()).hexdigest()

    @functools.cached_property
    def moments(self) -> dict[str, Moments]:
        """Role -> E[x x^T] over its matrix's inputs, for one kind of rows, or weighted for several.

        Without weights, what is only looked up has none. Takes a pass through the model, with weights there and back.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if self.weighted:
            from slmops.passes import _fisher

            return _fisher.moments(self._model, self.windows, self._folder)
        sums = _Sums(self._folder)
        watching = Inputs(self._model.tensors, sums.add)
        through(watching, self._model, self.windows)
        files = sums.divided(self.tokens)
        rows = {role: self._model.tensors[role].shape[0] for role in watching.first}
        return {role: Moments(files[first], np.zeros(rows[role], np.uint16)) for role, first in watching.first.items()}


class _Sums:
    """x^T x of every input, each in a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, tuple[Path, Floats]] = {}

    def add(self, x: Floats, role: str) -> None:
        if role not in self._held:
            path, columns = self._folder / f"{role}.npy", x.shape[-1]
            self._held[role] = path, zeros(path, (1, columns, columns))
        _, sums = self._held[role]
        flat = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
        sums += flat.T @ flat
        let_go(sums)

    def divided(self, tokens: int) -> dict[str, Path]:
        """Divide by the tokens, let go of the arrays; the files by role."""
        for _, sums in self._held.values():
            sums /= np.float32(tokens)
            sums.flush()  # type: ignore[attr-defined]
            let_go(sums)
        return {role: path for role, (path, _) in self._held.items()}
