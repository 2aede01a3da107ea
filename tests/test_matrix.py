"""Any to any: the matrix of readers, schemes and writers, tried out cell by cell and printed in docs/matrix.md."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import matrix
from needs import needs

pytestmark = [pytest.mark.slow, needs("torch", "compressed_tensors", "mlx", "onnxruntime", "openvino")]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "matrix.md"
cell = functools.cache(matrix.cell)


@pytest.mark.parametrize("writer", matrix.WRITERS)
@pytest.mark.parametrize("name", sorted({name for _, name in matrix.rows()}))
def test_a_cell_is_what_its_own_software_decodes(name: str, writer: str) -> None:
    assert cell(name, writer) in ("exact", "conditional", "unsupported")


@pytest.mark.parametrize("writer", matrix.WRITERS)
@pytest.mark.parametrize("name", ["q4_k", "int3-g64-bias-bf16", "int8-g32-zero-f32", "ternary-f32"])
def test_every_refusal_has_a_way_out(name: str, writer: str, tmp_path: Path) -> None:
    matrix.requantized(name, writer, tmp_path / "out")


def test_the_document_is_the_matrix() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert matrix.table(cell) in text, "print it anew: see docs/matrix.md"
