"""Everything that a registry knows of an artifact, for what is shown and written of it: `show`, bill of materials, card.

It comes from manifests and attachments, so equal ones make equal documents, whenever and wherever they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmops.core import receipt, units
from slmops.core.errors import SlmopsError
from slmops.registry import approval, manifest, signing
from slmops.registry.approval import Gate
from slmops.registry.manifest import Input, Manifest
from slmops.registry.registry import Registry

FIGURES = (
    ("quality.kl", "KL divergence from the source", "nats a token"),
    ("quality.retained", "quality kept (perplexity of the source over its own)", ""),
    ("quality.perplexity", "perplexity", ""),
    ("quality.top1", "likeliest token as the source's", ""),
    ("answers.share", "tasks answered right", ""),
    ("speed.decode", "decoding", "tokens/s"),
    ("speed.first_token", "first token", "s"),
    ("peak", "memory at the peak", "B"),
)
"""Of a measurement (measure/artifact.Measured): place, name, unit."""
HUB = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,256}))?", re.ASCII)
MOST_TEXT = 1000


@dataclass(frozen=True)
class Figure:
    """A measured figure; `low` and `high` are its 95 % interval where it has one."""

    place: str
    name: str
    unit: str
    engine: str
    value: float
    low: float | None
    high: float | None

    @property
    def said(self) -> str:
        """The value for people."""
        return units.size(self.value) if self.unit == "B" else f"{self.value:,.4g} {self.unit}".strip()


@dataclass(frozen=True)
class Signature:
    """A signature; `verified` says by whom it was found to hold, and when (seconds since 1970)."""

    attachment: str
    by: str
    verified: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Given:
    """An approval as it was written down; whether it counts is the policy's to say (registry/approval.py)."""

    by: str
    at: str
    note: str
    origin: str


@dataclass(frozen=True)
class Described:
    """An artifact. Texts of strangers are cut and printable; `receipt` is as it was read, and may be anything."""

    found: Manifest
    config: Mapping[str, Any]
    receipt: Mapping[str, Any]
    names: tuple[str, ...]
    name: str
    family: str
    format: str
    scheme: str
    licence: str | None
    origin: str
    inputs: tuple[Input, ...]
    base: tuple[str, str] | None
    """The Hub's name of what it was made from, and the revision."""
    figures: tuple[Figure, ...]
    machine: str
    """On which the figures were taken."""
    findings: int
    """Measurements and approvals so far."""
    gates: tuple[Gate, ...]
    approvals: tuple[Given, ...]
    signatures: tuple[Signature, ...]
    notes: tuple[str, ...]


def describe(registry: Registry, digest: str) -> Described:
    """Raises SourceNotFound, CorruptInput."""
    found = registry.manifest(digest)
    config, facts = registry.document(found.config), _receipt(registry, found)
    row = next(row for row in registry.rows() if row.digest == digest)
    attached: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for one, kind in registry.catalog.attachments(digest):
        if kind in (approval.KIND, approval.MEASURED):
            attached.setdefault(kind, []).append((one, registry.content(one)))
    measured = [document for _, document in attached.get(approval.MEASURED, ())]
    origins = {one: registry.catalog.origin(one) for one, _ in attached.get(approval.MEASURED, ())}
    inputs = tuple(manifest.inputs(found))
    return Described(
        found=found,
        config=config,
        receipt=facts,
        names=row.tags,
        name=plain(row.name) or "model",
        family=plain(row.family),
        format=plain(row.format),
        scheme=plain(row.scheme),
        licence=manifest.licence(config),
        origin=registry.catalog.origin(digest),
        inputs=inputs,
        base=_base(facts, config, inputs),
        figures=figures(measured[-1]) if measured else (),
        machine=machine(measured[-1]) if measured else "",
        findings=sum(map(len, attached.values())),
        gates=tuple(approval.gates(registry, origins, digest)),
        approvals=tuple(
            _given(document, registry.catalog.origin(each)) for each, document in attached.get(approval.KIND, ())
        ),
        signatures=tuple(signatures(registry, digest)),
        notes=tuple(plain(one) for one in _list(facts.get("notes"))[:50]),
    )


def signatures(registry: Registry, digest: str) -> list[Signature]:
    """Of an artifact: who is said to have signed, and what was verified."""
    held = registry.catalog.signatures(digest)
    return [
        Signature(one, plain(signing.who(bundle)), tuple((who, at) for attached, _, who, at in held if attached == one))
        for one, bundle in signing.bundles(registry, digest)
    ]


def plain(value: Any, most: int = MOST_TEXT) -> str:
    """A stranger's text, printable and cut."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def _receipt(registry: Registry, found: Manifest) -> dict[str, Any]:
    """slmops.json of the artifact, if it has one."""
    blob = next((layer.blob for layer in found.layers if layer.path == receipt.NAME), None)
    try:
        return registry.document(blob) if blob is not None else {}
    except SlmopsError:
        return {}  # fsck says what is damaged; what is shown of the rest stays


def _given(document: Mapping[str, Any], origin: str) -> Given:
    return Given(plain(document.get("by")), plain(document.get("at")), plain(document.get("note")), origin)


def _base(facts: Mapping[str, Any], config: Mapping[str, Any], inputs: tuple[Input, ...]) -> tuple[str, str] | None:
    """Where it says that it came from on the Hub: its receipt, its config (ModelPack's sourceURL), or its input's label."""
    source, described = _dict(facts.get("source")), _dict(config.get("descriptor"))
    url, revision = str(described.get("sourceURL", "")), source.get("revision") or described.get("revision")
    labels = [one.label for one in inputs if one.role == "source"]
    for text in (source.get("hub"), url.removeprefix("https://huggingface.co/"), *labels):
        if isinstance(text, str) and (match := HUB.fullmatch(text)):
            return match[1], plain(revision or match[2] or "", 256)
    return None


def figures(document: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Of a measurement, as it was attached: those of FIGURES that it has."""
    measured = _dict(document.get("measured"))
    engine = plain(measured.get("engine"), 50)
    found = []
    for place, name, unit in FIGURES:
        value: Any = measured
        for key in place.split("."):
            value = _dict(value).get(key)
        held = value if isinstance(value, dict) else {"value": value}
        figure, low, high = (_number(held.get(key)) for key in ("value", "low", "high"))
        if figure is not None:
            found.append(Figure(place, name, unit, engine, figure, low, high))
    return tuple(found)


def machine(document: Mapping[str, Any]) -> str:
    """On which a measurement was taken."""
    held = _dict(document.get("machine"))
    cores = f"{held['cores']} cores" if isinstance(held.get("cores"), int) else ""
    return ", ".join(filter(None, (plain(held.get("processor"), 100), cores, plain(held.get("system"), 100))))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def step(one: Described) -> tuple[str, str]:
    """The verb that made it, and its parameters as JSON; empty where it was not made here."""
    held = _dict(one.receipt.get("step"))
    parameters = _dict(held.get("parameters"))
    return plain(held.get("verb")), json.dumps(parameters, sort_keys=True)[:MOST_TEXT] if parameters else ""


def versions(one: Described) -> dict[str, str]:
    """Of the programs that made it."""
    return {plain(key, 100): plain(value, 100) for key, value in _dict(one.receipt.get("versions")).items()}
