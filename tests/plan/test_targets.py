"""Described machines: ours are whole, the user's own are found, wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmops.core import plugins
from slmops.core.errors import CorruptInput, UsageError
from slmops.plan import targets

SHIPPED = "laptop-cpu server-cpu apple-silicon intel-npu android ios raspberry-pi browser nvidia-8gb"
GOOD = """description = "mine"
system = "linux"
arch = "x86_64"
cores = 4
memory_gb = 8
usable = 0.5
bandwidth_gb_s = 20
formats = ["gguf"]
"""


def test_all_that_are_shipped() -> None:
    assert set(targets.names()) >= set(SHIPPED.split())
    for name in targets.names():
        found = targets.load(name)
        assert found.machine.name == name and not found.machine.measured and found.description
        assert 1e9 < found.machine.usable <= max(found.machine.memory, 24e9) and 1e9 < found.machine.bandwidth < 2e12
        assert found.formats and set(found.formats) <= set(plugins.names("formats"))


def test_ones_own_by_folder_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path))
    (tmp_path / "targets").mkdir()
    for name in ("kiosk", "android"):  # a name of ours can be replaced
        (tmp_path / "targets" / f"{name}.toml").write_text(GOOD)
    assert "kiosk" in targets.names() and targets.load("kiosk").machine.usable == 4_000_000_000
    assert targets.load("android").description == "mine"
    assert targets.load(str(tmp_path / "targets" / "kiosk.toml")).formats == ("gguf",)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("cores = 4", "cores = 0", "above 0"),
        ("usable = 0.5", "usable = 1.5", "at most 1"),
        ("cores = 4", 'cores = "four"', "cores"),
        ("cores = 4", "cores = true", "cores"),
        ('system = "linux"\n', "", "system"),
        ("cores = 4", "cores = 4\nspeed = 3", "speed"),
        ("cores = 4", 'cores = 4\nfeatures = ["mmx"]', "mmx"),
        ("cores = 4", "cores = ", "Invalid"),
        ('["gguf"]', '["gguf", "nonsense"]', "nonsense"),
        ("cores = 4", 'cores = 4\naccelerators = ["gpu"]', "accelerators"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, fault: str) -> None:
    path = tmp_path / "mine.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(CorruptInput, match=fault):
        targets.load(str(path))


@pytest.mark.parametrize("name", ["toaster", "../android", "nowhere.toml", ""])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(UsageError):
        targets.load(name)


def test_binary_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(CorruptInput):
        targets.load(str(tmp_path / "b.toml"))
