"""What runs and what is recalled: with kinds of steps that need no model and no engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import children
import stepkinds
from needs import needs
from ociregistry import needs_registry, serve
from slmops import cli
from slmops.core import plugins
from slmops.core.errors import CorruptInput, GateFailed, NoSpace, PolicyRefused, SourceNotFound, Unreachable, UsageError
from slmops.pipeline.records import Records
from slmops.registry import Registry, fsck, lineage, remotes, signing

TESTS = Path(__file__).resolve().parents[1]
CHAIN = """
pipeline: chain
parameters:
  letter: {type: string, default: b}
  open: {type: boolean, default: true}
steps:
  - name: first
    make: {fill: a, text: words.txt}
  - name: second
    make: {fill: "${parameters.letter}", of: "${steps.first.artifact}", number: "${steps.first.count}"}
  - name: other
    make: {fill: "${steps.first.letters}-o"}
  - name: door
    refuse: {of: "${steps.second.artifact}", open: "${parameters.open}"}
  - name: last
    make: {fill: z, of: "${steps.second.artifact}"}
  - name: named
    tag: {artifact: "${steps.last.artifact}", name: "chain:${parameters.letter}", move: true}
  - name: archive
    export: {artifacts: ["${steps.named.artifact}"], out: "out/${steps.first.letters}.tar"}
"""
Said = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry and a folder to work in, and the kinds `make` and `refuse` as a package outside adds them."""
    monkeypatch.syspath_prepend(str(stepkinds.install(tmp_path / "site")))
    for known in (plugins.names, plugins._outside, plugins._listings):
        known.cache_clear()
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "words.txt").write_text("some words")
    (tmp_path / "chain.yaml").write_text(CHAIN)
    yield tmp_path / "home"
    for name in [name for name in sys.modules if name.startswith("toykinds")]:
        del sys.modules[name]
    for known in (plugins.names, plugins._outside, plugins._listings):
        known.cache_clear()


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    def asked(*words: str, code: int = 0) -> Any:
        assert cli.main(["pipeline", "run", "--json", *words]) == code
        return json.loads(capsys.readouterr().out)

    return asked


def states(found: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in found["steps"]}


def ran(home: Path) -> str:
    return "".join((home / "ran").read_text().split())


def test_a_step_runs_once(run: Said, home: Path) -> None:
    found = run("chain.yaml")
    assert set(states(found).values()) == {"made"} and found["state"] == "passed" and ran(home) == "aba-oz"
    assert (home.parent / "out" / "a.tar").is_file()
    again = run("chain.yaml")
    assert [name for name, state in states(again).items() if state == "recalled"] == ["first", "second", "other", "last"]
    assert ran(home) == "aba-oz" and again["digest"] == found["digest"]
    assert [one["key"] for one in again["steps"]] == [one["key"] for one in found["steps"]]
    # Another parameter, and another file: only what they lead to is made again.
    run("chain.yaml", "--set", "letter=c")
    assert ran(home) == "aba-ozcz"
    (home.parent / "words.txt").write_text("other words")
    run("chain.yaml")
    assert ran(home) == "aba-ozcza"  # the same bytes came of it, so what was made of them stands
    run("chain.yaml", "--force")
    assert ran(home) == "aba-ozczaaba-oz"


def test_what_was_made_is_filed_with_its_lineage_and_the_receipt(run: Said, home: Path) -> None:
    found = run("chain.yaml", "--receipt", "receipt.json")
    assert json.loads((home.parent / "receipt.json").read_text()) == found
    run("chain.yaml")
    with Registry.open(home) as registry:
        digest = registry.resolve("chain:b")
        made = {one["name"]: one["outputs"].get("artifact") for one in found["steps"]}
        edges = {(one.child, one.parent) for one in lineage.edges(registry, digest)}
        assert {(made["last"], made["second"]), (made["second"], made["first"])} <= edges and made["last"] == digest
        # The second run made nothing, so it says nothing new of the artifact.
        (attached,) = [one for one, kind in registry.catalog.attachments(digest) if kind == "pipeline"]
        document = registry.document(registry.manifest(attached).layers[0].blob)
    assert document["pipeline"] == "chain" and document["parameters"] == {"letter": "b", "open": True}
    assert states(document) == states(found) and document["machine"]["cores"] == os.cpu_count()
    assert fsck.check(home).sound


def test_nothing_below_a_gate_that_is_not_met(run: Said, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pipeline", "run", "chain.yaml", "--set", "open=false", "--receipt", "receipt.json"]
    assert cli.main(words) == GateFailed.exit_code
    said = capsys.readouterr()
    assert "chain.yaml, line 13, step 'door': the door is shut" in said.err and "x the door: it is as it is" in said.out
    found = json.loads((home.parent / "receipt.json").read_text())
    assert states(found) == {"first": "made", "second": "made", "other": "made", "door": "failed", "last": "not run",
                             "named": "not run", "archive": "not run"}  # fmt: skip
    assert (
        found["state"] == "failed"
        and found["fault"]["step"] == "door"
        and found["steps"][3]["verdicts"][0]["passed"] is False
    )
    assert ran(home) == "aba-o"
    with Registry.open(home) as registry:
        assert not registry.catalog.tags("chain")
    assert states(run("chain.yaml"))["second"] == "recalled" and ran(home) == "aba-oz"


def test_a_dry_run_makes_nothing(run: Said, home: Path) -> None:
    found = run("chain.yaml", "--dry-run")
    assert states(found) == {"first": "runs", "second": "waits", "other": "waits", "door": "waits", "last": "waits",
                             "named": "waits", "archive": "waits"}  # fmt: skip
    assert not (home / "ran").exists() and not list((home / "blobs" / "sha256").iterdir())
    run("chain.yaml", "--until", "second")
    found = run("chain.yaml", "--dry-run")
    assert states(found) == {"first": "recalled", "second": "recalled", "other": "runs", "door": "runs", "last": "runs",
                             "named": "waits", "archive": "waits"}  # fmt: skip
    assert ran(home) == "ab" and states(run("chain.yaml", "--dry-run", "--force"))["first"] == "runs"


def test_a_record_whose_artifact_is_gone_counts_for_nothing(run: Said, home: Path) -> None:
    found = run("chain.yaml", "--until", "second")
    with Registry.open(home) as registry:
        registry.blobs.path(found["steps"][1]["outputs"]["artifact"]).unlink()
        registry.reindex()
    run("chain.yaml", "--until", "second")
    assert ran(home) == "abb"
    for record in (home / "steps").glob("*.json"):
        record.write_text("{")
    assert states(run("chain.yaml", "--until", "second"))["first"] == "made" and ran(home) == "abbab"


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(run: Said, home: Path) -> None:
    """In a process of its own, which the third step kills."""
    text = CHAIN.replace('fill: "${steps.first.letters}-o"', 'fill: "${steps.first.letters}-o", killed: out/killed')
    (home.parent / "chain.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "slmops", "pipeline", "run", "chain.yaml", "--receipt", "receipt.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -9 and ran(home) == "aba-o" and not (home.parent / "receipt.json").exists()
    found = run("chain.yaml")
    assert states(found)["first"] == states(found)["second"] == "recalled" and ran(home) == "aba-oa-oz"
    assert fsck.check(home).sound


@pytest.mark.slow
def test_an_interrupted_run_says_so(run: Said, home: Path) -> None:
    text = CHAIN.replace('fill: "${steps.first.letters}-o"', 'fill: "${steps.first.letters}-o", killed: out/x, number: 2')
    (home.parent / "chain.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "slmops", "pipeline", "run", "chain.yaml", "--receipt", "receipt.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 130 and "interrupted" in done.stderr and "Traceback" not in done.stderr
    found = json.loads((home.parent / "receipt.json").read_text())
    assert found["state"] == "interrupted" and states(found)["second"] == "made" and states(found)["other"] == "not run"
    assert not list((home / "scratch").iterdir()) and run("chain.yaml")["state"] == "passed"


def test_what_a_step_worked_in_stays_until_it_is_done_or_a_week_old(home: Path) -> None:
    kept = Records(home)
    folder = kept.work("ab")
    (folder / "x").touch()
    kept.sweep()
    assert kept.work("ab") == folder and (folder / "x").exists()
    kept.keep({"key": "ab", "outputs": {}, "said": "", "verdicts": [], "seconds": 0})
    assert not folder.exists() and kept.recall("ab") is not None and kept.recall("cd") is None
    os.utime(kept.work("cd"), (0, 0))
    kept.sweep()
    assert not (home / "steps" / "cd.work").exists()


def strace() -> bool:
    """Some sandboxes have strace and forbid what it does."""
    return (
        shutil.which("strace") is not None
        and not subprocess.run(["strace", "-qq", "true"], capture_output=True, timeout=60).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not strace(), reason="strace does not work here: crashes at system calls are NOT tested")
@pytest.mark.parametrize("number", [1, 4, 9, 14, 19, 24, 29])
def test_a_kill_at_any_rename_loses_no_step_that_was_done(run: Said, home: Path, number: int) -> None:
    """What has a record when the process dies is recalled; the rest is made; the registry is sound."""
    words = [sys.executable, "-B", "-m", "slmops", "pipeline", "run", "chain.yaml"]
    kill = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e", f"inject=rename:signal=KILL:when={number}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*kill, *words], env=environment, capture_output=True, timeout=120)
    records = len(list((home / "steps").glob("*.json"))) if (home / "steps").is_dir() else 0
    found = run("chain.yaml")
    assert found["state"] == "passed" and list(states(found).values()).count("recalled") == records
    assert fsck.check(home).sound


@pytest.mark.slow
def test_a_full_disk_and_a_folder_that_is_not_there(run: Said, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_words = ["pipeline", "run", "chain.yaml"]
    full = subprocess.run(
        children.limited(60_000, sys.executable, "-m", "slmops", *run_words),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert full.returncode == NoSpace.exit_code and "no space left" in full.stderr
    run("chain.yaml", "--until", "first")
    assert cli.main([*run_words, "--receipt", "nowhere/r.json"]) == SourceNotFound.exit_code
    assert cli.main(["pipeline", "run", "nowhere.yaml"]) == SourceNotFound.exit_code
    assert cli.main([*run_words, "--until", "x"]) == UsageError.exit_code
    assert cli.main([*run_words, "--executor", "spark"]) == UsageError.exit_code
    (home.parent / "words.txt").unlink()
    capsys.readouterr()
    assert cli.main(run_words) == SourceNotFound.exit_code
    assert "chain.yaml, line 7, step 'first': there is no file" in capsys.readouterr().err
    (home.parent / "p.yaml").write_text(
        "pipeline: p\nparameters: {a: {type: string}}\nsteps: [{name: a, make: {fill: '${parameters.a}'}}]"
    )
    assert cli.main(["pipeline", "run", "p.yaml"]) == UsageError.exit_code
    assert "--set a=..." in capsys.readouterr().err
    assert cli.main(["pipeline", "check", "p.yaml"]) == 0 and "--set must give a" in capsys.readouterr().out
    (home.parent / "p.yaml").write_text("pipeline: p\nsteps: [{name: a, maek: {}}]")
    assert cli.main(["pipeline", "check", "p.yaml", "--json"]) == CorruptInput.exit_code
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert (fault["line"], fault["column"]) == (2, 19) and "did you mean 'make'?" in fault["cure"]


def test_what_is_somebodys_own_is_not_replaced_by_an_export(
    run: Said, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.parent / "out" / "mine").write_text("mine")
    text = CHAIN.replace('out: "out/${steps.first.letters}.tar"', "out: out")
    (home.parent / "chain.yaml").write_text(text)
    assert cli.main(["pipeline", "run", "chain.yaml"]) == 12
    assert (home.parent / "out" / "mine").read_text() == "mine"


@pytest.mark.slow
def test_two_runs_at_once_make_a_step_once(home: Path) -> None:
    words = [sys.executable, "-m", "slmops", "pipeline", "run", "chain.yaml"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for one in both:
        assert one.wait(timeout=120) == 0, one.stderr and one.stderr.read()
        assert one.stdout and one.stderr
        one.stdout.close()
        one.stderr.close()
    assert sorted(ran(home)) == sorted("aba-oz")


TRUSTED = """
pipeline: trusted
parameters:
  key: {type: path, default: release.pem}
  place: {type: string, default: "oci:127.0.0.1:9/none:x"}
steps:
  - name: made
    make: {fill: a, text: words.txt}
  - name: signed
    sign: {artifact: "${steps.made.artifact}", key: "${parameters.key}"}
  - name: approved
    approve: {artifact: "${steps.signed.artifact}", by: robin, note: "as agreed"}
  - name: live
    tag: {artifact: "${steps.approved.artifact}", name: "chain:production"}
  - name: sent
    push: {artifact: "${steps.live.artifact}", to: "${parameters.place}"}
"""


@pytest.mark.slow
@needs("model_signing")
@needs_registry
def test_sign_approve_promote_and_push(home: Path, run: Said, tmp_path: Path) -> None:
    (tmp_path / "trusted.yaml").write_text(TRUSTED)
    unapproved = TRUSTED.replace("  - name: approved\n", "").replace(
        '    approve: {artifact: "${steps.signed.artifact}", by: robin, note: "as agreed"}\n', ""
    )
    (tmp_path / "unapproved.yaml").write_text(unapproved.replace("steps.approved.", "steps.signed."))
    signing.make_key(tmp_path / "release.pem", None)
    run("unapproved.yaml", code=PolicyRefused.exit_code)
    run("trusted.yaml", code=Unreachable.exit_code)
    with serve(tmp_path / "there") as server:
        done = run("trusted.yaml", "--set", f"place=oci:{server.host}/live:v1")
        assert done["steps"][-1]["outputs"]["place"] == f"oci:{server.host}/live:v1"
        with Registry.open(tmp_path / "other") as other:
            remotes.pull(other, f"oci:{server.host}/live:v1", remotes.Wanted())
            digest = other.resolve("live:v1")
            assert {kind for _, kind in other.catalog.attachments(digest)} >= {"signature", "approval"}
    with Registry.open(home) as registry:
        assert registry.resolve("chain:production") == digest
