"""Bills of materials against CycloneDX's strict schema, cards by the Hub's own client."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filed import artifact
from needs import needs
from slmops.cli import main
from slmops.core import licences
from slmops.registry import Registry, approval, archive, bom, card, described, documents, manifest
from slmops.registry.blobs import Blob
from slmops.registry.references import named

HOSTILE = "\x1b[2J\0</script>| `x` [a](javascript:alert(1))\n---\nlicense: mit\n" + "y" * 5000
MEASURED = {
    "engine": "llamacpp",
    "quality": {
        "kl": {"value": 0.0123, "low": 0.011, "high": 0.014, "samples": 10, "clusters": 2},
        "retained": {"value": 0.98, "low": 0.97, "high": 0.99, "samples": 10, "clusters": 2},
        "perplexity": {"value": 3.5, "low": 3.4, "high": 3.6, "samples": 10, "clusters": 2},
    },
    "speed": {"decode": 120.5, "first_token": 0.01},
    "peak": 123_456_789,
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as opened:
        yield opened


def fault(document: dict[str, Any]) -> object:
    """By the strict schema that cyclonedx-python-lib bundles; an IRI must be a URI (RFC 3986) to us."""
    import jsonschema
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from rfc3986_validator import validate_rfc3986

    formats = jsonschema.Draft7Validator.FORMAT_CHECKER
    assert "date-time" in formats.checkers
    formats.checks("iri-reference")(lambda value: bool(validate_rfc3986(value, rule="URI_reference")))
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


def valid(document: dict[str, Any]) -> dict[str, Any]:
    error = fault(document)
    assert error is None, error
    return document


def foreign(registry: Registry, config: dict[str, Any], annotations: dict[str, str] | None = None) -> str:
    """A ModelPack artifact that another tool made: no receipt."""
    with registry.writing():
        weights = registry.blobs.put(b"weights")
        held = registry.blobs.put(json.dumps(config).encode())
        descriptor = {"mediaType": manifest.CONFIG, "digest": held.digest, "size": held.size}
        layer = {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": weights.digest,
            "size": weights.size,
            "annotations": {manifest.FILEPATH: "model.safetensors"},
        }
        value = {"schemaVersion": 2, "mediaType": manifest.MANIFEST, "artifactType": manifest.MODEL, "config": descriptor,
                 "layers": [layer], "annotations": annotations or {}}  # fmt: skip
        content = manifest.canonical(value)
        registry.blobs.put(content)
        registry.commit([manifest.parse(content)], {}, replace=False)
    return Blob.of(content).digest


def both(registry: Registry, digest: str) -> tuple[dict[str, Any], str]:
    one = described.describe(registry, digest)
    return bom.bom(one), card.card(one)


@needs("cyclonedx", "jsonschema", "rfc3986_validator", "rfc3339_validator")
def test_the_bill_says_what_it_is_what_it_was_made_from_and_what_it_costs(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "made"), named("home:v1"))
    registry.attach(digest, "measurement", {
        "measured": MEASURED,
        "verdicts": [{"gate": "quality", "passed": True, "blocks": True, "said": "0.98, at least 0.95 is asked"}],
        "machine": {"processor": "Some CPU", "cores": 8, "system": "Linux x86_64"},
    })  # fmt: skip
    approval.approve(registry, digest, "ann")
    component = valid(both(registry, digest)[0])["metadata"]["component"]
    assert component["type"] == "machine-learning-model" and component["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    files = {one["name"]: one["hashes"][0]["content"] for one in component["components"]}
    assert files == {one.path: one.blob.digest[7:] for one in registry.manifest(digest).layers}
    (ancestor,) = component["pedigree"]["ancestors"]
    assert ancestor["name"] == "org/Toy@main" and ancestor["purl"] == "pkg:huggingface/org/Toy@c0ffee"
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0]["confidenceInterval"] == {"lowerBound": "0.011", "upperBound": "0.014"} and len(metrics) == 6
    assert component["modelCard"]["considerations"]["performanceTradeoffs"][0].startswith("q4: KL divergence")
    properties = {one["name"]: one["value"] for one in component["properties"]}
    assert properties["slmops:quantization"] == "q4" and properties["slmops:gate:quality"].startswith("passed")
    assert properties["slmops:approval"].startswith("ann")


@needs("cyclonedx", "jsonschema", "rfc3986_validator", "rfc3339_validator")
def test_addresses_and_times_are_looked_at(registry: Registry, tmp_path: Path) -> None:
    document = valid(both(registry, registry.add(artifact(tmp_path / "made")))[0])
    wrong = {**document, "externalReferences": [{"type": "other", "url": "no address"}]}
    assert fault(wrong) and fault({**document, "metadata": {**document["metadata"], "timestamp": "yesterday"}})


@needs("cyclonedx", "packageurl", "rfc3986_validator", "rfc3339_validator")
def test_package_urls_are_such(registry: Registry, tmp_path: Path) -> None:
    from packageurl import PackageURL

    for number, revision in enumerate(("C0FFEE", "refs/pr/1", "")):
        source = {"path": "/x", "hub": "org/Toy@main", "revision": revision}
        digest = registry.add(artifact(tmp_path / str(number), str(number).encode(), source=source))
        (ancestor,) = valid(both(registry, digest)[0])["metadata"]["component"]["pedigree"]["ancestors"]
        found = PackageURL.from_string(ancestor["purl"])
        assert (found.type, found.namespace, found.name) == ("huggingface", "org", "Toy")
        assert found.version == (revision.lower() or "main")


@needs("cyclonedx", "jsonschema", "rfc3986_validator", "rfc3339_validator")
def test_every_licence_of_spdx_is_one_to_the_schema() -> None:
    import cyclonedx.schema
    from packaging.licenses._spdx import LICENSES

    path = Path(cyclonedx.schema.__file__).with_name("_res") / "spdx.SNAPSHOT.schema.json"
    known = set(json.loads(path.read_text())["enum"])
    for licence in LICENSES.values():
        assert licences.spdx(licence["id"].lower()) in known


@needs("cyclonedx", "jsonschema", "rfc3986_validator", "rfc3339_validator")
@pytest.mark.parametrize(
    "stated, entries",
    [
        ("mit", [{"license": {"id": "MIT"}}]),
        ("llama3.2", [{"license": {"name": "llama3.2"}}]),
        ("MIT OR Apache-2.0", [{"expression": "MIT OR Apache-2.0"}]),
        ("gpl-3.0-only with classpath-exception-2.0", [{"expression": "GPL-3.0-only WITH Classpath-exception-2.0"}]),
        (None, None),
    ],
)
def test_licences_in_the_bill(registry: Registry, tmp_path: Path, stated: str | None, entries: Any) -> None:
    digest = registry.add(artifact(tmp_path / "made", licence=stated))
    assert valid(both(registry, digest)[0])["metadata"]["component"].get("licenses") == entries


@needs("cyclonedx", "jsonschema", "rfc3986_validator", "rfc3339_validator")
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"descriptor": 7, "config": [], "modelfs": None},
        {"descriptor": {"licenses": "MIT", "name": HOSTILE, "family": HOSTILE, "sourceURL": "javascript:alert(1)"}},
        {"descriptor": {"licenses": [HOSTILE, 7, None]}, "config": {"paramSize": HOSTILE, "format": HOSTILE}},
        {"descriptor": {"licenses": ["MIT", "Apache-2.0 OR BSD-3-Clause"], "revision": HOSTILE}},
    ],
)
def test_a_strangers_artifact_has_both(registry: Registry, config: dict[str, Any]) -> None:
    annotations = {"dev.slmops.inputs": json.dumps([[HOSTILE, HOSTILE, HOSTILE], ["source", "x", "org/a"]]),
                   "dev.slmops.name": HOSTILE, "dev.slmops.scheme": HOSTILE}  # fmt: skip
    for given in (None, annotations):
        digest = foreign(registry, config, given)
        registry.attach(digest, "measurement", {"measured": HOSTILE, "verdicts": [{"gate": HOSTILE, "said": HOSTILE}]})
        registry.attach(digest, "measurement", {"measured": {"engine": HOSTILE, "peak": 7, "quality": [1]}})
        made, text = both(registry, digest)
        valid(made)
        assert "javascript:" not in json.dumps(made["metadata"]["component"].get("externalReferences", []))
        read(text)
        assert text.replace("\n", "").isprintable() and "\n---\nlicense: mit" not in text
        body = text.split("\n---\n", 1)[1]
        assert not re.search(r"(?<!\\)(\]\(javascript|</script)", body)


def read(text: str) -> Any:
    """As the Hub's client reads it."""
    from huggingface_hub import ModelCard

    return ModelCard(text).data


@needs("huggingface_hub")
def test_the_card_is_one_to_the_hub(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "made"))
    registry.attach(digest, "measurement", {"measured": MEASURED})
    text = both(registry, digest)[1]
    data = read(text)
    assert data.license == "apache-2.0" and data.base_model == "org/Toy" and data.base_model_relation == "quantized"
    assert data.pipeline_tag == "text-generation" and {"gguf", "q4", "slmops"} <= set(data.tags)
    results = {one.metric_type: one.metric_value for one in data.eval_results}
    assert results == {"quality.kl": 0.0123, "quality.retained": 0.98, "quality.perplexity": 3.5}
    for said in ("## How it was made", "`slmops convert`", "0.011 to 0.014", "123 MB", "## Limits", digest):
        assert said in text
    data = read(both(registry, registry.add(artifact(tmp_path / "llama", b"l", licence="llama3.2")))[1])
    assert (data.license, data.license_name) == ("other", "llama3.2")
    assert read(both(registry, registry.add(artifact(tmp_path / "none", b"0", licence=None)))[1]).license is None


def test_equal_artifacts_have_equal_documents_and_one_of_each(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "made"), named("home:v1"))
    with Registry.open(tmp_path / "other") as other:
        other.add(artifact(tmp_path / "again"), named("elsewhere:v7"))
        assert both(registry, digest) == both(other, digest)
    documents.write(registry, digest)
    before = registry.entries()
    documents.write(registry, digest)
    assert registry.entries() == before
    registry.attach(digest, "measurement", {"measured": MEASURED})
    documents.write(registry, digest)
    kinds = sorted(kind for _, kind in registry.catalog.attachments(digest))
    assert kinds == ["bom", "card", "measurement"]


def test_they_go_where_the_artifact_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An export holds them under the media types by which other tools look for them."""
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    assert main(["models", "add", str(artifact(tmp_path / "made")), "--name", "home:v1"]) == 0
    assert main(["models", "export", "home:v1", "-o", str(tmp_path / "out.tar")]) == 0
    with tarfile.open(tmp_path / "out.tar") as held:
        handle = held.extractfile("index.json")
        assert handle is not None
        types = {one["artifactType"] for one in json.load(handle)["manifests"]}
    assert types == {manifest.MODEL, "application/vnd.cyclonedx+json", "text/markdown"}
    with Registry.open(tmp_path / "edge") as edge, archive.opened(tmp_path / "out.tar") as source:
        archive.receive(edge, source)
        (row,) = edge.rows()
        assert sorted(kind for _, kind in edge.catalog.attachments(row.digest)) == ["bom", "card"]
        for one, _ in edge.catalog.attachments(row.digest):  # where it lay says nothing to others
            assert str(tmp_path).encode() not in edge.blobs.read(edge.manifest(one).layers[0].blob.digest, 1 << 20)
    capsys.readouterr()
    assert main(["models", "bom", "home:v1"]) == 0
    assert json.loads(capsys.readouterr().out)["bomFormat"] == "CycloneDX"
    assert main(["models", "card", "home:v1", "-o", str(tmp_path / "README.md")]) == 0
    assert main(["models", "card", "home:v1", "-o", str(tmp_path / "README.md")]) == 12
    assert (tmp_path / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")
    assert main(["models", "show", "home:v1", "--json"]) == 0


@needs("cyclonedx", "jsonschema", "rfc3986_validator", "rfc3339_validator")
@pytest.mark.slow
def test_what_convert_files_has_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import SAMPLE

    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    assert main(["convert", str(SAMPLE), "--to", "gguf,compressed-tensors", "--no-verify", "--name", "home"]) == 0
    with Registry.open() as registry:
        assert len(registry.rows()) == 2
        for row in registry.rows():
            held = registry.catalog.attachments(row.digest)
            attached = {kind: registry.manifest(one).layers[0].blob for one, kind in held}
            valid(registry.document(attached["bom"]))
            assert read(registry.blobs.read(attached["card"].digest, 1 << 20).decode()).license == "apache-2.0"
