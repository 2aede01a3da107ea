"""Signed tokens of an identity provider (OpenID Connect) in place of keys: whose they are, and which role they give.

Only what the issuer's own document names is asked, through the one HTTP client, and only where --oidc-issuer is given. A
token is taken when a public key of the issuer has signed it with an algorithm of ALGORITHMS that is the key's own, when it
is for this server (aud), from this issuer (iss) and of now (exp, nbf, iat). What a token says of where keys are (jku, x5u,
jwk, x5c) is never looked at. RFC 7519, RFC 8725; OpenID Connect Discovery 1.0. The only file that imports jwt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from slmops.core import hosts
from slmops.core.errors import CorruptInput, SlmopsError, Unreachable, UsageError
from slmops.serve.request import Caller, Role

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
"""Public keys alone: with none and HS* whoever reads the public key could sign."""
LEEWAY = 30
"""Seconds by which clocks may differ."""
MOST_TOKEN, MOST_KEYS, MOST_DOCUMENT = 8192, 100, 1 << 20
REFRESH, RETRY, STALE = 3600.0, 30.0, 86400.0
"""Seconds after which keys are asked for anew; at least between two askings, whatever strangers send; and after which keys
that cannot be had anew are not believed any more."""
STRONGEST: tuple[Role, ...] = ("admin", "operator", "user", "metrics")
DISCOVERY = "/.well-known/openid-configuration"

log = logging.getLogger(__name__)


class Issuer:
    """An identity provider. From one loop."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        roles: Mapping[str, Role],
        claim: str = "roles",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """roles: what a value of the claim gives; the strongest counts, and without any a token lets nobody in.

        claim: by its name, or by names with dots where it stands deeper (realm_access.roles). Nothing is fetched yet. Raises
        UsageError for an issuer that is not https, unless it is this machine.
        """
        if not hosts.encrypted(issuer):
            raise UsageError(f"{issuer[:200]!r} is no issuer: it begins with https://", "as its tokens have it in iss")
        self._issuer, self._audience, self._roles, self._claim = issuer, audience, dict(roles), claim.split(".")
        self._clock, self._keys = clock, dict[str, Any]()
        self._fetched = self._tried = -STALE
        self._lock = asyncio.Lock()

    async def caller(self, token: str) -> Caller | None:
        """Whose it is; None where it does not hold, whatever the reason."""
        import jwt

        if len(token) > MOST_TOKEN:
            return None
        try:
            header = jwt.get_unverified_header(token)
            kid, algorithm = header.get("kid"), header.get("alg")
            if algorithm not in ALGORITHMS or not isinstance(kid, str) or len(kid) > 300 or "crit" in header:
                return None
            key = await self._key(kid)
            if key is None or key.algorithm_name != algorithm:
                return None
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            return None
        role, name = self._role(claims), claims["sub"]
        if role is None or not isinstance(name, str) or not 0 < len(name) <= 128 or not name.isprintable():
            return None
        return Caller(f"token:{name}", role)  # never the name of a key, which has no colon

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        value: Any = claims
        for name in self._claim:
            value = value.get(name) if isinstance(value, dict) else None
        values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        given = {self._roles[one] for one in values[:1000] if isinstance(one, str) and one in self._roles}
        return next((role for role in STRONGEST if role in given), None)

    async def _key(self, kid: str) -> Any:
        """The public key of this name, asked for anew where it is not known or has been kept for long."""
        now = self._clock()
        wanted = kid not in self._keys or now - self._fetched > REFRESH
        if wanted and now - self._tried >= RETRY:
            async with self._lock:
                if self._clock() - self._tried >= RETRY:
                    self._tried = self._clock()
                    await self.refresh()
        return self._keys.get(kid) if self._clock() - self._fetched < STALE else None

    async def refresh(self) -> None:
        """Ask the issuer for its keys; what goes wrong is logged, and the former keys stay."""
        try:
            self._keys = await asyncio.to_thread(self._fetch)
            self._fetched = self._clock()
        except SlmopsError as error:
            log.error("the keys of %s cannot be had: %s", self._issuer, error)

    def _fetch(self) -> dict[str, Any]:
        """By kid. Raises Unreachable, CorruptInput and what else the client raises."""
        import jwt

        from slmops.registry._http import Client

        with Client(self._issuer) as http:
            about = http.request("GET", self._issuer.rstrip("/") + DISCOVERY, most=MOST_DOCUMENT, tries=2, seconds=10).json()
            if about.get("issuer") != self._issuer:
                raise CorruptInput(
                    f"{self._issuer} says it is {str(about.get('issuer'))[:200]!r}", "name it as it names itself"
                )
            place = str(about.get("jwks_uri", ""))
            if not place.startswith("https://" if self._issuer.startswith("https:") else ("https://", "http://")):
                raise CorruptInput(f"the keys of {self._issuer} are not at an https address")
            listed = http.request("GET", place, most=MOST_DOCUMENT, tries=2, seconds=10).json().get("keys")
        found: dict[str, Any] = {}
        for one in listed[:MOST_KEYS] if isinstance(listed, list) else []:
            if not isinstance(one, dict) or not isinstance(one.get("kid"), str) or one.get("use", "sig") != "sig":
                continue
            try:
                key = jwt.PyJWK(one)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue  # of a kind that is not known here
            if key.algorithm_name in ALGORITHMS:
                found[one["kid"]] = key
        if not found:
            raise Unreachable(f"{self._issuer} has no key that is understood", f"one for {', '.join(sorted(ALGORITHMS))}")
        return found
