"""The manifest of an artifact: CNCF ModelPack over an OCI image manifest, one `.raw` layer a file.

https://github.com/modelpack/model-spec (docs/spec.md, docs/annotations.md, schema/config-schema.json), OCI image-spec 1.1.
Lineage has no field there: step and inputs are annotations. Nothing in a manifest depends on when or where it was filed, so
that the same artifact filed twice is one.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops.core import licences, receipt
from slmops.core.errors import CorruptInput, Unsupported, UsageError
from slmops.core.units import count
from slmops.registry import references
from slmops.registry.blobs import Blob

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
FILEPATH = "org.cncf.model.filepath"
OURS = "dev.slmops."
"""What our annotations start with: name, format, scheme, step, inputs, verified."""
RAW = re.compile(r"application/vnd\.cncf\.model\.(weight|weight\.config|doc|code|dataset)\.v1\.raw", re.ASCII)
ATTACHED = re.compile(r"application/vnd\.slmops\.([a-z]{1,32})\.v1\+json", re.ASCII)
STANDARD = {
    "signature": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "bom": "application/vnd.cyclonedx+json",
    "card": "text/markdown",
}
"""Kinds of attachments that have a media type of their own, by which other tools find them among an artifact's referrers."""

MOST_BYTES = 4 << 20
"""Of a manifest or a config: what OCI registries take."""
MOST_LAYERS = 10_000
MOST_PATH = 1000
DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.ASCII)
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".bat", ".cmd", ".ps1", ".sh", ".js", ".jar",
        ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")  # fmt: skip
"""Files that run, or that run code when they are opened: no artifact of ours holds one, and none is let in."""
WEIGHTS = (".safetensors", ".gguf", ".onnx", ".data", ".bin", ".xml", ".onnx_adapter", ".npz")
PLAIN = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Layer:
    """A file of an artifact; `path` is relative to its folder."""

    path: str
    blob: Blob
    kind: str
    """weight, weight.config, doc, code or dataset; of an attachment, the kind of attachment."""


@dataclass(frozen=True)
class Manifest:
    """What was read of one; `digest` is of the bytes that were read."""

    digest: str
    size: int
    artifact_type: str
    config: Blob
    layers: tuple[Layer, ...]
    subject: str | None = None
    """The digest of the manifest that this one is about."""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> list[Blob]:
        return [self.config, *(layer.blob for layer in self.layers)]

    @property
    def nbytes(self) -> int:
        return sum(layer.blob.size for layer in self.layers)

    def ours(self, key: str) -> str:
        return self.annotations.get(OURS + key, "")


@dataclass(frozen=True)
class Input:
    """What an artifact was made from: an artifact, by digest, or something outside, by fingerprint."""

    role: str
    parent: str
    """sha256:<hex>, or fingerprint:<hex>."""
    label: str = ""


def files(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """Names of an artifact's files: those that its receipt lists, and the receipt. What lies beside them is not of it.

    Raises CorruptInput for a name that leads elsewhere, a link, and a file that is missing or of another size.
    """
    names = sorted({*facts["files"], receipt.NAME})
    check_paths(names)
    for name in names:
        path = folder / name
        if any(part.is_symlink() for part in (path, *path.parents) if part != folder and folder in part.parents):
            raise CorruptInput(f"{path} is a link", "copy what it leads to into its place")
        if not path.is_file() or (name != receipt.NAME and path.stat().st_size != facts["files"][name]):
            raise CorruptInput(f"{path} is not as the receipt has it", "make the artifact again")
    return names


def check_paths(names: Sequence[str]) -> None:
    """Raises CorruptInput for names that would leave their folder, hide, or meet another; Unsupported for code."""
    seen: set[str] = set()
    if len(names) > MOST_LAYERS:
        raise CorruptInput(f"an artifact of {len(names):,} files is none", f"at most {MOST_LAYERS:,}")
    for name in names:
        parts = name.split("/")
        bad = any(
            not part
            or part.startswith(".")
            or part.endswith((".", " "))
            or len(part.encode()) > 255
            or DEVICES.fullmatch(part)
            for part in parts
        )
        if bad or len(name) > MOST_PATH or re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', name):
            raise CorruptInput(f"{name[:100]!r} is no name for a file of an artifact", "it must be a plain relative path")
        if name.lower().endswith(CODE):
            raise Unsupported(
                f"{name[:100]} is code, or a pickle, which can run code", "no artifact needs one: leave it out"
            )
        if (folded := name.casefold()) in seen or any(
            "/".join(parts[:at]).casefold() in seen for at in range(1, len(parts))
        ):
            raise CorruptInput(f"{name[:100]!r} is there twice, or is a folder too")
        seen.add(folded)


def kind_of(name: str) -> str:
    """Of which kind ModelPack's layer is."""
    base = name.rpartition("/")[2].lower()
    if base.startswith(("readme", "license", "notice")) or base.endswith(".md"):
        return "doc"
    tokens = base.startswith(("openvino_tokenizer", "openvino_detokenizer"))
    return "weight" if base.endswith(WEIGHTS) and not tokens else "weight.config"


def config(facts: Mapping[str, Any], layers: Sequence[Layer]) -> bytes:
    """The model config of an artifact with this receipt."""
    source, scheme = facts.get("source") or {}, str(facts.get("scheme", ""))
    hub = str(source.get("hub", "")).partition("@")[0]
    descriptor = {
        "name": str(facts.get("name") or "model"),
        "family": str(facts["config"].get("model_type") or ""),
        "licenses": [licence] if (licence := licences.spdx(facts.get("licence"))) else None,
        "sourceURL": f"https://huggingface.co/{hub}" if hub else None,
        "revision": str(source["revision"]) if source.get("revision") else None,
    }
    parameters = sum(_product(tensor["shape"]) for tensor in facts["tensors"].values())
    model = {
        "architecture": "transformer",
        "format": str(facts["format"]),
        "paramSize": count(parameters).replace(" ", "").lower() if parameters else None,
        "precision": PLAIN.get(scheme),
        "quantization": None if scheme in PLAIN else scheme,
        "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
    }
    return canonical({
        "descriptor": {key: value for key, value in descriptor.items() if value},
        "config": {key: value for key, value in model.items() if value},
        "modelfs": {"type": "layers", "diffIds": [layer.blob.digest for layer in layers]},
    })  # fmt: skip


def model(facts: Mapping[str, Any], config: Blob, layers: Sequence[Layer], inputs: Sequence[Input]) -> bytes:
    """The manifest of an artifact with this receipt."""
    step = facts.get("step") or {}
    annotations = {
        "name": str(facts.get("name") or "model"),
        "format": str(facts["format"]),
        "scheme": str(facts.get("scheme", "")),
        "step": str(step.get("key", "")),
        "verb": str(step.get("verb", "")),
        "verified": "true" if facts.get("verification") else "false",
        "inputs": json.dumps([[one.role, one.parent, one.label] for one in inputs]),
    }
    return canonical({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": MODEL,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
        "layers": [
            {
                "mediaType": f"application/vnd.cncf.model.{layer.kind}.v1.raw",
                "digest": layer.blob.digest,
                "size": layer.blob.size,
                "annotations": {FILEPATH: layer.path},
            }
            for layer in layers
        ],
        "annotations": {OURS + key: value for key, value in annotations.items() if value},
    })  # fmt: skip


def media_of(kind: str) -> str:
    """The media type of a kind of attachment. Raises UsageError."""
    media = STANDARD.get(kind) or f"application/vnd.slmops.{kind}.v1+json"
    if kind_attached(media) != kind:
        raise UsageError(f"{kind!r} is no kind of attachment", "lower-case letters")
    return media


def kind_attached(media: str) -> str | None:
    """The kind of attachment of a media type; None where it is none that is kept here."""
    match = ATTACHED.fullmatch(media)
    found = next((kind for kind, known in STANDARD.items() if known == media), match[1] if match else None)
    # A standard kind has one media type, lest a second one slips by who looks for it.
    return found if found is not None and media == STANDARD.get(found, media) else None


def attachment(kind: str, subject: Blob, empty: Blob, content: Blob) -> bytes:
    """A manifest that holds one document about another (OCI 1.1 `subject`): a referrer."""
    return canonical({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": (media := media_of(kind)),
        "config": {"mediaType": EMPTY, "digest": empty.digest, "size": empty.size},
        "layers": [{"mediaType": media, "digest": content.digest, "size": content.size}],
        "subject": {"mediaType": MANIFEST, "digest": subject.digest, "size": subject.size},
    })  # fmt: skip


def licence(config: Mapping[str, Any]) -> str | None:
    """The SPDX expression of a model config, anyone's; None where it states none. Several licences hold together."""
    described = config.get("descriptor")
    listed = described.get("licenses") if isinstance(described, dict) else None
    found = [licences.spdx(one) for one in listed] if isinstance(listed, list) else []
    named = [one for one in found if one is not None]
    # One that says nothing leaves open what it asks for.
    if not named or len(named) < len(found):
        return None
    return " AND ".join(f"({one})" if len(named) > 1 and " OR " in one else one for one in named)


def inputs(manifest: Manifest) -> list[Input]:
    """What the annotations say it was made from; nothing where they make no sense."""
    try:
        listed = json.loads(manifest.ours("inputs") or "[]")
        return [Input(str(role), str(parent), str(label)) for role, parent, label in listed]
    except (ValueError, TypeError, RecursionError):
        return []


def made_from(facts: Mapping[str, Any], artifacts: Path) -> list[Input]:
    """Of the inputs of an artifact's step, those that lie in folders of the registry by their digests."""
    source = facts.get("source") or {}
    found = []
    for role, mark in dict((facts.get("step") or {}).get("inputs") or {}).items():
        parent, label = f"fingerprint:{mark}", ""
        if role == "source":
            label = str(source.get("hub") or Path(str(source.get("path", ""))).name)
            with contextlib.suppress(ValueError, OSError):
                inside = Path(str(source.get("path", ""))).absolute().relative_to(artifacts)
                digest = f"sha256:{inside.parts[0]}" if inside.parts else ""
                parent = digest if references.DIGEST.fullmatch(digest) else parent
        found.append(Input(str(role), parent, label))
    return sorted(found, key=lambda one: one.role)


def parse(content: bytes) -> Manifest:
    """Read a manifest from anywhere. Raises CorruptInput, or Unsupported for layers that are not plain files."""
    if len(content) > MOST_BYTES:
        raise CorruptInput(f"a manifest of {len(content):,} bytes is none", f"at most {MOST_BYTES:,}")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptInput(f"a manifest is not JSON: {error}") from None
    if not isinstance(value, dict) or value.get("schemaVersion") != 2 or value.get("mediaType", MANIFEST) != MANIFEST:
        raise CorruptInput("a manifest is no OCI image manifest")
    kind, listed = value.get("artifactType"), value.get("layers")
    if not isinstance(kind, str) or not isinstance(listed, list) or not 0 < len(listed) <= MOST_LAYERS:
        raise CorruptInput("a manifest has no artifactType or no layers")
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(one, str) for one in annotations.values()):
        raise CorruptInput("annotations of a manifest are not text")
    found = Manifest(
        digest=Blob.of(content).digest,
        size=len(content),
        artifact_type=kind,
        config=_descriptor(value.get("config")),
        layers=tuple(_layer(one, kind) for one in listed),
        subject=_descriptor(value["subject"]).digest if value.get("subject") is not None else None,
        annotations=annotations,
    )
    if kind == MODEL:
        check_paths([layer.path for layer in found.layers])
    elif kind_attached(kind) is None or found.subject is None:
        raise Unsupported(f"{kind[:100]!r} is no kind of artifact that is kept here", f"a model is {MODEL}")
    return found


def canonical(value: Any) -> bytes:
    """JSON in one spelling. Raises ValueError for NaN and infinity, which JSON has not."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _descriptor(value: Any) -> Blob:
    if not isinstance(value, dict) or type(value.get("size")) is not int or not 0 <= value["size"] < 1 << 63:
        raise CorruptInput("a descriptor of a manifest has no size")
    return Blob(references.digest(value.get("digest", "")), value["size"])


def _layer(value: Any, kind: str) -> Layer:
    blob = _descriptor(value)
    media = str(value.get("mediaType"))
    if kind != MODEL:
        return Layer("", blob, media)
    match = RAW.fullmatch(media)
    if match is None:
        raise Unsupported(
            f"a layer of {media[:100]!r} is no plain file", "pack the model with .raw layers (modctl build --raw)"
        )
    annotations = value.get("annotations")
    path = annotations.get(FILEPATH) if isinstance(annotations, dict) else None
    if not isinstance(path, str):
        raise CorruptInput(f"the layer {blob.digest} has no {FILEPATH}")
    return Layer(path, blob, match[1])


def _product(shape: Sequence[int]) -> int:
    result = 1
    for axis in shape:
        result *= axis
    return result
