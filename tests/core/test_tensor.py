"""Tensors are read by rows, and nothing more is read than asked."""

from __future__ import annotations

import itertools
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.core import roles
from slmops.core.errors import CorruptInput
from slmops.core.tensor import BLOCK_ELEMENTS, DTYPES, Stored, row_blocks, to_numpy


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_stored_rows(tmp_path: Path, dtype: str) -> None:
    values = np.arange(60, dtype=np.float32).reshape(12, 5).astype(DTYPES[dtype])
    path = tmp_path / "weights"
    path.write_bytes(b"header" + values.tobytes())
    tensor = Stored(path, 6, (12, 5), DTYPES[dtype])
    assert (tensor.rows(3, 7) == values[3:7]).all()
    assert (to_numpy(tensor) == values.astype(np.float32)).all()


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(np.zeros(10, ml_dtypes.bfloat16).tobytes())
    with pytest.raises(CorruptInput, match="ends before"):
        Stored(path, 0, (4, 5), DTYPES["bf16"]).rows(0, 4)


@given(rows=st.integers(1, 300_000), columns=st.integers(1, 20_000), multiple=st.sampled_from([1, 8, 64, 128]))
def test_blocks_cover_every_row_once(rows: int, columns: int, multiple: int) -> None:
    blocks = list(row_blocks((rows, columns), multiple))
    assert blocks[0][0] == 0 and blocks[-1][1] == rows
    assert all(a[1] == b[0] for a, b in itertools.pairwise(blocks))
    assert all(start % multiple == 0 for start, _ in blocks)
    assert all((stop - start) * columns <= max(BLOCK_ELEMENTS, multiple * columns) for start, stop in blocks)


@pytest.mark.parametrize(
    "role, quantize, group",
    [
        ("embedding", True, "embedding"),
        ("head", True, "head"),
        ("norm", False, "norm"),
        ("layers.3.attention.query", True, "attention"),
        ("layers.3.attention.query.bias", False, "attention"),
        ("layers.3.attention.query_norm", False, "norm"),
        ("layers.12.mlp.down", True, "mlp"),
        ("layers.12.mlp.norm", False, "norm"),
    ],
)
def test_facts_ride_on_the_role(role: str, quantize: bool, group: str) -> None:
    assert roles.facts(role).quantize is quantize and roles.facts(role).float32 is not quantize
    assert roles.group(role) == group
