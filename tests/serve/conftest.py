"""The sample model as artifacts, converted once for all files here."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import SAMPLE


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slmops import compile as compiler
    from slmops.source import load

    out = tmp_path_factory.mktemp("serve")
    compiler.convert(load(SAMPLE), ["gguf", "onnx", "openvino"], "q8", out, verify=False)
    return out
