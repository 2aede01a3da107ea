"""The one HTTP client of the registry: bounded, patient, and careful with whom it tells what.

Time-outs everywhere; what breaks is tried again with growing pauses, or those that Retry-After asks for; redirects are
followed by hand, a few, never from https to http, and credentials go to the host they were given for and to no other.
Proxies and certificates are the environment's (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE).
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

import slmops
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, Unreachable, Unsupported, UsageError

if TYPE_CHECKING:
    import httpx2

MOST = 16 << 20
"""Bytes of an answer that is kept in memory."""
SECONDS, CONNECT_SECONDS = 60.0, 20.0
"""That a server may be silent."""
REDIRECTS = 5
TRIES = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds; a server that asks for twice the longest is not waited for: the user is told."""
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
SLOW = (4096, 60.0)
"""Bytes in seconds: a connection that brings less is broken."""
ENOUGH = 1 << 20
"""Bytes that a connection brought before it broke, after which patience begins anew."""
MOVED = frozenset({301, 302, 303, 307, 308})

Body = Callable[[], Iterable[bytes]]
"""Makes the content anew for each try."""
Result = TypeVar("Result")


class Authorization(Protocol):
    """Credentials for one host. Called from several threads."""

    def header(self) -> str | None:
        """What to send as Authorization."""

    def challenged(self, challenges: list[str], sent: str | None) -> bool:
        """The host answered 401 with these WWW-Authenticate headers to what was sent; whether asking again makes sense."""


@dataclass(frozen=True)
class Answer:
    """What a server said; `headers` by name in any case."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        """The body as a JSON object. Raises CorruptInput."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise CorruptInput(f"{shown(self.url)} answered what is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise CorruptInput(f"{shown(self.url)} answered JSON that is no object")
        return value


class _Broken(Exception):
    """Worth another try; `after`: seconds that the server asked for."""

    def __init__(self, said: str, after: float | None = None) -> None:
        super().__init__(said)
        self.after = after


class Client:
    """Connections to one server, and to where it redirects. A context manager; many threads may use one.

    origin: a URL of the host that the credentials are for. pause: sleeps; tests do not.
    """

    def __init__(
        self, origin: str, authorization: Authorization | None = None, *, pause: Callable[[float], object] = time.sleep
    ) -> None:
        import httpx2

        self._origin, self._authorization, self._pause = _host(checked(origin)), authorization, pause
        self._http = httpx2.Client(
            verify=certificates(),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # they know no ports: another server's would do
            headers={"User-Agent": f"slmops/{slmops.__version__}", "Accept-Encoding": "identity"},
            follow_redirects=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        expect: Collection[int] = (200,),
        most: int = MOST,
        tries: int = TRIES,
        seconds: float = SECONDS,
    ) -> Answer:
        """Ask, and the whole answer, of at most `most` bytes, which may be silent for so many seconds.

        expect: statuses that are answers; any other is raised as `fault` has it. Raises Unreachable, CorruptInput.
        """

        def ask() -> Answer:
            with self._sent(method, url, headers or {}, body, seconds) as response:
                content = b"" if method == "HEAD" else _bounded(response, most)
                answer = Answer(str(response.url), response.status_code, response.headers, content)
            if answer.status not in expect and answer.status in AGAIN:
                raise _Broken(f"it answered {answer.status}{_said(content)}", after(answer.headers))
            return answer

        answer = self._patiently(url, ask, tries)
        if answer.status not in expect:
            raise fault(answer)
        return answer

    def append(
        self,
        url: str,
        path: Path,
        size: int,
        came: Callable[[int], None] = lambda _: None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Bring a file of `size` bytes to its end, from where it ends now; what came so far outlives a broken connection.

        came(bytes) as they come, negative where the server makes it begin anew; it may raise to stop. The bytes are
        unproven: the caller knows their digest. Raises Unreachable, SourceNotFound, CorruptInput.
        """
        tag = ""  # of the version that this call has begun with: another one is begun anew
        failures = 0
        path.touch()
        while (have := path.stat().st_size) < size:
            wanted = {**(headers or {}), **({"Range": f"bytes={have}-"} if have else {})}
            if have and tag:
                wanted["If-Range"] = tag
            try:
                with self._sent("GET", url, wanted) as response:
                    if response.status_code in AGAIN:
                        raise _Broken(f"it answered {response.status_code}", after(response.headers))
                    begin = _begin(response, size)
                    if begin is None:
                        raise fault(
                            Answer(str(response.url), response.status_code, response.headers, _bounded(response, MOST))
                        )
                    if begin != have:
                        came(begin - have)
                    if not response.headers.get("ETag", "W/").startswith("W/"):
                        tag = response.headers["ETag"]
                    _pour(response, path, begin, size, came)
            except _Broken as broken:
                failures = 1 if path.stat().st_size - have >= ENOUGH else failures + 1
                self._wait(url, broken, failures, TRIES)
        if path.stat().st_size > size:
            raise CorruptInput(f"{path} has more than the {size:,} bytes of {shown(url)}", "remove it, and fetch it again")

    def _patiently(self, url: str, ask: Callable[[], Result], tries: int) -> Result:
        failures = 0
        while True:
            try:
                return ask()
            except _Broken as broken:
                failures += 1
                self._wait(url, broken, failures, tries)

    def _wait(self, url: str, broken: _Broken, failures: int, tries: int) -> None:
        """Pause before another try. Raises Unreachable when it was tried often enough."""
        pause = min(FIRST_PAUSE * 2.0 ** (failures - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
        if broken.after is not None:
            pause = max(pause, broken.after)
        if failures >= tries or pause > 2 * LONGEST_PAUSE:
            again = f" in {broken.after:.0f} s" if broken.after else ""
            cure = f"run it again{again} when the network or the server is well; what came so far is kept"
            raise Unreachable(f"{shown(url)} cannot be reached: {broken}", cure) from None
        self._pause(pause)

    @contextlib.contextmanager
    def _sent(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        seconds: float = SECONDS,
    ) -> Iterator[httpx2.Response]:
        """One try: the answer at the end of its redirects, its body unread. Raises _Broken, Unsupported, SlmopsError."""
        import httpx2

        target, hops, asked = checked(url), 0, 0
        try:
            while True:
                own = _host(target) == self._origin
                token = self._authorization.header() if own and self._authorization is not None else None
                sent = {**headers, **({"Authorization": token} if token else {})}
                content = body() if callable(body) else body
                timeout = httpx2.Timeout(seconds, connect=CONNECT_SECONDS)
                request = self._http.build_request(method, target, headers=sent, content=content, timeout=timeout)
                response = self._http.send(request, stream=True)
                with contextlib.closing(response):
                    if response.status_code == 401 and own and self._authorization is not None and asked < 2:
                        asked += 1
                        if self._authorization.challenged(response.headers.get_list("WWW-Authenticate"), token):
                            continue
                    if response.status_code in MOVED and "Location" in response.headers:
                        hops += 1
                        target = _moved(method, target, response.headers["Location"], hops, response.status_code)
                        continue
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise CorruptInput(f"{shown(target)} sends what is compressed, which was not asked for")
                    yield response
                    return
        except httpx2.InvalidURL as error:
            raise UsageError(f"{url[:200]!r} is no URL: {error}") from None
        except httpx2.TransportError as error:
            untrusted = _cause(error, ssl.SSLCertVerificationError)
            if untrusted is not None:
                cure = "name the certificate of your authority in SSL_CERT_FILE"
                raise Unreachable(f"the certificate of {shown(target)} is not trusted: {untrusted}", cure) from None
            raise _Broken(_first(str(error)) or type(error).__name__) from error


@functools.cache
def certificates() -> ssl.SSLContext:
    """Those that the system trusts: read once, for it takes longer than most answers."""
    import httpx2

    return httpx2.create_ssl_context()


def checked(url: str) -> str:
    """A URL that may be asked. Raises UsageError: http and https only, and no credentials, which logs would show."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or re.search(r"[\x00-\x20\x7f\\]", url):
        raise UsageError(f"{url[:200]!r} is no URL that can be fetched", "it starts with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        raise UsageError("a URL holds a user or a password", "give credentials in the environment, not in the URL")
    return url


def shown(url: str) -> str:
    """A URL for people: without its query, which may hold a signature."""
    return url.partition("?")[0][:300]


def fault(answer: Answer) -> SlmopsError:
    """A status that is no answer, as an error of ours."""
    what, said = shown(answer.url), _said(answer.body)
    if answer.status in (401, 403):
        return SourceNotFound(
            f"{what} is refused ({answer.status}){said}", "give credentials that may do this, or check the name"
        )
    if answer.status in (404, 410):
        return SourceNotFound(f"{what} is not there ({answer.status}){said}", "check the name")
    if answer.status in AGAIN:
        return Unreachable(f"{what} answered {answer.status}{said}", "run it again later")
    return Unsupported(f"{what} answered {answer.status}{said}", "see what the server's log says of it")


def _moved(method: str, url: str, location: str, hops: int, status: int) -> str:
    """Where a redirect leads. Raises CorruptInput, Unsupported."""
    target = urljoin(url, location)
    if hops > REDIRECTS:
        raise CorruptInput(f"{shown(url)} redirects more than {REDIRECTS} times")
    if method not in ("GET", "HEAD") and status not in (307, 308):
        raise Unsupported(f"{shown(url)} redirects a {method} with {status}", "name the server that it leads to")
    try:
        checked(target)
    except UsageError as error:
        raise CorruptInput(f"{shown(url)} redirects to what is no web address: {error}") from None
    if url.startswith("https:") and not target.startswith("https:"):
        raise CorruptInput(f"{shown(url)} redirects from https to {shown(target)}", "nothing is fetched without encryption")
    return target


def _host(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _begin(response: httpx2.Response, size: int) -> int | None:
    """The offset in the file that this body begins at; None where it is no such answer. Raises CorruptInput."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", response.headers.get("Content-Range", ""))
        if match is None or match[3] not in (str(size), "*"):
            said = response.headers.get("Content-Range", "")[:80]
            raise CorruptInput(f"{shown(str(response.url))} sends {said!r} of what has {size:,} bytes", "fetch it again")
        return int(match[1])
    if response.status_code == 200:
        length = response.headers.get("Content-Length", str(size))
        if length != str(size):
            raise CorruptInput(f"{shown(str(response.url))} has {length[:20]} bytes, and {size:,} were promised")
        return 0
    return 0 if response.status_code == 416 else None  # 416: it is shorter there than it was; seen when it is poured


def _pour(response: httpx2.Response, path: Path, begin: int, size: int, came: Callable[[int], None]) -> None:
    """The body into the file, from `begin` on. Raises _Broken, CorruptInput."""
    least, seconds = SLOW
    since, brought = time.monotonic(), 0
    with path.open("r+b", buffering=0) as handle:
        if not 0 <= begin <= handle.seek(0, 2):
            raise CorruptInput(f"{shown(str(response.url))} sends another part than was asked for")
        handle.truncate(begin)
        handle.seek(begin)
        if response.status_code == 416:
            raise _Broken("it is shorter there than what came before")
        for chunk in response.iter_raw():
            begin += len(chunk)
            if begin > size:
                raise CorruptInput(f"{shown(str(response.url))} sends more than the {size:,} bytes that were promised")
            view = memoryview(chunk)
            while view:  # a write may take less than it was given
                view = view[handle.write(view) :]
            came(len(chunk))
            brought += len(chunk)
            if (now := time.monotonic()) - since > seconds:
                if brought < least:
                    raise _Broken(f"it sent {brought} bytes in {now - since:.0f} s")
                since, brought = now, 0
    if begin < size:
        raise _Broken(f"it sent {begin:,} of {size:,} bytes")


def _bounded(response: httpx2.Response, most: int) -> bytes:
    """The body. Raises CorruptInput where it is larger than `most`."""
    parts, size = [], 0
    for chunk in response.iter_raw():
        size += len(chunk)
        if size > most:
            raise CorruptInput(f"{shown(str(response.url))} answers with more than {most:,} bytes")
        parts.append(chunk)
    return b"".join(parts)


def after(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for (RFC 9110, 10.2.3: a number, or a date)."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _said(body: bytes) -> str:
    """What an error's body says: the messages of an OCI registry, or the beginning of a short text."""
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError, KeyError):
        listed = [f"{one.get('code', '')} {one.get('message', '')}".strip() for one in json.loads(body)["errors"][:3]]
        return f": {'; '.join(listed)[:300]}"
    text = body[:200].decode(errors="replace").strip()
    return f": {_first(text)}" if text and not text.startswith("<") else ""


def _first(text: str) -> str:
    return text.strip().partition("\n")[0][:200]


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
