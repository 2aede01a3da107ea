"""slmops doctor: what it says, and whether what it tells people to type is right."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from needs import needs
from slmops import cli
from slmops.core import plugins
from slmops.core.errors import EngineFailed
from slmops.engines import _installed, _openvino

ROOT = Path(__file__).resolve().parent.parent.parent


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def extra(name: str) -> set[str]:
    """Distributions of an extra of pyproject.toml, those of the extras that it names too."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][name]
    found = set()
    for each in listed:
        inner = re.fullmatch(r"slmops\[(.+)\]", each)
        found |= set().union(*map(extra, inner[1].split(","))) if inner else {re.split(r"[\[<>=;! ]", each)[0]}
    return found


@pytest.mark.parametrize("name", [name for name in plugins.names("engines") if name != "llamaserver"])
def test_the_command_that_installs_an_engine(name: str) -> None:
    """What is typed brings the distribution whose version is quoted, and every module that is looked for."""
    module = plugins.load("engines", name)
    (wanted,) = re.findall(r'^pip install "slmops\[(.+)\]"$', _installed.install_command(name))
    brought = extra(wanted)
    assert module.PACKAGE in brought
    owners = metadata.packages_distributions()
    for one in module.MODULES:
        if one in owners:  # installed here
            assert {each.lower() for each in owners[one]} & {each.lower() for each in brought}, one


def test_the_doctors_own_commands_name_extras_that_exist() -> None:
    lines = (ROOT / "src" / "slmops" / "cli" / "doctor.py").read_text()
    assert all(extra(name) for name in re.findall(r"slmops\[(\w+)\]", lines))


@needs("openvino")
@pytest.mark.slow
def test_openvinos_devices_are_asked_in_a_child(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "doctor", "--json"))
    assert "CPU" in found["openvino"]["devices"]
    assert "OpenVINO" in said(capsys, "doctor")


@pytest.mark.slow
@needs("openvino")
@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("import time; time.sleep(60)", "within"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "-11"),
        ("raise SystemExit('no driver')", "no driver"),
        ("print('[')", "failed"),
    ],
)
def test_a_driver_that_hangs_or_crashes_does_not_take_the_doctor_with_it(
    script: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_openvino, "_ASK", script)
    with pytest.raises(EngineFailed, match=fault):
        _openvino.devices(seconds=3)


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "doctor")
    for words in ("processor", "bandwidth", "llamacpp", "onnxruntime", "openvino", "raspberry-pi"):
        assert words in shown
    found = json.loads(said(capsys, "doctor", "--json"))
    assert {one["name"] for one in found["engines"]} >= {"llamacpp", "mlx", "transformers"}
    for one in found["engines"]:
        assert (one["version"] is None) == (one["install"] is not None)
    described = json.loads(said(capsys, "doctor", "--json", "--target", "ios"))
    assert described["machine"]["system"] == "ios" and described["engines"] == []
