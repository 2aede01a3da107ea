"""What `slmops serve` is told about who may ask: the options, and what is made of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from slmops.serve.access import Access
    from slmops.serve.audit import Audit
    from slmops.serve.desk import Watcher
    from slmops.serve.tls import Certificate

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who may ask")
    group.add_argument("--keys", metavar="FILE", help="who sends no key of this file is refused: slmops keys create")
    group.add_argument("--insecure", action="store_true", help="listen on other addresses without keys")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name that requests may be sent to"
    )
    group.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="web pages that may ask, as https://chat.example.org"
    )
    group.add_argument("--oidc-issuer", metavar="URL", help="take tokens that this identity provider has signed")
    group.add_argument(
        "--oidc-audience", metavar="NAME", help="what they must be for: this server, as the provider calls it"
    )
    group.add_argument(
        "--oidc-role", action="append", default=[], metavar="VALUE=ROLE", help="the role that a value of the claim gives"
    )
    group.add_argument("--oidc-claim", default="roles", metavar="NAME", help="the claim that holds them (roles)")
    group.add_argument("--tls-cert", metavar="FILE", help="speak TLS with this certificate (PEM); read again as it changes")
    group.add_argument("--tls-key", metavar="FILE", help="and its key")
    group.add_argument("--tls-client-ca", metavar="FILE", help="clients need a certificate of these authorities")
    group.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds after which a request is given up (600)"
    )
    group = parser.add_argument_group("what is written of it")
    group.add_argument("--audit", metavar="FOLDER", help="a log of who asked for what, whose lines hold each other")
    group.add_argument("--audit-key", metavar="FILE", help="32 random bytes or more: without them no line can be forged")
    group.add_argument("--audit-keep", type=float, metavar="DAYS", help="files of the log that are older are removed (none)")
    group.add_argument("--audit-prompts", action="store_true", help="write prompts too, without what looks like a secret")
    group.add_argument("--audit-redact", action="append", default=[], metavar="REGEX", help="leave this out of them as well")


def shown(host: str) -> str:
    """An address as URLs and the Host header have it."""
    return f"[{host}]" if ":" in host else host


def checked(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what is missing before anything is opened."""
    import re
    from typing import get_args

    from slmops.core.errors import UsageError
    from slmops.serve.request import Role

    if arguments.host not in LOOPBACK and not (
        arguments.keys or arguments.oidc_issuer or arguments.tls_client_ca or arguments.insecure
    ):
        cure = "give --keys FILE, or say --insecure if something in front of it checks who asks"
        raise UsageError(f"{arguments.host} can be reached from elsewhere, and no keys are asked for", cure)
    if bool(arguments.tls_cert) != bool(arguments.tls_key) or (arguments.tls_client_ca and not arguments.tls_cert):
        raise UsageError("TLS needs a certificate and its key", "give --tls-cert FILE and --tls-key FILE")
    if bool(arguments.oidc_issuer) != bool(arguments.oidc_audience) or bool(arguments.oidc_issuer) != bool(
        arguments.oidc_role
    ):
        cure = "--oidc-issuer https://..., --oidc-audience NAME, --oidc-role team-a=user (again for more)"
        raise UsageError("tokens need an issuer, an audience and the roles that they give", cure)
    roles = get_args(Role)
    if any(one.rpartition("=")[2] not in roles or not one.rpartition("=")[0] for one in arguments.oidc_role):
        raise UsageError("--oidc-role is VALUE=ROLE", f"a role is one of {', '.join(roles)}")
    for origin in arguments.cors:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*,;]+", origin):
            raise UsageError(f"{origin[:100]!r} is no origin of a page", "as https://chat.example.org, one by one")
    if not 0 < arguments.timeout < 1e6:
        raise UsageError("--timeout is a number of seconds above 0")


def audit(arguments: argparse.Namespace) -> Audit | None:
    """The log, open for this process alone. Raises VerificationFailed where it was tampered with, Busy, UsageError."""
    from pathlib import Path

    from slmops.core.errors import UsageError
    from slmops.serve.audit import Audit, Redactor

    if not arguments.audit:
        if arguments.audit_key or arguments.audit_keep or arguments.audit_prompts or arguments.audit_redact:
            raise UsageError("there is no audit log", "give --audit FOLDER")
        return None
    if arguments.audit_redact and not arguments.audit_prompts:
        raise UsageError("without --audit-prompts no prompt is written", "leave --audit-redact out")
    return Audit(
        Path(arguments.audit),
        key=secret(Path(arguments.audit_key)) if arguments.audit_key else None,
        keep_days=arguments.audit_keep,
        redactor=Redactor(arguments.audit_redact) if arguments.audit_prompts else None,
    )


def watchers(arguments: argparse.Namespace, audit: Audit | None) -> list[Watcher]:
    """Those of the desk: the log first, so that what limits refuse stands in it too."""
    import time

    from slmops.serve.limits import DAY, Limits

    limits = Limits(arguments.context)
    if audit is None:
        return [limits]
    limits.spent(audit.used(time.time() // DAY * DAY))
    return [audit, limits]


def secret(path: Path) -> bytes:
    """A key of the audit log. Raises SourceNotFound, UsageError."""
    from slmops.core.errors import SourceNotFound, UsageError

    try:
        found = path.read_bytes()[:4096]
    except OSError as error:
        raise SourceNotFound(f"{path} cannot be read: {error.strerror}", "32 random bytes or more") from None
    if len(found) < 32:
        raise UsageError(f"{path} has {len(found)} bytes, which can be guessed", f"head -c 32 /dev/urandom > {path}")
    return found


def certificate(arguments: argparse.Namespace) -> Certificate | None:
    """What the server shows of itself; None: it speaks without encryption."""
    from pathlib import Path

    from slmops.serve.tls import Certificate

    if not arguments.tls_cert:
        return None
    authorities = Path(arguments.tls_client_ca) if arguments.tls_client_ca else None
    return Certificate(Path(arguments.tls_cert), Path(arguments.tls_key), authorities)


def access(arguments: argparse.Namespace) -> Access:
    """How callers are known. Raises what reading the keys raises."""
    from pathlib import Path

    from slmops.serve.access import Access
    from slmops.serve.keys import Keys

    hosts = {*LOOPBACK, "[::1]", shown(arguments.host.lower()), *(one.lower() for one in arguments.allow_host)}
    tokens = None
    if arguments.oidc_issuer:
        from slmops.serve.tokens import Issuer

        given = dict(one.rpartition("=")[::2] for one in arguments.oidc_role)
        tokens = Issuer(arguments.oidc_issuer, arguments.oidc_audience, given, arguments.oidc_claim)
    return Access(
        frozenset(hosts),
        keys=Keys(Path(arguments.keys)) if arguments.keys else None,
        tokens=tokens,
        certificates=bool(arguments.tls_client_ca),
        own=arguments.host in LOOPBACK,
        origins=frozenset(arguments.cors),
    )
