"""The templates are valid, and run end to end on the shipped model; the workflow is one by GitHub's own schema."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import SAMPLE
from needs import needs
from searched import CALM
from slmops import cli
from slmops.pipeline import document, templates
from slmops.registry import Registry, archive

PIPELINES = [name for name in templates.names() if name != "github-actions"]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the sample, and an empty registry."""
    (tmp_path / "samples").symlink_to(SAMPLE.parent, target_is_directory=True)
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["pipeline", "run", f"{name}.yaml", "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_a_template_is_a_pipeline(name: str, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pipeline", "templates", name, "-o", "p.yaml"]) == 0
    found = document.read(Path("p.yaml"))
    assert found.name == name and not found.unset
    assert cli.main(["pipeline", "templates", name, "-o", "p.yaml"]) == 12
    assert cli.main(["pipeline", "templates"]) == 0 and templates.about(name) in capsys.readouterr().out


def steady(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> dict[str, Any]:
    """On a busy machine speeds vary, which gates are for, and a budget buys less: a further run goes on from the last."""
    cli.main(["pipeline", "templates", name, "-o", f"{name}.yaml"])
    for _ in range(4):
        if cli.main(["pipeline", "run", f"{name}.yaml", *words]) == 0:
            break
    return run(name, capsys, *words)


@pytest.mark.slow
@needs("xllamacpp")
def test_quantize_for_a_target(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = steady(capsys, "quantize-for-a-target")
    states = {one["name"]: one["state"] for one in found["steps"]}
    assert states["quantize"] == "recalled" and states["named"] == "made"
    with Registry.open(clone / "home") as registry:
        digest = registry.resolve("home:raspberry-pi")
        assert [one["outputs"]["artifact"] for one in found["steps"] if one["name"] == "quantize"] == [digest]
        assert {kind for _, kind in registry.catalog.attachments(digest)} >= {"measurement", "pipeline"}
        assert any(place.endswith("decode") for _, place, _ in registry.catalog.figures(digest))


@pytest.mark.slow
@needs("xllamacpp", "onnxruntime_genai", "openvino_genai")
def test_compare_engines(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = steady(capsys, "compare-engines")
    steps = {one["name"]: one for one in found["steps"]}
    speeds = {name: steps[name]["outputs"]["measured"]["speed"]["decode"] for name in ("gguf", "onnx", "openvino")}
    assert steps["best"]["outputs"]["format"] == max(speeds, key=lambda name: speeds[name])
    smallest = run("compare-engines", capsys, "--set", "by=size")
    sizes = {name: steps[name]["outputs"]["measured"]["bytes"] for name in speeds}
    chosen = next(one for one in smallest["steps"] if one["name"] == "best")["outputs"]["format"]
    assert chosen == min(sizes, key=lambda name: sizes[name])


@pytest.mark.slow
@needs("xllamacpp")
def test_ci_cd_stages_and_then_promotes(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the workflow does: up to the archive, which another registry takes in; then promotion."""
    calm = ["--set", f"gates={','.join(CALM[1::2])}"]
    cli.main(["pipeline", "templates", "ci-cd", "-o", "ci-cd.yaml"])
    found = run("ci-cd", capsys, "--until", "archive", *calm)
    assert [one["state"] for one in found["steps"]][-3:] == ["not run"] * 3
    with Registry.open(clone / "other") as other, archive.opened(clone / "staged.tar") as source:
        archive.receive(other, source)
        staged = other.resolve("home:staging")
        assert {kind for _, kind in other.catalog.attachments(staged)} >= {"checks", "measurement"}
    with Registry.open(clone / "home") as registry:
        assert registry.resolve("home:staging") == staged and registry.catalog.tags("home") == ["staging"]
    done = run("ci-cd", capsys, *calm)
    assert next(one for one in done["steps"] if one["name"] == "optimized")["state"] == "recalled"
    with Registry.open(clone / "home") as registry:
        assert registry.resolve("home:production") == staged
        assert "approval" in {kind for _, kind in registry.catalog.attachments(staged)}
    assert cli.main(["pipeline", "run", "ci-cd.yaml", "--set", "licences=mit", *calm]) == 13
    assert "the licence apache-2.0" in capsys.readouterr().err


@pytest.mark.slow
@needs("check_jsonschema")
def test_the_workflow_is_one_by_githubs_schema(tmp_path: Path) -> None:
    path = tmp_path / "model.yml"
    path.write_text(templates.load("github-actions"))
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*words, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(path.read_text().replace("runs-on", "run-on"))
    assert subprocess.run([*words, str(path)], capture_output=True, timeout=120).returncode != 0


def test_every_line_of_the_workflow_that_is_ours_parses() -> None:
    jobs = yaml.safe_load(templates.load("github-actions"))["jobs"]
    lines = [line for job in jobs.values() for step in job["steps"] for line in step.get("run", "").splitlines()]
    lines = [line.replace("$PIPELINE", "pipeline.yaml") for line in lines if line.startswith("slmops ")]
    ours = [shlex.split(line) for line in lines]
    assert len(ours) >= 5
    for words in ours:
        cli.parse(words[1:])
    until = next(words[words.index("--until") + 1] for words in ours if "--until" in words)
    assert f"- name: {until}\n" in templates.load("ci-cd")
