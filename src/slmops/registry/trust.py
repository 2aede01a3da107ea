"""The doors of a registry, where its policy is asked: what comes in, what is opened, what is named.

Signatures that held are remembered in the catalog by what they are of and who counted, so that opening costs nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slmops.core import licences
from slmops.core.errors import CorruptInput, VerificationFailed
from slmops.registry import approval, index, manifest, signing
from slmops.registry.blobs import Blob
from slmops.registry.index import Index
from slmops.registry.manifest import Manifest
from slmops.registry.policy import Signers
from slmops.registry.references import Reference

if TYPE_CHECKING:
    from slmops.registry.archive import Source
    from slmops.registry.registry import Registry

Held = tuple[str, str, str, str]
"""A signature that held, as the catalog remembers it: artifact, attachment, signers, who."""


def entering(registry: Registry, source: Source, found: Sequence[Manifest], names: Mapping[Reference, str]) -> list[Held]:
    """Whether manifests may come in with what they lead to, asked before their files are fetched; the signatures that held.

    Raises PolicyRefused; CorruptInput for configs and bundles that are not what they claim.
    """
    policy, origin = registry.policy, source.origin
    missing = {blob.digest: blob.size for one in found for blob in one.blobs if not registry.blobs.has(blob.digest)}
    policy.admit_size(origin, sum(missing.values()))
    for name, digest in names.items():
        guarded = name.tag in policy.approval.tags and registry.catalog.tagged(name.name, name.tag) != digest
        if guarded and not approval.believed(registry, origin):
            # Only those that are here can count.
            approval.require(registry, index.read(registry.root), digest, name, approval.elsewhere(origin))
    held = []
    for one in found:
        if one.subject is not None:
            continue
        if policy.judges_licences:
            policy.admit_licence(manifest.licence(_fetched(source, one.config, manifest.MOST_BYTES)), _named(one))
        if rules := policy.signers(origin):
            about = [each for each in found if each.subject == one.digest and each.artifact_type == signing.MEDIA]
            bundles = [(each.digest, _fetched(source, each.layers[0].blob, signing.MOST_BUNDLE)) for each in about]
            bundles += signing.bundles(registry, one.digest)
            held += [(one.digest, *_signed(registry, one, rule, bundles)) for rule in rules]
    return held


def opening(registry: Registry, found: Manifest) -> None:
    """Whether an artifact may be opened. Raises PolicyRefused."""
    for rule in registry.policy.signers(registry.catalog.origin(found.digest)):
        mark = signing.identity_of(rule)
        attached = {digest for digest, kind in registry.catalog.attachments(found.digest) if kind == signing.KIND}
        if any(mark == known and one in attached for one, known, _, _ in registry.catalog.signatures(found.digest)):
            continue
        one, mark, who = _signed(registry, found, rule, signing.bundles(registry, found.digest))
        registry.catalog.signed(found.digest, one, mark, who)


def naming(registry: Registry, before: Mapping[Reference, str], after: Index) -> None:
    """Whether names may move as they are about to. Raises PolicyRefused."""
    policy = registry.policy
    for name, digest in after.tags.items():
        if before.get(name) == digest:
            continue
        if policy.judges_licences:
            policy.admit_licence(manifest.licence(registry.document(registry.manifest(digest).config)), str(name))
        if name.tag in policy.approval.tags:
            approval.require(registry, after, digest, name)


def promised(registry: Registry, name: Reference, digest: str | None, licence: str | None) -> None:
    """Whether what is yet to be made may have a name, asked before the work. Raises PolicyRefused.

    digest: of the artifact if it is here already: its approvals are asked when it is named. licence: of what it is made
    from, as it is stated there.
    """
    policy = registry.policy
    policy.admit_licence(licences.spdx(licence), str(name))
    if digest is None and name.tag in policy.approval.tags:
        cure = f"name it otherwise, approve that, and then: slmops models tag {name.name}:TAG {name}"
        raise policy.refused(
            "approval.tags", f"{name} moves only onto an approved artifact, and this is yet to be made", cure
        )


def verified(registry: Registry, digest: str, signers: Signers) -> list[str]:
    """Who of the signers signed an artifact's files as they are, in words; remembered. Raises VerificationFailed."""
    found, held, refusals = registry.manifest(digest), [], []
    for attached, bundle in signing.bundles(registry, digest):
        try:
            who = signing.check(found, bundle, signers)
        except VerificationFailed as refusal:
            refusals.append(f"{signing.who(bundle)}: {refusal}")
            continue
        registry.catalog.signed(digest, attached, signing.identity_of(signers), who)
        held.append(who)
    if not held:
        fault = "; ".join(refusals) if refusals else "it is not signed"
        raise VerificationFailed(f"no signature on {_named(found)} holds: {fault}", "slmops models sign signs it")
    return held


def _signed(
    registry: Registry, found: Manifest, rule: Signers, bundles: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[str, str, str]:
    """The (attachment, signers, who) that meets a rule. Raises PolicyRefused."""
    refusals = [] if bundles else ["it is not signed"]
    for attached, bundle in bundles:
        try:
            return attached, signing.identity_of(rule), signing.check(found, bundle, rule)
        except VerificationFailed as refusal:
            refusals.append(str(refusal))
    where = ", ".join(rule.sources)
    cure = f"what comes from {where} must be signed by one that counts: slmops models sign, or another source"
    raise registry.policy.refused("require_signature", f"{_named(found)}: {'; '.join(refusals)}", cure)


def _fetched(source: Source, blob: Blob, most: int) -> dict[str, Any]:
    """A small JSON document of a stranger's, proven to be what its manifest names. Raises CorruptInput."""
    if blob.size > most:
        raise CorruptInput(f"{blob.digest} claims {blob.size:,} bytes", f"at most {most:,}")
    with source.blob(blob) as stream:
        content = stream.read(blob.size + 1)
    if Blob.of(content) != blob:
        raise CorruptInput(f"the bytes of {blob.digest} are not what they claim", "fetch or export it again")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptInput(f"{blob.digest} is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _named(found: Manifest) -> str:
    return f"{found.ours('name') or 'the artifact'} ({found.digest[:19]})"
