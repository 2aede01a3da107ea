"""The policy of a registry: what comes in, what is opened, which tags need an approval. policy.yaml, by policy.schema.json.

It only decides. Who asks: archive.receive and the remotes for what comes in, placing for what is opened, Registry.change for
names. Without a file everything is let in, and the tag `production` needs an approval.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.core.errors import CorruptInput, PolicyRefused
from slmops.core.units import parse_size, size

if TYPE_CHECKING:
    from slmops.core.yaml12 import Places

NAME = "policy.yaml"
ONCE, ALWAYS = "once", "always"
HERE = ""
"""The origin of what was made here: the user's own, of which no signature is asked."""
LOST = "lost:"
"""The origin of what lost its own, when index.json had to be made again: every rule is about it."""
MANUAL = "docs/trust.md"


@dataclass(frozen=True)
class Identity:
    """Whom Sigstore says a signer is, and who vouched for it (an OpenID issuer)."""

    identity: str
    issuer: str
    trust: Path | None = None
    """Whose authority and logs are believed: a Sigstore client trust configuration (JSON). None: the public Sigstore's."""


@dataclass(frozen=True)
class Signers:
    """Who counts for what comes from these sources: the holder of any of the keys, certificates or identities."""

    sources: tuple[str, ...]
    keys: tuple[Path, ...] = ()
    authorities: tuple[Path, ...] = ()
    identities: tuple[Identity, ...] = ()


@dataclass(frozen=True)
class Approval:
    """Tags that move only onto an approved artifact, and what makes an approval."""

    tags: tuple[str, ...] = ("production",)
    gates: tuple[str, ...] = ()
    """That must have passed; without any, each that blocks and was measured."""
    by: tuple[str, ...] = ()
    """Who may; without any, anyone."""
    sources: tuple[str, ...] = ()
    """Where approvals that came with an artifact are believed."""


@dataclass(frozen=True)
class Policy:
    """What a registry lets happen. `path` is where that was read, for the errors."""

    sources: tuple[str, ...] = ("*",)
    most_bytes: int | None = None
    verify: str = ONCE
    require_signature: tuple[Signers, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    unknown: str = "allow"
    approval: Approval = Approval()
    path: Path = Path(NAME)

    def admit(self, origin: str) -> None:
        """Raises PolicyRefused where nothing may come from an origin (hf:org/name, https://host/path, ...)."""
        # A path that climbs is another place than the one it starts like.
        climbs = re.search(r"(^|[/:])\.\.?(/|$)|\\|%2e|%2f|%5c", origin, re.IGNORECASE) is not None
        if self.sources != ("*",) and (climbs or not matches(origin, self.sources)):
            raise self.refused("sources", f"nothing may come from {origin[:200]!r}", f"allowed: {', '.join(self.sources)}")

    def admit_size(self, origin: str, count: int) -> None:
        """Raises PolicyRefused for more bytes than may come at once."""
        if self.most_bytes is not None and count > self.most_bytes:
            said = f"{origin[:200]} would bring {size(count)}, and {size(self.most_bytes)} are allowed"
            raise self.refused("most_bytes", said, "raise it")

    @property
    def judges_licences(self) -> bool:
        """Whether there is any rule about them."""
        return self.allow is not None or bool(self.deny) or self.unknown == "deny"

    def admit_licence(self, expression: str | None, what: str) -> None:
        """Raises PolicyRefused where a licence (core/licences.spdx) forbids use; `what` has it."""
        from slmops.core import licences

        if expression is None:
            if self.unknown == "deny":
                raise self.refused(
                    "licences.unknown", f"{what} states no licence", "choose another model, or set it to allow"
                )
            return
        for one in licences.parts(expression):
            # An exception adds to a licence: what is said of the licence itself is said of it too.
            forms = {one, one.partition(" WITH ")[0]}
            if any(matches(form, self.deny, fold=True) for form in forms):
                raise self.refused("licences.deny", f"{what} is under {expression}, which is denied", "choose another model")
            if self.allow is not None and not any(matches(form, self.allow, fold=True) for form in forms):
                allowed = ", ".join(self.allow) or "nothing"
                raise self.refused(
                    "licences.allow", f"{what} is under {expression}, which is not allowed", f"allowed: {allowed}"
                )

    def signers(self, origin: str) -> list[Signers]:
        """Whose signatures what came from an origin must have: each of these."""
        if origin == HERE:
            return []
        return [one for one in self.require_signature if origin == LOST or matches(origin, one.sources)]

    def refused(self, rule: str, said: str, cure: str) -> PolicyRefused:
        """The error of a rule."""
        return PolicyRefused(f"{said}: {rule} of the policy", f"{cure} ({self.path})")


def load(root: Path) -> Policy:
    """The policy of the registry at `root`: the file of SLMOPS_POLICY, else policy.yaml there, else none.

    Raises CorruptInput naming the line of what is no policy; SourceNotFound where SLMOPS_POLICY leads nowhere.
    """
    given = os.environ.get("SLMOPS_POLICY")
    path = Path(given) if given else root / NAME
    found = read(path) if given or path.exists() else Policy(path=path)
    if os.environ.get("SLMOPS_VERIFY") == ALWAYS:
        found = dataclasses.replace(found, verify=ALWAYS)
    return found


def read(path: Path) -> Policy:
    """A policy file. Raises SourceNotFound, or CorruptInput naming the line."""
    from slmops.core import yaml12  # with PyYAML, which a registry without a policy does not need

    value, places = yaml12.located(path, MANUAL)
    said: dict[str, Any] = {} if value is None else value
    check(path, said, places, schema(), MANUAL)
    licences, approval = said.get("licences", {}), said.get("approval", {})
    most, allow = said.get("most_bytes"), licences.get("allow")
    return Policy(
        sources=tuple(said.get("sources", ("*",))),
        most_bytes=parse_size(most) if isinstance(most, str) else most,
        verify=said.get("verify", ONCE),
        require_signature=tuple(_signers(one, path.parent) for one in said.get("require_signature", ())),
        allow=tuple(allow) if allow is not None else None,
        deny=tuple(licences.get("deny", ())),
        unknown=licences.get("unknown", "allow" if allow is None else "deny"),
        approval=Approval(
            tags=tuple(approval.get("tags", Approval.tags)),
            **{key: tuple(approval.get(key, ())) for key in ("gates", "by", "sources")},
        ),
        path=path,
    )


def schema() -> dict[str, Any]:
    """The JSON schema of a policy file."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("policy.schema.json").read_text(encoding="utf-8"))
    return found


def check(path: Path, value: Any, places: Places, schema: Mapping[str, Any], manual: str) -> None:
    """A YAML file against its schema. Raises CorruptInput for the fault that tells most, where it stands."""
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if error is None:
        return
    way, cure = tuple(error.absolute_path), f"see {manual} for what it holds"
    said = f"{'.'.join(map(str, way))}: {error.message}".removeprefix(": ")
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        key = next(key for key in error.instance if key not in known)
        import difflib

        near = difflib.get_close_matches(key, known, 1)
        way, said = (*way, key), f"unknown key {key!r}"
        cure = f"is {near[0]!r} meant?" if near else f"known: {', '.join(known)}"
    line, column = places.of(way)
    raise CorruptInput(f"{path}, line {line}, column {column}: {said[:300]}", cure)


def matches(text: str, patterns: Iterable[str], *, fold: bool = False) -> bool:
    """Whether a text is of one of the patterns, in which * stands for any letters and nothing else is special."""
    flags = re.DOTALL | (re.IGNORECASE if fold else 0)
    return any(re.fullmatch(".*".join(map(re.escape, one.split("*"))), text, flags) for one in patterns)


def _signers(said: dict[str, Any], folder: Path) -> Signers:
    return Signers(
        tuple(said.get("sources", ("*",))),
        tuple(folder / one for one in said.get("keys", ())),
        tuple(folder / one for one in said.get("authorities", ())),
        tuple(
            Identity(one["identity"], one["issuer"], folder / one["trust"] if "trust" in one else None)
            for one in said.get("identities", ())
        ),
    )
