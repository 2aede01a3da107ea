"""The bill of materials of an artifact: CycloneDX 1.6, a machine-learning-model component with its model card.

https://cyclonedx.org/docs/1.6/json/. Without a timestamp: equal artifacts with equal attachments have equal bills.
"""

from __future__ import annotations

import re
import urllib.parse
import uuid
from typing import Any

from slmops.core import licences
from slmops.registry import described
from slmops.registry.described import Described, Figure, plain
from slmops.registry.manifest import PLAIN, Input

KIND = "bom"
VERSION = "1.6"


def bom(one: Described) -> dict[str, Any]:
    """The document of an artifact."""
    import slmops

    tool = {"type": "application", "name": "slmops", "version": slmops.__version__}
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        # One bill an artifact, whose version rises with what is found out about it.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, one.found.digest)}",
        "version": 1 + one.findings,
        "metadata": {"tools": {"components": [tool]}, "component": _model(one)},
    }


def _model(one: Described) -> dict[str, Any]:
    ancestors = [_ancestor(one, each) for each in one.inputs]
    verb, parameters = described.step(one)
    notes = f"made by slmops {verb} {parameters}".strip() if verb else ""
    found = {
        "type": "machine-learning-model",
        "bom-ref": one.found.digest,
        "name": one.name,
        "version": one.found.digest[7:19],
        "description": f"{one.family or 'model'}, {one.format} {one.scheme}".strip(),
        "hashes": [_hash(one.found.digest)],
        "licenses": _licences(one.licence),
        "externalReferences": [{"type": "distribution", "url": f"https://huggingface.co/{one.base[0]}"}] if one.base else [],
        "components": [
            {"type": "file", "bom-ref": f"file:{layer.path}", "name": layer.path, "hashes": [_hash(layer.blob.digest)]}
            for layer in one.found.layers
        ],
        "pedigree": {key: value for key, value in (("ancestors", ancestors), ("notes", notes)) if value},
        "modelCard": _card(one),
        "properties": _properties(one),
    }
    return {key: value for key, value in found.items() if value}


def _ancestor(one: Described, given: Input) -> dict[str, Any]:
    """What it was made from: an artifact by its digest, or something outside, by its name on the Hub or its fingerprint."""
    label = plain(given.label, 200)
    found: dict[str, Any] = {
        "type": "machine-learning-model" if given.role in ("source", "adapter", "teacher") else "data",
        "name": label or plain(given.role, 200) or "input",
        "properties": [
            {"name": "slmops:role", "value": plain(given.role)},
            {"name": "slmops:id", "value": plain(given.parent)},
        ],
    }
    if re.fullmatch(r"sha256:[0-9a-f]{64}", given.parent, re.ASCII):
        found["hashes"] = [_hash(given.parent)]
    if given.role == "source" and one.base is not None:
        repository, revision = one.base
        version = f"@{urllib.parse.quote(revision.lower(), safe='')}" if revision else ""
        found["purl"] = f"pkg:huggingface/{repository}{version}"
        found["externalReferences"] = [{"type": "distribution", "url": f"https://huggingface.co/{repository}"}]
    return found


def _card(one: Described) -> dict[str, Any]:
    """https://cyclonedx.org/docs/1.6/json/#components_items_modelCard"""
    text = [{"format": "text"}]
    parameters = {"task": "text-generation", "architectureFamily": "transformer", "modelArchitecture": one.family}
    card: dict[str, Any] = {
        "modelParameters": {**{key: value for key, value in parameters.items() if value}, "inputs": text, "outputs": text}
    }
    if one.figures:
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(figure) for figure in one.figures]}
    traded = [f"{one.scheme}: {tradeoff}" for tradeoff in _tradeoffs(one)]
    thought = {"technicalLimitations": list(one.notes), "performanceTradeoffs": traded}
    if kept := {key: value for key, value in thought.items() if value}:
        card["considerations"] = kept
    return card


def _metric(figure: Figure) -> dict[str, Any]:
    unit = f" [{figure.unit}]" if figure.unit else ""
    found: dict[str, Any] = {"type": figure.name + unit, "value": f"{figure.value:.6g}"}
    if figure.engine:
        found["slice"] = figure.engine
    if figure.low is not None and figure.high is not None:
        found["confidenceInterval"] = {"lowerBound": f"{figure.low:.6g}", "upperBound": f"{figure.high:.6g}"}
    return found


def _tradeoffs(one: Described) -> list[str]:
    """What quantizing cost, as far as it was measured."""
    if not one.scheme or one.scheme in PLAIN:
        return []
    cost = [figure for figure in one.figures if figure.place.startswith("quality.") and figure.place != "quality.perplexity"]
    return [f"{figure.name} {figure.value:.4g}" for figure in cost] or ["what quantizing cost was not measured"]


def _properties(one: Described) -> list[dict[str, str]]:
    """What CycloneDX has no field for, under names of ours."""
    pairs = [("format", one.format), ("quantization", one.scheme), ("measured-on", one.machine)]
    pairs += [("proven", one.found.ours("verified"))]
    pairs += [(f"gate:{gate.gate}", f"{_verdict(gate.passed)}: {gate.said}") for gate in one.gates]
    pairs += [("approval", f"{plain(each.get('by'))}, {plain(each.get('at'))}") for each in one.approvals]
    pairs += [(f"made-with:{name}", version) for name, version in described.versions(one).items()]
    return [{"name": f"slmops:{plain(name, 200)}", "value": plain(value)} for name, value in pairs if value]


def _verdict(passed: bool | None) -> str:
    return "undecided" if passed is None else "passed" if passed else "failed"


def _licences(expression: str | None) -> list[dict[str, Any]]:
    if expression is None:
        return []
    if expression.startswith(licences.OWN) and licences.parts(expression) == [expression]:
        return [{"license": {"name": expression.removeprefix(licences.OWN)}}]
    compound = licences.parts(expression) != [expression] or " WITH " in expression
    return [{"expression": expression}] if compound else [{"license": {"id": expression}}]


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}
