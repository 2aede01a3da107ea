"""What the library's verbs open besides paths."""

from __future__ import annotations

from pathlib import Path

import pytest

import slmops
from conftest import SAMPLE
from needs import needs
from slmops.core.errors import SourceNotFound
from slmops.registry import Registry, references


@pytest.mark.slow
@needs("xllamacpp")
def test_names_of_the_registry_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    with pytest.raises(SourceNotFound):
        slmops.load("home:src")
    with Registry.open() as registry:
        registry.add(SAMPLE, references.named("home:src"))
    slmops.convert(slmops.load("home:src"), ["gguf"], "q8", tmp_path / "q8", verify=False)
    with Registry.open() as registry:
        registry.add(next(path.parent for path in (tmp_path / "q8").rglob("slmops.json")), references.named("home:q8"))
    assert "llamacpp" in slmops.verify("home:q8", engines=["llamacpp"])["engines"]
    said = "".join(slmops.generate("home:q8", "please set the kitchen light to 30 percent", engine="llamacpp"))
    assert said == '{"tool": "set_light", "arguments": {"room": "kitchen", "level": 30}}'
    with pytest.raises(SourceNotFound, match="no artifact home:q9"):
        list(slmops.generate("home:q9", "x"))
