"""What a test file must find installed; found without importing it, so that collecting costs nothing."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips, and says what is missing, unless every module is installed."""
    absent = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}; pip install -e '.[dev]'")
