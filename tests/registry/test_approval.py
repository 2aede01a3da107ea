"""Approvals: a guarded tag moves only onto an artifact that one who may has approved, on gates that passed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filed import artifact
from slmops.cli import main
from slmops.core.errors import PolicyRefused, UsageError
from slmops.registry import Registry, approval, archive
from slmops.registry.policy import Approval, Policy
from slmops.registry.references import Reference, named

LIVE = named("home:production")
QUALITY = Policy(approval=Approval(gates=("quality",)))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def digest(registry: Registry, tmp_path: Path) -> str:
    return registry.add(artifact(tmp_path / "made"), named("home:v1"))


def verdict(gate: str, passed: bool | None, blocks: bool = True) -> dict[str, Any]:
    return {"gate": gate, "passed": passed, "blocks": blocks, "said": f"{gate} said so"}


def measured(registry: Registry, digest: str, *verdicts: dict[str, Any]) -> str:
    return registry.attach(
        digest, "measurement", {"measured": {}, "verdicts": list(verdicts), "of": len(registry.entries())}
    )


def test_production_needs_an_approval(registry: Registry, digest: str) -> None:
    with pytest.raises(PolicyRefused, match="nobody has approved it") as caught:
        registry.tag("home:v1", LIVE)
    assert caught.value.exit_code == 15 and "slmops models approve" in caught.value.cure
    assert registry.catalog.tagged("home", "production") is None
    approval.approve(registry, digest, "ann")
    registry.tag("home:v1", LIVE)
    assert registry.resolve("home:production") == digest


def test_every_way_to_a_name_is_kept(registry: Registry, digest: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused):
        registry.add(artifact(tmp_path / "new", b"n"), LIVE)
    archive.send(registry, [digest], tmp_path / "out.tar")
    with archive.opened(tmp_path / "out.tar") as source, pytest.raises(PolicyRefused):
        archive.receive(registry, source, rename=LIVE)
    assert {tag for row in registry.rows() for tag in row.tags} == {"home:v1"}
    with archive.opened(tmp_path / "out.tar") as source:
        archive.receive(registry, source, rename=named("home:v2"))


def test_gates_that_block_must_have_passed(registry: Registry, digest: str) -> None:
    measured(registry, digest, verdict("quality", False), verdict("memory", False, blocks=False))
    with pytest.raises(PolicyRefused, match="quality: quality said so"):
        approval.approve(registry, digest, "ann")
    measured(registry, digest, verdict("quality", None))
    with pytest.raises(PolicyRefused, match=r"approval\.gates"):
        approval.approve(registry, digest, "ann")
    measured(registry, digest, verdict("quality", True))
    _, gates = approval.approve(registry, digest, "ann")
    assert {one.gate: one.passed for one in gates} == {"memory": False, "quality": True}
    registry.tag(digest, LIVE)


def test_gates_of_the_policy_must_have_been_measured(registry: Registry, digest: str) -> None:
    given = Policy(approval=Approval(gates=("quality", "stress")))
    with Registry.open(registry.root, policy=given) as strict:
        measured(strict, digest, verdict("quality", True))
        with pytest.raises(PolicyRefused, match=r"stress \(not measured\)"):
            approval.approve(strict, digest, "ann")
    approval.approve(registry, digest, "ann")  # by the rules of then
    with Registry.open(registry.root, policy=given) as strict:
        with pytest.raises(PolicyRefused, match="stands on gates that have not passed"):
            strict.tag(digest, LIVE)
        measured(strict, digest, verdict("stress", True))
        approval.approve(strict, digest, "ann")
        strict.tag(digest, LIVE)


def test_only_who_may(registry: Registry, digest: str) -> None:
    with Registry.open(registry.root, policy=Policy(approval=Approval(by=("ann",)))) as strict:
        with pytest.raises(PolicyRefused, match="may not approve"):
            approval.approve(strict, digest, "bob")
        approval.approve(registry, digest, "bob")
        with pytest.raises(PolicyRefused, match="'bob' may not approve"):
            strict.tag(digest, LIVE)
        approval.approve(strict, digest, "ann")
        strict.tag(digest, LIVE)


@pytest.mark.parametrize("by", ["", "  ", "x" * 3000, "a\x1b[2J", "a\0b"])
def test_who_is_a_text(registry: Registry, digest: str, by: str) -> None:
    with pytest.raises(UsageError):
        approval.approve(registry, digest, by)


def test_rolling_back_needs_no_new_approval(registry: Registry, digest: str, tmp_path: Path) -> None:
    second = registry.add(artifact(tmp_path / "second", b"s"), named("home:v2"))
    for one in (digest, second):
        approval.approve(registry, one, "ann")
        registry.tag(one, LIVE, replace=True)
    registry.tag(digest, LIVE, replace=True)
    assert registry.resolve("home:production") == digest
    third = registry.add(artifact(tmp_path / "third", b"t"), named("home:v3"))
    with pytest.raises(PolicyRefused):
        registry.tag(third, LIVE, replace=True)
    assert registry.resolve("home:production") == digest


def test_other_tags_and_none_at_all(registry: Registry, digest: str) -> None:
    with Registry.open(registry.root, policy=Policy(approval=Approval(tags=("live",)))) as other:
        other.tag(digest, LIVE)
        with pytest.raises(PolicyRefused):
            other.tag(digest, Reference("home", "live"))
    with Registry.open(registry.root, policy=Policy(approval=Approval(tags=()))) as free:
        free.tag(digest, Reference("home", "live"))


def test_an_approval_from_elsewhere_counts_where_it_is_believed(registry: Registry, digest: str, tmp_path: Path) -> None:
    measured(registry, digest, verdict("quality", True))
    approval.approve(registry, digest, "ann")
    registry.tag(digest, LIVE)
    archive.send(registry, [digest], tmp_path / "out.tar")
    with Registry.open(tmp_path / "edge") as edge:
        with archive.opened(tmp_path / "out.tar") as source, pytest.raises(PolicyRefused, match="given elsewhere"):
            archive.receive(edge, source)
        assert not edge.rows() and not list(edge.blobs.all())  # refused before a file of it is fetched
    believing = Policy(approval=Approval(sources=(f"file:{tmp_path}/*",), gates=("quality",)))
    with Registry.open(tmp_path / "edge", policy=believing) as edge, archive.opened(tmp_path / "out.tar") as source:
        archive.receive(edge, source)
        assert edge.resolve("home:production") == digest


def test_figures_from_elsewhere_pass_nothing(registry: Registry, digest: str, tmp_path: Path) -> None:
    measured(registry, digest, verdict("quality", True), verdict("stress", False))
    archive.send(registry, [digest], tmp_path / "out.tar")
    with Registry.open(tmp_path / "edge", policy=QUALITY) as edge, archive.opened(tmp_path / "out.tar") as source:
        archive.receive(edge, source)
        with pytest.raises(PolicyRefused, match=r"quality \(not measured\)"):
            approval.approve(edge, digest, "ann")
        measured(edge, digest, verdict("quality", True))
        approval.approve(edge, digest, "ann")
    with Registry.open(tmp_path / "edge") as edge, pytest.raises(PolicyRefused, match="stress"):
        approval.approve(edge, digest, "ann")  # but what failed elsewhere does


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"by": 7, "measurements": "all"},
        {"by": "ann", "measurements": [7, "sha256:" + "0" * 64, None]},
        {"by": ["ann"], "gates": [{"gate": "quality", "passed": True}]},
    ],
)
def test_an_approval_of_its_own_word_passes_no_gate(registry: Registry, digest: str, document: dict[str, Any]) -> None:
    """What an approval says of gates does not count: the measurements that it names do."""
    registry.attach(digest, "approval", document)
    with Registry.open(registry.root, policy=QUALITY) as strict, pytest.raises(PolicyRefused):
        strict.tag(digest, LIVE)


def test_measurements_of_another_artifact_pass_no_gate(registry: Registry, digest: str, tmp_path: Path) -> None:
    other = registry.add(artifact(tmp_path / "other", b"o"))
    good = measured(registry, other, verdict("quality", True))
    registry.attach(digest, "approval", {"by": "ann", "measurements": [good]})
    with Registry.open(registry.root, policy=QUALITY) as strict, pytest.raises(PolicyRefused, match="not measured"):
        strict.tag(digest, LIVE)


@pytest.mark.parametrize(
    "verdicts",
    ["all", 7, [7], [{"gate": "quality", "passed": "yes"}], [{"passed": 1}], [{"gate": "quality", "blocks": 0}], [[[]]]],
)
def test_hostile_verdicts_pass_nothing(registry: Registry, digest: str, verdicts: Any) -> None:
    registry.attach(digest, "measurement", {"verdicts": verdicts})
    with Registry.open(registry.root, policy=QUALITY) as strict, pytest.raises(PolicyRefused):
        approval.approve(strict, digest, "ann")


def test_licences_are_asked_of_names_and_of_what_comes_in(registry: Registry, tmp_path: Path) -> None:
    made = registry.add(artifact(tmp_path / "nc", b"n", licence="cc-by-nc-4.0"), named("nc:v1"))
    unstated = registry.add(artifact(tmp_path / "un", b"u", licence=None), named("un:v1"))
    archive.send(registry, [made, unstated], tmp_path / "out.tar")
    given = Policy(deny=("CC-BY-NC-*",))
    with Registry.open(registry.root, policy=given) as strict, pytest.raises(PolicyRefused, match=r"licences\.deny"):
        strict.tag("nc:v1", named("nc:v2"))
    with Registry.open(tmp_path / "edge", policy=given) as edge:
        with archive.opened(tmp_path / "out.tar") as source, pytest.raises(PolicyRefused, match="CC-BY-NC-4"):
            archive.receive(edge, source)
        assert not edge.rows() and not list(edge.blobs.all())
        with pytest.raises(PolicyRefused):
            edge.add(artifact(tmp_path / "nc2", b"n", licence="CC-BY-NC-4.0"), named("nc:v1"))
    with (
        Registry.open(registry.root, policy=Policy(unknown="deny")) as strict,
        pytest.raises(PolicyRefused, match="no licence"),
    ):
        strict.tag("un:v1", named("un:v2"))


def test_sizes_and_sources_are_asked_of_what_comes_in(registry: Registry, digest: str, tmp_path: Path) -> None:
    archive.send(registry, [digest], tmp_path / "out.tar")
    for given in (Policy(most_bytes=1000), Policy(sources=("hf:*",)), Policy(sources=())):
        with Registry.open(tmp_path / "edge", policy=given) as edge, archive.opened(tmp_path / "out.tar") as source:
            with pytest.raises(PolicyRefused):
                archive.receive(edge, source)
            assert not list(edge.blobs.all())
    given = Policy(sources=(f"file:{tmp_path}/*",))
    with Registry.open(tmp_path / "edge", policy=given) as edge, archive.opened(tmp_path / "out.tar") as source:
        archive.receive(edge, source)


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    assert main(["models", "add", str(artifact(tmp_path / "made")), "--name", "home:v1"]) == 0
    (tmp_path / "home" / "policy.yaml").write_text("approval: {by: [ann]}\n")
    assert main(["models", "tag", "home:v1", "home:production"]) == 15
    assert main(["models", "approve", "home:v1", "--by", "bob"]) == 15
    capsys.readouterr()
    assert main(["models", "approve", "home:v1", "--by", "ann", "--note", "fine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["by"] == "ann"
    assert main(["models", "tag", "home:v1", "home:production"]) == 0
    assert main(["models", "show", "home:production"]) == 0
    shown = capsys.readouterr().out
    assert "by ann" in shown and "fine" in shown and "Apache-2.0" in shown
    assert main(["models", "policy"]) == 0 and "ann" in capsys.readouterr().out
    (tmp_path / "home" / "policy.yaml").write_text("aproval: {}\n")
    assert main(["models", "policy"]) == 4
    assert "line 1, column 1: unknown key 'aproval'" in capsys.readouterr().err
    assert main(["models", "ls"]) == 0  # what asks nothing of it works on


def test_the_hub_is_asked_for_no_name_that_the_policy_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    (tmp_path / "policy.yaml").write_text("sources: ['hf:Qwen/*']\n")
    monkeypatch.setenv("SLMOPS_POLICY", str(tmp_path / "policy.yaml"))
    assert main(["inspect", "someone/else@main"]) == 15


def test_a_name_that_cannot_be_had_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import SAMPLE

    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    assert main(["convert", str(SAMPLE), "--to", "gguf", "--name", "home:production"]) == 15
    (tmp_path / "home" / "policy.yaml").write_text("licences: {deny: [Apache-2.0]}\n")
    assert main(["convert", str(SAMPLE), "--to", "gguf", "--name", "home:v1"]) == 15
    with Registry.open(tmp_path / "home") as registry:
        assert not registry.rows()


def test_a_strangers_word_is_not_taken_for_our_work(registry: Registry, digest: str, tmp_path: Path) -> None:
    """An artifact that says it is what a step makes does not keep the step from being run."""
    step = registry.manifest(digest).ours("step")
    assert registry.made(step, "gguf") == digest
    archive.send(registry, [digest], tmp_path / "out.tar")
    with Registry.open(tmp_path / "edge") as edge:
        with archive.opened(tmp_path / "out.tar") as source:
            archive.receive(edge, source)
        assert edge.manifest(digest).ours("verified") == "true" and edge.made(step, "gguf") is None
