"""Second moments weighted by what each output's error does to the model's predictions (empirical Fisher information).

KL divergence of a model whose matrix is off by d is near 1/2 sum over rows r of d_r E[g_r^2 x x^T] d_r, where g_r is the
gradient of -log p(label) by output r and labels are drawn from the model itself. Rows share the mean of their g^2 by kinds:
runs of rows in a layer; in a table of tokens, rows of one direction. A tied table has two roles, and both are added: as the
head, p (1 - p) h h^T; as what is looked up, the token's frequency times the gradient's moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slmops.core import plugins, roles
from slmops.core.model import Model
from slmops.core.tensor import Array, Floats, row_blocks
from slmops.passes._moments import Moments, let_go, zeros

BATCH = 2
"""Windows that pass at once, with all their activations."""
HEAD_BATCH = 128
"""Positions whose logits are held at once."""
RUNS, CLUSTERS = 4, 32
"""Kinds of rows at most: of a layer's matrix, of a table of tokens."""
WIDE = 4096
"""A layer's matrix of more columns has one kind of rows: the moments' bytes grow with columns squared."""


def moments(model: Model, windows: Array, folder: Path) -> dict[str, Moments]:
    """Role -> its moments, in files under `folder`. windows: ids int64 [windows, positions]. Needs PyTorch."""
    from slmops.ops.torch import TorchOps

    found = _Sums(folder)
    spec = model.spec
    program = plugins.load("architectures", spec.family)
    ops = TorchOps(model.tensors, found.layer)
    role = "embedding" if spec.tied else "head"
    kinds = clusters(model, role)
    random = np.random.default_rng(0)
    for start in range(0, len(windows), BATCH):
        ids = np.ascontiguousarray(windows[start : start + BATCH])
        hidden = ops.forward(program.forward, spec, ids)
        flat, gradients = hidden.reshape(-1, spec.hidden), np.empty((ids.size, spec.hidden), np.float32)
        for at in range(0, len(flat), HEAD_BATCH):
            part = slice(at, at + HEAD_BATCH)
            gradients[part], weights = _head(model, role, flat[part], random, kinds)
            found.weighted(role, flat[part], weights)
        looked_up = ops.backward(gradients.reshape(hidden.shape)).reshape(-1, spec.hidden)
        found.looked_up(ids.reshape(-1), looked_up)
    return found.finish(model, role, kinds, windows.size)


def _head(model: Model, role: str, hidden: Floats, random: np.random.Generator, kinds: Array) -> tuple[Floats, Floats]:
    """For some positions [n, hidden]: the gradient of -log p(label) by `hidden`, and the mean of p (1 - p) over each kind
    of rows, [n, kinds]."""
    tensor, cap = model.tensors[role], model.spec.logit_cap
    p = np.empty((len(hidden), tensor.shape[0]), np.float32)
    for start, stop in row_blocks(tensor.shape):
        p[:, start:stop] = hidden @ tensor.rows(start, stop).astype(np.float32).T
    bend = None
    if cap is not None:
        p = np.tanh(p / np.float32(cap))
        bend = 1 - p * p
        p *= np.float32(cap)
    p = np.exp(p - p.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    drawn = random.random((len(p), 1), np.float32)
    labels = np.minimum((np.cumsum(p, axis=1, dtype=np.float64) < drawn).sum(axis=1), p.shape[1] - 1)
    counts = np.bincount(kinds)
    spread = p * (1 - p) if bend is None else p * (1 - p) * bend * bend
    weights = np.stack([np.bincount(kinds, row, len(counts)) for row in spread]) / np.maximum(counts, 1)
    p[np.arange(len(p)), labels] -= 1
    if bend is not None:
        p *= bend
    gradient = np.zeros_like(hidden)
    for start, stop in row_blocks(tensor.shape):
        gradient += p[:, start:stop] @ tensor.rows(start, stop).astype(np.float32)
    return gradient, weights.astype(np.float32)


def clusters(model: Model, role: str) -> Array:
    """Rows of a table of tokens by their direction: which of CLUSTERS kinds each is (spherical k-means, on a sample)."""
    tensor, random = model.tensors[role], np.random.default_rng(0)
    rows = tensor.shape[0]

    def directions(start: int, stop: int) -> Floats:
        values = tensor.rows(start, stop).astype(np.float32)
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), np.float32)

    blocks = list(row_blocks(tensor.shape))
    share = min(1.0, 16384 / rows)
    sample = np.concatenate([part[random.random(len(part)) < share] for part in (directions(*block) for block in blocks)])
    count = min(CLUSTERS, len(sample))
    centres = sample[random.permutation(len(sample))[:count]]
    for _ in range(12):
        nearest = (sample @ centres.T).argmax(axis=1)
        sums = np.stack([sample[nearest == kind].sum(axis=0) for kind in range(count)])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres).astype(np.float32)
    return np.concatenate([(directions(*block) @ centres.T).argmax(axis=1) for block in blocks]).astype(np.uint16)


class _Sums:
    """Adds up as gradients pass; the arrays stand in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sums: dict[str, Floats] = {}
        self._counts: dict[int, int] = {}
        self._gradients: Floats | None = None

    def _of(self, role: str, kinds: int, columns: int) -> Floats:
        if role not in self._sums:
            self._sums[role] = zeros(self._folder / f"{role}.npy", (kinds, columns, columns))
        return self._sums[role]

    def layer(self, role: str, x: Floats, gradients: Floats) -> None:
        """Of a layer's matrix: x [tokens, columns], gradients [tokens, rows]."""
        if roles.facts(role).quantize:
            count = runs(gradients.shape[1], x.shape[1])
            squares = np.square(gradients).reshape(len(gradients), count, -1).mean(axis=2)
            self.weighted(role, x, squares)
            let_go(self._sums[role])

    def weighted(self, role: str, x: Floats, weights: Floats) -> None:
        """x [tokens, columns], weights [tokens, kinds]."""
        sums = self._of(role, weights.shape[1], x.shape[1])
        for kind in range(weights.shape[1]):
            scaled = x * np.sqrt(weights[:, kind : kind + 1])
            sums[kind] += scaled.T @ scaled

    def looked_up(self, ids: Array, gradients: Floats) -> None:
        """ids [tokens], gradients [tokens, hidden] of the rows of the embedding."""
        moments = gradients.T @ gradients
        self._gradients = moments if self._gradients is None else self._gradients + moments
        for one in ids.tolist():
            self._counts[one] = self._counts.get(one, 0) + 1

    def finish(self, model: Model, table: str, kinds: Array, tokens: int) -> dict[str, Moments]:
        """Means over tokens; the embedding's, as what is looked up, in full or added to the head's."""
        assert self._gradients is not None
        columns, many = model.spec.hidden, int(kinds.max()) + 1
        found: Mapping[str, Array] = {table: kinds}
        if table != "embedding":
            found = {**found, "embedding": clusters(model, "embedding")}
            many = int(found["embedding"].max()) + 1
        seen = np.bincount(list(self._counts), list(self._counts.values()), model.spec.vocab)
        members = np.maximum(np.bincount(found["embedding"], minlength=many), 1)
        # A token that the text lacks may come all the same: half a count for each.
        share = np.bincount(found["embedding"], (seen + 0.5) / (seen + 0.5).sum(), many) / members
        sums = self._of("embedding", many, columns)
        for kind in range(many):
            sums[kind] += self._gradients * np.float32(share[kind])
        result = {}
        for role, array in self._sums.items():
            array /= np.float32(tokens)
            rows = model.tensors[role].shape[0]
            even = np.arange(rows) * len(array) // rows
            result[role] = Moments(self._folder / f"{role}.npy", found.get(role, even).astype(np.uint16))
            array.flush()  # type: ignore[attr-defined]
            let_go(array)
        self._sums.clear()
        return result


def runs(rows: int, columns: int) -> int:
    """Kinds of rows of a layer's matrix: equal runs, fewer the more columns."""
    count = max(1, min(RUNS, WIDE // columns))
    while rows % count:
        count -= 1
    return count
