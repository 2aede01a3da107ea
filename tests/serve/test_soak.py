"""Twenty seconds of bench/soak.py."""

from __future__ import annotations

from pathlib import Path

import pytest

import soaking
from conftest import SAMPLE
from needs import needs

pytestmark = [pytest.mark.slow, needs("openai", "starlette", "uvicorn", "xllamacpp", "onnxruntime_genai")]


def test_twenty_seconds(tmp_path: Path) -> None:
    seen = soaking.soak(tmp_path, SAMPLE, 20.0, at_once=6, every=1.0, seed=1)
    assert not seen.wrong and not seen.malformed
    assert seen.busy == 0 and seen.answered > 50 and seen.left > 0
    assert seen.kills > 2 and seen.moves > 2 and seen.evictions > 0 and seen.restarts > 0
