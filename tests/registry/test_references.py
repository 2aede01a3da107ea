"""What a user types is a name or a digest, and never a path."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slmops.core.errors import CorruptInput, UsageError
from slmops.registry import references
from slmops.registry.references import Reference

HOSTILE = [
    "../x", "x/../y", "x/..", "/etc/passwd", "x\\y", "x%2e%2e", "x\0y", "x\n", "X", "é", "x//y", "x/", "-x", "x-", "x:",
    ":x", "",
    "x:a/b", "x:../y", "x:.a", "x:-a", "x:" + "a" * 129, "a" * 201, "c:\\x", "x y", "x;y", "$(x)", "x:a\n",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_name_is_refused_with_one_that_is(text: str) -> None:
    assert references.parse(text) is None
    with pytest.raises(UsageError) as refused:
        references.named(text)
    assert "q4" in refused.value.cure


@pytest.mark.parametrize("text", ["x", "home:q4", "org/model-1.5:Q4_K_M", "a__b/c---d:_x.y-z", "localhost/x:1"])
def test_names_are_those_of_oci(text: str) -> None:
    found = references.named(text)
    assert str(found) == (text if ":" in text else f"{text}:latest")


@given(st.text(max_size=40))
@example("a/../b")
def test_every_name_that_passes_is_harmless(text: str) -> None:
    found = references.parse(text)
    if found is not None:
        for part in (*found.name.split("/"), found.tag):
            assert part and part.isascii() and not part.startswith((".", "-")) and "\\" not in part and part != ".."


@given(st.text(alphabet="0123456789abcdefABCDEF:sha256./\\\n", max_size=80))
def test_only_64_digits_are_a_digest(text: str) -> None:
    with pytest.raises(CorruptInput):
        references.digest(text if len(text) != 71 else text + "x")


def test_a_digest() -> None:
    assert references.digest("sha256:" + "0a" * 32)
    with pytest.raises(CorruptInput):
        references.digest("sha256:" + "0a" * 32 + "\n")
    with pytest.raises(UsageError):
        references.named("sha256:" + "0a" * 32)


@given(st.text(max_size=300))
def test_a_slug_is_a_name(text: str) -> None:
    assert references.named(references.slug(text)) == Reference(references.slug(text))
