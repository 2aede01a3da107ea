"""Scales and norms moved by the gradient of the KL divergence itself, codes staying as they are. Needs PyTorch.

Solving looks at one matrix at a time; this is what looks at the whole model's predictions: the divergence of the quantized
model from the source on the calibration text falls by Adam (Kingma and Ba, 1412.6980), over what a layout stores as real
numbers: d and dmin of GGUF's types, scales and biases of groups, the norms. They move in proportion to their size, and the
forward pass sees what can be stored. Some windows are held back: what is kept is the state with their least divergence.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from slmops.core import plugins, roles
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, joined
from slmops.core.tensor import Array, Constant, Floats, Lazy, Tensor, row_blocks, to_numpy
from slmops.quantize import _solve
from slmops.quantize._cast import cast
from slmops.quantize._grid import Grid, Numbers

CODE = "1"
"""Raised whenever what tuning makes changes."""
BATCH = 2
"""Windows of a step."""
RATE = 0.025
"""Of its size and of its matrix's relative error, what a number moves by in a step at first; it falls to none by a cosine.
(q4 is off by 8 %, and 0.2 % did better there than 0.5 %; at 6 bits steps as wide do harm.)"""
DECAY = (0.9, 0.98)
"""Of Adam's two means."""
HELD = 8
"""Of so many windows one is held back."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What came of it."""

    model: Model
    before: float
    """Mean KL divergence of the windows that were held back, nats a token, as it was solved."""
    after: float


class _Moving:
    """Numbers that are start * (1 + shift), and Adam's means of their gradients."""

    def __init__(self, start: Array, stored: Callable[[Floats, Floats], Floats], error: float) -> None:
        """stored: (wanted, old) -> the nearest that a layout holds. error: relative, of what the numbers are of."""
        self.start, self._error = start.astype(np.float32), error
        self._stored = stored
        self.shift, self._mean, self._square = (np.zeros_like(self.start) for _ in range(3))
        self.gradient = np.zeros_like(self.start)
        self._steps = 0

    def values(self) -> Floats:
        return self._stored(self.start * (1 + self.shift), self.start)

    def step(self, rate: float) -> None:
        first, second = DECAY
        self._steps += 1
        gradient = self.gradient * self.start
        self._mean += (1 - first) * (gradient - self._mean)
        self._square += (1 - second) * (gradient * gradient - self._square)
        size = np.sqrt(self._square / (1 - second**self._steps))
        mean = self._mean / (1 - first**self._steps)
        self.shift -= np.float32(rate * self._error) * np.divide(mean, size, out=np.zeros_like(mean), where=size > 0)
        self.gradient[:] = 0


class _Part:
    """A block of a matrix's rows: its grid, whose codes stand in a file, and the numbers of it that move."""

    def __init__(self, grid: Grid, error: float) -> None:
        self.grid = grid
        numbers = [one for one in (*grid.steps, *grid.leasts) if _real(one)]
        self._moving = [(one, _Moving(one.values.copy(), _freedom(one), error)) for one in numbers]

    @property
    def moving(self) -> Iterator[_Moving]:
        for _, one in self._moving:
            yield one

    def settle(self) -> None:
        """Put into the grid what has moved."""
        for numbers, one in self._moving:
            numbers.values[:] = one.values()

    def add(self, gradient: Floats) -> None:
        """gradient: of the divergence by the block's values, [rows, columns]."""
        slopes = {id(numbers): slope for numbers, slope in self.grid.slopes() if _real(numbers)}
        for numbers, one in self._moving:
            one.gradient += (gradient * slopes[id(numbers)]).reshape(len(gradient), -1, numbers.width).sum(axis=2)


def _real(numbers: Numbers) -> bool:
    return numbers.freedom is not None and numbers.freedom.significand > 0


def _freedom(numbers: Numbers) -> Callable[[Floats, Floats], Floats]:
    assert numbers.freedom is not None
    return numbers.freedom.nearest


class _Matrix:
    """A matrix in blocks of rows, as numbers that move."""

    def __init__(self, packed: Packed, scheme: _solve.Solvable, source: Tensor, folder: Path, role: str) -> None:
        self.shape, self.scheme, self.parts = packed.shape, scheme, {}
        self.error = 0.0
        """Of the first block: root of the squared error over that of the source's numbers."""
        for start, stop in row_blocks(packed.shape):
            grid = scheme.grid(packed.block(start, stop))
            if not start:
                values = _f32(source, start, stop)
                self.error = float(np.linalg.norm(grid.values() - values) / max(float(np.linalg.norm(values)), 1e-30))
            path = folder / f"{role}-{start}.codes.npy"
            np.save(path, grid.codes)
            codes = np.load(path, mmap_mode="r", allow_pickle=False)
            self.parts[start, stop] = _Part(dataclasses.replace(grid, codes=codes), self.error)

    def blocks(self) -> Iterator[tuple[slice, _Part]]:
        for (start, stop), part in self.parts.items():
            yield slice(start, stop), part

    def numbers(self) -> Lazy:
        """As f32, of the moment."""
        return Lazy(self.shape, np.dtype(np.float32), self._rows)

    def _rows(self, start: int, stop: int) -> Array:
        found = []
        for (first, last), part in self.parts.items():
            if first < stop and start < last:
                rows = slice(max(start, first) - first, min(stop, last) - first)
                found.append(_cut(part.grid, rows).values())
        return np.concatenate(found)

    def packed(self) -> Packed:
        """As codes, of the moment."""

        def rows(start: int, stop: int) -> Codes:
            return joined(
                [
                    self.scheme.ungrid(_cut(part.grid, slice(max(start, first) - first, min(stop, last) - first)))
                    for (first, last), part in self.parts.items()
                    if first < stop and start < last
                ]
            )

        return Packed(self.shape, self.scheme, rows)


def _cut(grid: Grid, rows: slice) -> Grid:
    """Some rows of a grid."""

    def numbers(one: Numbers) -> Numbers:
        return dataclasses.replace(one, values=np.ascontiguousarray(one.values[rows]))

    steps, leasts = tuple(map(numbers, grid.steps)), tuple(map(numbers, grid.leasts))
    codes = np.ascontiguousarray(grid.codes[rows])
    return dataclasses.replace(grid, codes=codes, steps=steps, leasts=leasts, zeros=numbers(grid.zeros))


def tune(
    solved: Model,
    source: Model,
    windows: Array,
    passes: int,
    folder: Path,
    say: Callable[[str], None],
) -> Tuned:
    """`solved` with other scales, biases and norms, by `passes` passes over the windows, ids int64 [windows, positions].

    folder: takes a byte for each weight. Memory: the numbers that move four times over, a matrix, two windows' activations.
    """
    return _Tuner(solved, source, windows, folder).run(passes, say)


class _Tuner:
    def __init__(self, solved: Model, source: Model, windows: Array, folder: Path) -> None:
        from slmops.ops.torch import TorchOps

        self._source, self._solved, self._windows = source, solved, windows
        self._spec, self._program = source.spec, plugins.load("architectures", source.spec.family)
        self._role = "embedding" if source.spec.tied else "head"
        self._matrices = {}
        for role, packed in solved.tensors.items():
            if isinstance(packed, Packed) and (scheme := _solve.solvable(packed.scheme)) is not None:
                self._matrices[role] = _Matrix(packed, scheme, source.tensors[role], folder, role)
        vectors = {role: tensor for role, tensor in solved.tensors.items() if not roles.facts(role).quantize}
        error = float(np.mean([matrix.error for matrix in self._matrices.values()] or [0.0]))
        self._vectors = {role: _Moving(to_numpy(tensor), _stored(tensor), error) for role, tensor in vectors.items()}
        tensors: dict[str, Tensor] = {**solved.tensors}
        tensors |= {role: matrix.numbers() for role, matrix in self._matrices.items()}
        self._tensors = tensors
        self._ops = TorchOps(tensors, self._layer, keep=False)
        teacher = TorchOps(source.tensors, lambda *_: None)
        self._truth = [teacher.look(self._program.forward, self._spec, ids[None]) for ids in windows]

    def run(self, passes: int, say: Callable[[str], None]) -> Tuned:
        """See `tune`."""
        count = len(self._windows)
        held = list(range(HELD - 1, count, HELD)) or [count - 1]
        rest = np.array([one for one in range(count) if one not in held] or held)
        self._settle()
        before = best = self._divergence(held)
        kept = self._state()
        steps = passes * -(-len(rest) // BATCH)
        random, done = np.random.default_rng(0), 0
        for number in range(passes):
            say(f"tuning, pass {number + 1} of {passes}: KL divergence {best:.3g}, {before:.3g} before")
            order = random.permutation(rest)
            for start in range(0, len(order), BATCH):
                self._step(order[start : start + BATCH])
                rate = RATE * min(1.0, (done + 1) / 10) * (1 + math.cos(math.pi * done / steps)) / 2
                for one in self._moving():
                    one.step(rate)
                self._settle()
                done += 1
            if (now := self._divergence(held)) < best:
                best, kept = now, self._state()
        for one, shift in zip(self._moving(), kept, strict=True):
            one.shift = shift
        self._settle()
        tensors: dict[str, Tensor] = {**self._solved.tensors}
        tensors |= {role: matrix.packed() for role, matrix in self._matrices.items()}
        for role, vector in self._vectors.items():
            tensors[role] = Constant(cast(vector.values(), self._solved.tensors[role].dtype))
        return Tuned(dataclasses.replace(self._solved, tensors=tensors), before, best)

    def _moving(self) -> Iterator[_Moving]:
        for matrix in self._matrices.values():
            for _, part in matrix.blocks():
                yield from part.moving
        yield from self._vectors.values()

    def _state(self) -> list[Floats]:
        return [one.shift.copy() for one in self._moving()]

    def _settle(self) -> None:
        for matrix in self._matrices.values():
            for _, part in matrix.blocks():
                part.settle()
        self._ops.leaves = {role: vector.values() for role, vector in self._vectors.items()}

    def _divergence(self, which: list[int]) -> float:
        """Mean over the positions of these windows."""
        total = 0.0
        for one in which:
            hidden = self._ops.look(self._program.forward, self._spec, self._windows[one][None])
            total += self._head(hidden, self._truth[one], learn=False)[0]
        return total / len(which)

    def _step(self, which: Array) -> None:
        """Add up the gradients of these windows' mean divergence."""
        ids = np.ascontiguousarray(self._windows[which])
        hidden = self._ops.forward(self._program.forward, self._spec, ids)
        truth = np.concatenate([self._truth[one] for one in which])
        _, gradient = self._head(hidden, truth, learn=True)
        looked_up = self._ops.backward(gradient)
        self._looked_up(ids.reshape(-1), looked_up.reshape(-1, self._spec.hidden))
        for role, found in self._ops.gradients.items():
            self._vectors[role].gradient += found

    def _head(self, hidden: Floats, truth: Floats, learn: bool) -> tuple[float, Floats]:
        """Mean divergence of the predictions of `hidden` from those of `truth`, both [windows, positions, hidden], and its
        gradient by `hidden`. Logits are of some rows of the table at a time: first their sums, then the rest."""
        mine, theirs = hidden.reshape(-1, self._spec.hidden), truth.reshape(-1, self._spec.hidden)
        table, other = self._tensors[self._role], self._source.tensors[self._role]
        sums = np.full((2, len(mine)), -np.inf, np.float32)
        for start, stop in row_blocks(table.shape):
            for place, (x, weights) in enumerate(((mine, table), (theirs, other))):
                logits, _ = self._logits(x, weights, start, stop)
                sums[place] = np.logaddexp(sums[place], _log_sum(logits))
        total, gradient = 0.0, np.zeros_like(mine)
        for start, stop in row_blocks(table.shape):
            logits, bend = self._logits(mine, table, start, stop)
            log_q = logits - sums[0][:, None]
            log_p = self._logits(theirs, other, start, stop)[0] - sums[1][:, None]
            p = np.exp(log_p)
            total += float((p * (log_p - log_q)).sum(dtype=np.float64))
            if learn:
                slope = (np.exp(log_q) - p) / np.float32(len(mine))
                slope = slope if bend is None else slope * bend
                gradient += slope @ _f32(table, start, stop)
                if self._role in self._matrices:
                    self._matrices[self._role].parts[start, stop].add(slope.T @ mine)
        return total / len(mine), gradient.reshape(hidden.shape)

    def _logits(self, hidden: Floats, table: Tensor, start: int, stop: int) -> tuple[Floats, Floats | None]:
        """Of rows start..stop of the table, and what a soft-cap's slope is there."""
        logits, cap = hidden @ _f32(table, start, stop).T, self._spec.logit_cap
        if cap is None:
            return logits, None
        bent = np.tanh(logits / np.float32(cap))
        return bent * np.float32(cap), 1 - bent * bent

    def _layer(self, role: str, x: Floats, gradients: Floats) -> None:
        if role in self._matrices:
            for rows, part in self._matrices[role].blocks():
                part.add(gradients[:, rows].T @ x)

    def _looked_up(self, ids: Array, gradients: Floats) -> None:
        """gradients [tokens, hidden] of the rows of the embedding that these tokens looked up."""
        if "embedding" not in self._matrices:
            return
        for rows, part in self._matrices["embedding"].blocks():
            here = (ids >= rows.start) & (ids < rows.stop)
            if here.any():
                whole = np.zeros((rows.stop - rows.start, self._spec.hidden), np.float32)
                np.add.at(whole, ids[here] - rows.start, gradients[here])
                part.add(whole)


def _stored(tensor: Tensor) -> Callable[[Floats, Floats], Floats]:
    def nearest(values: Floats, old: Floats) -> Floats:
        return cast(values, tensor.dtype).astype(np.float32)

    return nearest


def _log_sum(logits: Floats) -> Floats:
    most = logits.max(axis=1)
    return np.asarray(most + np.log(np.exp(logits - most[:, None]).sum(axis=1)), np.float32)


def _f32(tensor: Tensor, start: int, stop: int) -> Floats:
    return np.asarray(tensor.rows(start, stop)).astype(np.float32)
