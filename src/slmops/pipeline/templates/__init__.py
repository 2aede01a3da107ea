"""Pipelines to begin with, and a workflow that runs one: data files; the first line of each says what it is for."""

from __future__ import annotations

from pathlib import Path

from slmops.core.errors import UsageError

FOLDER = Path(__file__).resolve().parent


def names() -> tuple[str, ...]:
    """All there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> str:
    """The text of one. Raises UsageError."""
    if name not in names():
        raise UsageError(f"there is no template {name!r}", f"one of: {', '.join(names())}")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def about(name: str) -> str:
    """Its first line."""
    return load(name).partition("\n")[0].removeprefix("#").strip()
