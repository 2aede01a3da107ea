"""docs/families.md is what the code says."""

from pathlib import Path

import families

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "families.md"


def test_the_document_is_the_table() -> None:
    assert families.table() in DOCUMENT.read_text(encoding="utf-8"), "print it anew: see docs/families.md"
