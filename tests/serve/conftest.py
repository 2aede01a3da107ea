"""The sample model as artifacts, converted once for all files here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import SAMPLE
from serve.serving import serving


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slmops import compile as compiler
    from slmops.source import load

    out = tmp_path_factory.mktemp("serve")
    compiler.convert(load(SAMPLE), ["gguf", "onnx", "openvino"], "q8", out, verify=False)
    return out


@pytest.fixture(scope="session")
def server(made: Path) -> Iterator[str]:
    """The address of a server of the sample on three engines: home (GGUF), onnx, openvino."""
    with serving(f"home={made / 'gguf'}", made / "onnx", made / "openvino", "--context", "256") as (url, _):
        yield url
