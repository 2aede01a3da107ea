"""Twenty seconds of bench/soak.py."""

from __future__ import annotations

from pathlib import Path

import pytest

import soaking
from conftest import SAMPLE
from needs import needs

pytestmark = [pytest.mark.slow, needs("openai", "starlette", "uvicorn", "xllamacpp", "onnxruntime_genai")]


def test_twenty_seconds(tmp_path: Path) -> None:
    seen = soaking.soak(tmp_path, SAMPLE, 20.0, at_once=6, every=2.0, seed=1)
    assert not seen.wrong and not seen.late and not seen.malformed
    assert seen.busy == 0 and seen.orphans == 0
    # How much there is of each hangs on how busy the machine is; that there is something of each does not.
    assert seen.answered > 5 and seen.kills > 0 and seen.moves > 0 and seen.evictions > 0 and sum(seen.refused.values()) > 0
