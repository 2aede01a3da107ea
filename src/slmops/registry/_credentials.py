"""Who we are to an OCI registry: credentials that the user keeps for it, and the tokens that it trades them for.

SLMOPS_REGISTRY_USER and SLMOPS_REGISTRY_PASSWORD (for SLMOPS_REGISTRY_HOST alone, where that is set), else what `docker
login`, `podman login` or `skopeo login` wrote: $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json, containers/auth.json.
Token flow: https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.registry import _http

MOST_CONFIG = 1 << 20
HELPER = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
HELPER_SECONDS = 60
DOCKER_IO = "https://index.docker.io/v1/"
"""What docker calls Docker Hub in its files."""
REFRESH = "<token>"
"""The user's name by which a helper says that its secret is a refresh token."""


@dataclass(frozen=True, repr=False)
class Login:
    """A user and a password, or a refresh token (of the OAuth2 flow)."""

    user: str = ""
    password: str = ""
    refresh: str = ""

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def login(host: str, repository: str) -> Login | None:
    """What the user has for a host, or for a part of it. Raises CorruptInput for a file that cannot be read."""
    user, password = os.environ.get("SLMOPS_REGISTRY_USER"), os.environ.get("SLMOPS_REGISTRY_PASSWORD")
    if user and password is not None and os.environ.get("SLMOPS_REGISTRY_HOST", host) == host:
        return Login(user, password)
    for path in _files():
        if (found := _kept(path, host, repository)) is not None:
            return found
    return None


def _files() -> list[Path]:
    """Where logins are kept, in the order that they are asked."""
    if given := os.environ.get("REGISTRY_AUTH_FILE"):
        return [Path(given)]
    docker = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    found = [docker / "config.json"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime) / "containers" / "auth.json")
    return [*found, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers" / "auth.json"]


def _kept(path: Path, host: str, repository: str) -> Login | None:
    cure = "log in again with docker, podman or skopeo, which write it; or set SLMOPS_REGISTRY_USER and _PASSWORD"
    try:
        with path.open("rb") as handle:
            value = json.loads(handle.read(MOST_CONFIG))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptInput(f"the logins in {path} cannot be read: {error}", cure) from None
    held = value if isinstance(value, dict) else {}
    names = [DOCKER_IO] if host == "docker.io" else []
    # The longest part of host/repository that has a login of its own, as containers-auth.json(5) has it; then the host.
    parts = f"{host}/{repository}".split("/")
    names += ["/".join(parts[:count]) for count in range(len(parts), 0, -1)] + [f"https://{host}", f"http://{host}"]
    helpers, auths = _table(held, "credHelpers"), _table(held, "auths")
    for name in names:
        if isinstance(helper := helpers.get(name), str):
            return _helped(helper, name)
        if isinstance(entry := auths.get(name, auths.get(f"{name}/")), dict) and (found := _plain(entry, path, cure)):
            return found
    store = held.get("credsStore")
    return _helped(store, DOCKER_IO if host == "docker.io" else host) if isinstance(store, str) and store else None


def _table(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _plain(entry: dict[str, Any], path: Path, cure: str) -> Login | None:
    """An entry of `auths`; docker leaves it empty where a helper has the secret."""
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Login(refresh=token)
    if not isinstance(coded := entry.get("auth"), str) or not coded:
        return None
    try:
        user, colon, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise CorruptInput(f"a login in {path} cannot be read", cure)
    return Login(user, password.rstrip("\0"))


@functools.cache
def _helped(helper: str, host: str) -> Login | None:
    """Ask the program that keeps the user's logins (docker-credential-helpers: host in, JSON out)."""
    program = f"docker-credential-{helper}"
    if HELPER.fullmatch(helper) is None:
        raise CorruptInput(
            f"{helper[:100]!r} is no name of a credential helper", "see credsStore, credHelpers of docker's file"
        )
    try:
        done = subprocess.run([program, "get"], input=host.encode(), capture_output=True, timeout=HELPER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        said = f"{program}, which keeps the login of {host}, cannot be asked: {error}"
        raise SourceNotFound(said, "install it, or set SLMOPS_REGISTRY_USER and SLMOPS_REGISTRY_PASSWORD") from None
    if done.returncode:
        return None  # it has none: `credentials not found in native keychain`
    try:
        found = json.loads(done.stdout[:MOST_CONFIG])
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptInput(f"{program} answers what is no login") from None
    return Login(refresh=secret) if user == REFRESH else Login(user, secret)


class Tokens:
    """An _http.Authorization for one registry: Basic, or a Bearer token that is asked for where the registry says.

    Scopes add up, so that one token serves all that a client does. `login` is called when the registry first asks.
    Safe for threads.
    """

    def __init__(self, url: str, login: Callable[[], Login | None]) -> None:
        self._url, self._ask = url, login
        self._lock = threading.Lock()
        self._header: str | None = None
        self._scopes: dict[str, None] = {}

    @functools.cached_property
    def _login(self) -> Login | None:
        return self._ask()

    def scope(self, text: str) -> None:
        """Ask for this too: a token without it is given up."""
        with self._lock:
            if text not in self._scopes:
                self._scopes[text] = None
                if self._header is not None and self._header.startswith("Bearer "):
                    self._header = None

    def header(self) -> str | None:
        return self._header

    def challenged(self, challenges: list[str], sent: str | None) -> bool:
        with self._lock:
            if self._header != sent:
                return True  # another thread has been here meanwhile
            for challenge in challenges:
                kind, _, rest = challenge.strip().partition(" ")
                if kind.lower() == "bearer":
                    self._header = self._token(_parameters(rest))
                    return self._header is not None
                if kind.lower() == "basic" and sent is None:
                    if self._login is None or not self._login.user:
                        cure = "docker login does, or SLMOPS_REGISTRY_USER and SLMOPS_REGISTRY_PASSWORD"
                        raise SourceNotFound(f"{_http.shown(self._url)} asks for a login, and there is none for it", cure)
                    self._header = self._login.basic()
                    return True
            return False

    def _token(self, asked: dict[str, str]) -> str | None:
        """A token for all scopes so far; anonymous where there is no login. Raises SourceNotFound where that is refused."""
        realm = _http.checked(asked.get("realm", ""))
        if self._url.startswith("https:") and not realm.startswith("https:"):
            raise CorruptInput(f"the registry asks to send credentials to {_http.shown(realm)}", "that is not encrypted")
        self._scopes.update(dict.fromkeys(asked.get("scope", "").split()))
        listed = [("service", asked["service"])] if "service" in asked else []
        known = self._login if self._login is not None and self._login.user else None
        with _http.Client(realm, _Basic(known) if known else None) as client:
            if self._login is not None and self._login.refresh:
                form = [("grant_type", "refresh_token"), ("refresh_token", self._login.refresh), ("client_id", "slmops")]
                form += [*listed, ("scope", " ".join(self._scopes))]
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                answer = client.request("POST", realm, headers=kind, body=urlencode(form).encode(), most=MOST_CONFIG)
            else:
                listed += [("scope", one) for one in self._scopes]
                joint = "&" if urlsplit(realm).query else "?"
                answer = client.request("GET", f"{realm}{joint}{urlencode(listed)}", most=MOST_CONFIG)
        found = answer.json()
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or re.fullmatch(r"[\x21-\x7e]+", token) is None:
            raise CorruptInput(f"{_http.shown(realm)} answers without a token")
        return f"Bearer {token}"


class _Basic:
    """A password for the host that hands out tokens."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def header(self) -> str | None:
        return self._login.basic()

    def challenged(self, challenges: list[str], sent: str | None) -> bool:
        return False


def _parameters(text: str) -> dict[str, str]:
    """realm="...", service="...": the parameters of a challenge (RFC 9110, 11.6.1)."""
    pairs = (one.partition("=") for one in urllib.request.parse_http_list(text))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
