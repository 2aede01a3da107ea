"""Manifests against the specifications, read here on their own: OCI image-spec 1.1 and CNCF ModelPack."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filed import artifact
from slmops.core.errors import CorruptInput, SlmopsError, Unsupported
from slmops.registry import Registry, manifest
from slmops.registry.references import named

DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def descriptor(media: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["mediaType", "digest", "size"],
        "properties": {
            "mediaType": {"type": "string", "pattern": media},
            "digest": DIGEST,
            "size": {"type": "integer", "minimum": 0},
            "annotations": TEXTS,
            "artifactType": {"type": "string"},
        },
        "additionalProperties": False,
    }


# image-spec: manifest.md, and ModelPack's docs/spec.md on what each property must be.
MANIFEST = {
    "type": "object",
    "required": ["schemaVersion", "mediaType", "artifactType", "config", "layers"],
    "additionalProperties": False,
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"},
        "artifactType": {"const": "application/vnd.cncf.model.manifest.v1+json"},
        "config": descriptor(r"^application/vnd\.cncf\.model\.config\.v1\+json$"),
        "layers": {
            "type": "array",
            "minItems": 1,
            "items": descriptor(r"^application/vnd\.cncf\.model\.(weight|weight\.config|doc|code|dataset)\.v1\.raw$"),
        },
        "annotations": TEXTS,
    },
}
# schema/config-schema.json of ModelPack.
CONFIG = {
    "type": "object",
    "required": ["descriptor", "config", "modelfs"],
    "additionalProperties": False,
    "properties": {
        "descriptor": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                **{name: {"type": "string"} for name in ("family", "sourceURL", "revision", "version", "title", "vendor")},
                "name": {"type": "string", "minLength": 1},
                "licenses": {"type": "array", "items": {"type": "string"}},
            },
        },
        "config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                **{
                    name: {"type": "string"} for name in ("architecture", "format", "paramSize", "precision", "quantization")
                },
                "capabilities": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        name: {"type": "array", "items": {"enum": ["text"]}} for name in ("inputTypes", "outputTypes")
                    },
                },
            },
        },
        "modelfs": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type", "diffIds"],
            "properties": {"type": {"enum": ["layers"]}, "diffIds": {"type": "array", "minItems": 1, "items": DIGEST}},
        },
    },
}
INDEX = {
    "type": "object",
    "required": ["schemaVersion", "manifests"],
    "additionalProperties": False,
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.index.v1+json"},
        "manifests": {"type": "array", "items": descriptor(r"^application/vnd\.oci\.image\.manifest\.v1\+json$")},
    },
}


def test_the_layout_is_what_the_specifications_say(tmp_path: Path) -> None:
    """Read with nothing of slmops: oci-layout, index, manifest, config, layers, every digest and every file's place."""
    root = tmp_path / "home"
    with Registry.open(root) as registry:
        registry.add(artifact(tmp_path / "a"), named("org/toy:q4"), named("toy"))
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}

    def blob(entry: dict[str, Any]) -> bytes:
        content = (root / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
        assert len(content) == entry["size"] and "sha256:" + hashlib.sha256(content).hexdigest() == entry["digest"]
        return content

    index = json.loads((root / "index.json").read_text())
    jsonschema.validate(index, INDEX)
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]] == [
        "org/toy:q4",
        "toy:latest",
    ]
    found = json.loads(blob(index["manifests"][0]))
    jsonschema.validate(found, MANIFEST)
    config = json.loads(blob(found["config"]))
    jsonschema.validate(config, CONFIG)
    assert config["config"] | {"capabilities": None} == {
        "architecture": "transformer", "format": "gguf", "paramSize": "1.60k", "quantization": "q4", "capabilities": None,
    }  # fmt: skip
    assert config["descriptor"]["sourceURL"] == "https://huggingface.co/org/Toy"
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in found["layers"]]
    files = {layer["annotations"]["org.cncf.model.filepath"]: blob(layer) for layer in found["layers"]}
    made = {
        path.relative_to(tmp_path / "a").as_posix(): path.read_bytes()
        for path in (tmp_path / "a").rglob("*")
        if path.is_file()
    }
    assert files == made
    kinds = {
        layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"].split(".model.")[1] for layer in found["layers"]
    }
    assert kinds["model.gguf"] == "weight.v1.raw" and kinds["README.md"] == "doc.v1.raw"


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "a/../b",
        "a//b",
        ".hidden",
        "a/.b",
        "a\\b",
        "c:x",
        "a\0b",
        "a\nb",
        "",
        "a/",
        "x.",
        "x ",
        "NUL",
        "aux.txt",
        "a" * 1001,
    ],
)
def test_a_file_that_would_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(CorruptInput):
        manifest.check_paths([name])


def test_files_that_meet_or_run_are_refused() -> None:
    for names in (["a", "A"], ["a", "a"], ["a/b", "a"], ["a", "a/b"]):
        with pytest.raises(CorruptInput):
            manifest.check_paths(sorted(names))
    for name in ("modeling.py", "weights.pt", "x/y.PKL", "lib.so"):
        with pytest.raises(Unsupported):
            manifest.check_paths([name])


FIELDS = ["schemaVersion", "mediaType", "artifactType", "config", "layers", "digest", "size", "annotations", "subject"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), one, max_size=6),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.slow
@given(VALUES)
def test_no_json_breaks_the_reader(value: Any) -> None:
    with contextlib.suppress(SlmopsError):
        manifest.parse(json.dumps(value).encode())


def test_every_field_of_a_manifest_is_checked(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "home") as registry:
        digest = registry.add(artifact(tmp_path / "a"))
        sound = json.loads(registry.blobs.read(digest, 1 << 20))
    manifest.parse(json.dumps(sound).encode())
    for path, value in [
        (("schemaVersion",), 1), (("mediaType",), "x"),
        (("artifactType",), None), (("artifactType",), "x"), (("layers",), []),
        (("layers", 0, "digest"), "sha256:../../x"), (("layers", 0, "size"), -1), (("layers", 0, "size"), True),
        (("layers", 0, "size"), 1 << 63), (("layers", 0, "mediaType"), "application/vnd.cncf.model.weight.v1.tar"),
        (("layers", 0, "annotations"), None), (("layers", 0, "annotations"), {"org.cncf.model.filepath": "../x"}),
        (("config", "digest"), "sha512:00"), (("annotations",), {"x": 1}), (("subject",), {}),
    ]:  # fmt: skip
        broken = json.loads(json.dumps(sound))
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(SlmopsError):
            manifest.parse(json.dumps(broken).encode())
