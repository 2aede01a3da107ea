"""Policy files: what is understood, what is refused and where, and what a policy decides."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from slmops.core import licences
from slmops.core.errors import CorruptInput, PolicyRefused, SourceNotFound
from slmops.registry import policy
from slmops.registry.policy import Identity, Policy

FULL = """
sources: ["hf:Qwen/*", "oci:hub.example/*"]
most_bytes: 20GB
verify: always
require_signature:
  - sources: ["oci:*"]
    keys: [keys/release.pub]
    authorities: [ca.pem]
    identities: [{identity: ci@example.org, issuer: "https://token.example.org"}]
licences: {allow: [Apache-2.0, "LicenseRef-*"], deny: [LicenseRef-gemma], unknown: allow}
approval: {tags: [production, live], gates: [quality], by: [ann], sources: ["oci:hub.example/*"]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_policy(tmp_path: Path) -> None:
    found = policy.read(write(tmp_path, FULL))
    assert found.sources == ("hf:Qwen/*", "oci:hub.example/*") and found.most_bytes == 20 * 10**9
    assert found.verify == "always" and found.allow == ("Apache-2.0", "LicenseRef-*")
    (rule,) = found.require_signature
    assert rule.keys == (tmp_path / "keys/release.pub",) and rule.authorities == (tmp_path / "ca.pem",)
    assert rule.identities == (Identity("ci@example.org", "https://token.example.org"),)
    assert found.approval.tags == ("production", "live") and found.approval.by == ("ann",)


def test_the_schema_is_one_by_its_own_standard() -> None:
    jsonschema.Draft202012Validator.check_schema(policy.schema())


def test_without_a_file_all_is_let_in_and_production_is_kept(tmp_path: Path) -> None:
    found = policy.load(tmp_path)
    found.admit("hf:any/thing")
    found.admit_size("hf:any/thing", 1 << 60)
    found.admit_licence(None, "it")
    assert found.approval.tags == ("production",) and found.signers("hf:any/thing") == [] and found.verify == "once"
    assert policy.read(write(tmp_path, "")) == Policy(path=tmp_path / "policy.yaml")


@pytest.mark.parametrize(
    "text, line, said",
    [
        ("sources: ['hf:a/*']\nsuorces: []", 2, "unknown key 'suorces'"),
        ("verify: sometimes", 1, "'sometimes' is not one of"),
        ("\n\nmost_bytes: 20 apples", 3, "20 apples"),
        ("most_bytes: -1", 1, "-1"),
        ("most_bytes: true", 1, "True"),
        ("sources: [Qwen/*]", 1, "does not match"),
        ("sources: hf:a/*", 1, "not of type 'array'"),
        ("require_signature:\n  - sources: ['*']", 2, "require_signature.0"),
        ("most_bytes: 0GB", 1, "0GB"),
        ("require_signature:\n  - keys: [a]\n  - keys: [a]\n    key: b", 4, "unknown key 'key'"),
        ("require_signature: [{keys: []}]", 1, "should be non-empty"),
        ("licences:\n  allow: [MIT]\n  deny: [1]", 3, "1 is not of type 'string'"),
        ("approval:\n  tags: ['../x']", 2, "does not match"),
        ("- sources", 1, "not of type 'object'"),
        ("sources: [", 1, "expected"),
        ("sources: &x []\napproval: *x", 1, "anchors"),
        ("sources: []\nsources: ['*']", 2, "stands twice"),
        ("? !!python/object/apply:os.system [true]\n: 1", 1, "tags are not taken"),
        ("x: " + "[" * 1000, 1, "too deeply nested"),
    ],
)
def test_what_is_no_policy_is_refused_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(CorruptInput) as caught:
        policy.read(write(tmp_path, text))
    assert f"policy.yaml, line {line}, column " in str(caught.value) and said in str(caught.value)
    assert caught.value.cure


def test_a_near_miss_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput) as caught:
        policy.read(write(tmp_path, "suorces: []"))
    assert caught.value.cure == "is 'sources' meant?"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="more than"):
        policy.read(write(tmp_path, "# " + "x" * (1 << 20)))


def test_the_environment_names_the_file_and_must_lead_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "sources: ['hf:a/*']")
    monkeypatch.setenv("SLMOPS_POLICY", str(tmp_path / "none.yaml"))
    with pytest.raises(SourceNotFound):
        policy.load(tmp_path)
    monkeypatch.setenv("SLMOPS_POLICY", str(tmp_path / "policy.yaml"))
    assert policy.load(tmp_path / "elsewhere").sources == ("hf:a/*",)
    monkeypatch.setenv("SLMOPS_VERIFY", "always")
    assert policy.load(tmp_path).verify == "always"


@pytest.mark.parametrize(
    "origin, let_in",
    [
        ("hf:Qwen/Qwen3-0.6B", True),
        ("hf:qwen/Qwen3-0.6B", False),
        ("hf:QwenX/model", False),
        ("hf:evil/Qwen/x", False),
        ("oci:hub.example/a/b", True),
        ("oci:hub.example.evil.org/a", False),
        ("oci:hub.example/../evil", False),
        ("oci:hub.example/a/%2e%2e/evil", False),
        ("oci:hub.example/a\\..\\evil", False),
        ("file:/srv", False),
        ("", False),
        ("lost:", False),
    ],
)
def test_sources(origin: str, let_in: bool) -> None:
    given = Policy(sources=("hf:Qwen/*", "oci:hub.example/*"))
    if let_in:
        given.admit(origin)
    else:
        with pytest.raises(PolicyRefused, match=r"sources of the policy") as caught:
            given.admit(origin)
        assert caught.value.exit_code == 15 and "hf:Qwen/*" in caught.value.cure


def test_sizes() -> None:
    Policy(most_bytes=100).admit_size("hf:a/b", 100)
    with pytest.raises(PolicyRefused, match="101 B, and 100 B are allowed"):
        Policy(most_bytes=100).admit_size("hf:a/b", 101)


@pytest.mark.parametrize(
    "rules, licence, let_in",
    [
        ({"deny": ("CC-BY-NC-*",)}, "CC-BY-NC-4.0", False),
        ({"deny": ("cc-by-nc-*",)}, "CC-BY-NC-SA-4.0", False),
        ({"deny": ("CC-BY-NC-*",)}, "CC-BY-4.0", True),
        ({"deny": ("CC-BY-NC-*",)}, "MIT OR CC-BY-NC-4.0", False),
        ({"deny": ("GPL-3.0-only",)}, "(GPL-3.0-only WITH Classpath-exception-2.0)", False),
        ({"allow": ("Apache-2.0", "MIT")}, "Apache-2.0", True),
        ({"allow": ("Apache-2.0", "MIT")}, "Apache-2.0 AND MIT", True),
        ({"allow": ("Apache-2.0", "MIT")}, "Apache-2.0 AND LicenseRef-gemma", False),
        ({"allow": ("Apache-2.0",), "deny": ("*",)}, "Apache-2.0", False),
        ({"allow": ()}, "MIT", False),
        ({"unknown": "deny"}, None, False),
        ({"unknown": "allow"}, None, True),
    ],
)
def test_licences(rules: dict[str, object], licence: str | None, let_in: bool) -> None:
    given = Policy(**rules)  # type: ignore[arg-type]
    if let_in:
        given.admit_licence(licence, "it")
    else:
        with pytest.raises(PolicyRefused, match="licences"):
            given.admit_licence(licence, "it")


def test_a_list_of_allowed_licences_denies_what_states_none(tmp_path: Path) -> None:
    assert policy.read(write(tmp_path, "licences: {allow: [MIT]}")).unknown == "deny"
    assert policy.read(write(tmp_path, "licences: {deny: [MIT]}")).unknown == "allow"
    assert policy.read(write(tmp_path, "licences: {allow: [MIT], unknown: allow}")).unknown == "allow"


@pytest.mark.parametrize(
    "text, expected",
    [
        # Left: `license:` of model cards on the Hub (https://huggingface.co/docs/hub/repositories-licenses). Right: SPDX.
        ("apache-2.0", "Apache-2.0"),
        ("mit", "MIT"),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
        ("bsd-3-clause-clear", "BSD-3-Clause-Clear"),
        ("cdla-permissive-2.0", "CDLA-Permissive-2.0"),
        ("etalab-2.0", "etalab-2.0"),
        ("odbl", "ODbL-1.0"),
        ("llama3.2", "LicenseRef-llama3.2"),
        ("bigscience-bloom-rail-1.0", "LicenseRef-bigscience-bloom-rail-1.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Apache License 2.0", "Apache-2.0"),
        ("apache-2.0 or mit", "Apache-2.0 OR MIT"),
        ("LicenseRef-gemma", "LicenseRef-gemma"),
        ("Gemma Terms of Use", "LicenseRef-gemma-terms-of-use"),
        ("../../etc/passwd\n\x1b[2J", "LicenseRef-etc-passwd-2j"),
        ("other", None),
        ("see LICENSE", None),
        ("", None),
        (None, None),
        (["mit"], None),
        ("(" * 300, None),
        ("MIT AND", "LicenseRef-mit-and"),
    ],
)
def test_licence_names(text: object, expected: str | None) -> None:
    assert licences.spdx(text) == expected


def test_signatures_are_asked_of_what_came_from_elsewhere() -> None:
    given = Policy(require_signature=(policy.Signers(("oci:*",)), policy.Signers(("*",))))
    assert len(given.signers("oci:hub/a")) == 2 and len(given.signers("hf:a/b")) == 1
    assert given.signers(policy.HERE) == [] and len(given.signers(policy.LOST)) == 2
