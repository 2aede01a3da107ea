"""One repository of an OCI registry over HTTP: manifests, tags, referrers, blobs.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md; endpoints have their numbers there (end-1 ...).
What an answer holds is hostile until it is proven by its digest.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

from slmops.core import hosts
from slmops.core.errors import CorruptInput, SourceNotFound, Unreachable, UsageError
from slmops.registry import _http, index, manifest, references
from slmops.registry._credentials import Tokens, login
from slmops.registry.blobs import Blob

HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
PLACE = re.compile(rf"oci:(?://)?({HOST})/({references.NAME.pattern})(?::({references.TAG.pattern}))?"
                   rf"(?:@({references.DIGEST.pattern}))?", re.ASCII)  # fmt: skip
FOREIGN = (
    index.INDEX, "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)  # fmt: skip
"""Asked for as well, so that they can be refused by name."""
ACCEPT = {"Accept": ", ".join((manifest.MANIFEST, *FOREIGN))}
FALLBACK = re.compile(r"sha256-[0-9a-f]{64}(?:\..{1,50})?", re.ASCII)
"""Tags that registries without a referrers API need (Referrers Tag Schema), and cosign's."""
MOST_TAGS, MOST_NAMES = 10_000, 100_000
MOST_REFERRERS = 10_000
PAGES = 1000
TRIES = 3
"""Of adding to a tag that others add to as well."""


@dataclass(frozen=True)
class Place:
    """Somewhere in a registry; `tag` and `digest` may be empty."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"oci:{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Place:
    """`oci:HOST[:PORT]/REPOSITORY[:TAG][@sha256:...]`. Raises UsageError."""
    match = PLACE.fullmatch(text) if len(text) <= 1000 else None
    if match is None:
        raise UsageError(f"{text[:200]!r} is no place in an OCI registry", "it is oci:HOST/REPOSITORY:TAG, in lower case")
    return Place(match[1].lower(), match[2], match[3] or "", match[4] or "")


def kept(text: str) -> references.Reference:
    """The name here of HOST[:PORT]/REPOSITORY[:TAG], as Docker's and Ollama's users write it, or of any other: names here
    have no port. Raises UsageError."""
    host, slash, rest = text.partition("/")
    return references.named(f"{host.partition(':')[0]}/{rest}" if slash else text)


def hosted(text: str) -> tuple[references.Reference, Place]:
    """The name here and the place there of such a text. Raises UsageError where it names no host."""
    host, _, repository = text.partition("/")
    if not repository or not ({".", ":"} & set(host) or host == "localhost"):
        raise UsageError(
            f"{text[:100]!r} names no registry to push to", "copy it to HOST/REPOSITORY:TAG, and push that (ollama cp)"
        )
    name, place = kept(text), parse(f"oci:{text}")
    return name, replace(place, tag=name.tag)


@dataclass(frozen=True)
class Held:
    """A manifest that a registry has, proven by its digest if that was asked for."""

    blob: Blob
    content: bytes
    media: str


@dataclass(frozen=True)
class Referrer:
    """A manifest about another, as its registry lists it."""

    blob: Blob
    artifact_type: str


class Repository:
    """One repository. A context manager; many threads may use one.

    plain_http: speak without encryption to a host that is not this machine.
    """

    def __init__(self, place: Place, *, plain_http: bool = False) -> None:
        plain = plain_http or hosts.own(re.sub(r":[0-9]+$", "", place.host).strip("[]"))
        self.place, self.plain_http = replace(place, tag="", digest=""), plain_http
        host = "registry-1.docker.io" if place.host == "docker.io" else place.host
        self.root = f"{'http' if plain else 'https'}://{host}/v2/"
        self.tokens = Tokens(self.root, lambda: login(place.host, place.repository))
        self.http = _http.Client(self.root, self.tokens)
        self.base = f"{self.root}{place.repository}"

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.http.__exit__(kind, error, trace)

    # Reading

    def find(self, reference: str) -> str | None:
        """The digest of the manifest that a tag or digest stands for, or None (end-3, HEAD)."""
        answer = self.http.request("HEAD", f"{self.base}/manifests/{reference}", headers=ACCEPT, expect=(200, 404))
        if answer.status == 404:
            return None
        said = answer.headers.get("Docker-Content-Digest", "")
        return references.digest(said) if said else self.manifest(reference).blob.digest

    def manifest(self, reference: str) -> Held:
        """A manifest by its tag or digest (end-3). Raises SourceNotFound, CorruptInput."""
        found = self._held(reference)
        if found is None:
            raise SourceNotFound(f"there is no {self.named(reference)}", "check host, name and tag")
        return found

    def _held(self, reference: str) -> Held | None:
        url = f"{self.base}/manifests/{reference}"
        answer = self.http.request("GET", url, headers=ACCEPT, expect=(200, 404), most=manifest.MOST_BYTES)
        if answer.status == 404:
            return None
        blob = Blob.of(answer.body)
        promised = reference if ":" in reference else answer.headers.get("Docker-Content-Digest", "")
        if promised.startswith("sha256:") and blob.digest != promised:
            fault = f"the bytes of {self.named(reference)} are not what their digest says"
            raise CorruptInput(fault, "tell who runs the registry")
        return Held(blob, answer.body, answer.headers.get("Content-Type", "").partition(";")[0].strip())

    def named(self, reference: str) -> str:
        """How errors call a manifest."""
        return f"{self.place}{'@' if ':' in reference else ':'}{reference}"

    def tags(self) -> list[str]:
        """All tags that are names (end-8). A repository that is not there has none."""
        found: list[str] = []
        for page in self._pages(f"{self.base}/tags/list?n=1000", (404,)) or ():
            listed = page.get("tags") or []
            if not isinstance(listed, list):
                raise CorruptInput(f"{self.place} lists tags that are no list")
            found += [one for one in listed if isinstance(one, str) and references.TAG.fullmatch(one)]
            if len(found) > MOST_TAGS:
                raise CorruptInput(f"{self.place} has more than {MOST_TAGS:,} tags")
        return [one for one in dict.fromkeys(found) if FALLBACK.fullmatch(one) is None]

    def names(self) -> list[str] | None:
        """All repositories of this registry that it shows; None where it shows none (`_catalog`, which not all have)."""
        found: list[str] = []
        with contextlib.suppress(CorruptInput):
            pages = self._pages(f"{self.root}_catalog?n=1000", (400, 401, 403, 404, 405))
            for page in pages or ():
                listed = page.get("repositories") or []
                found += [one for one in listed if isinstance(one, str) and references.NAME.fullmatch(one)]
                if len(found) > MOST_NAMES:
                    return None
            return found if pages is not None else None
        return None

    def referrers(self, digest: str) -> list[Referrer]:
        """Manifests about another (end-12, or the tag that stands in for it). Only those of our kinds."""
        pages = self._pages(f"{self.base}/referrers/{references.digest(digest)}", (400, 404, 405))
        found: list[Referrer] = []
        for page in (self._fallback(digest),) if pages is None else pages:
            found += _listed(page, str(self.place))
            if len(found) > MOST_REFERRERS:
                raise CorruptInput(f"{digest} has {len(found):,} referrers at {self.place}", f"at most {MOST_REFERRERS:,}")
        return [one for one in found if manifest.kind_attached(one.artifact_type) is not None]

    def _fallback(self, digest: str) -> dict[str, Any]:
        """The index under the tag of the Referrers Tag Schema."""
        held = self._held(digest.replace(":", "-"))
        if held is None:
            return {"manifests": []}
        try:
            value = json.loads(held.content)
        except (ValueError, RecursionError) as error:
            raise CorruptInput(f"the referrers of {digest} are not JSON: {error}") from None
        if not isinstance(value, dict) or value.get("mediaType", index.INDEX) != index.INDEX:
            raise CorruptInput(f"the referrers of {digest} are no index")
        return value

    def append(self, blob: Blob, path: Path, came: Callable[[int], None]) -> None:
        """Bring a file with the beginning of a blob to its end (end-2). Its bytes are unproven."""
        self.http.append(f"{self.base}/blobs/{references.digest(blob.digest)}", path, blob.size, came)

    def _pages(self, url: str, absent: Sequence[int]) -> Iterator[dict[str, Any]] | None:
        """JSON pages, as far as the registry links them; None where it answers that there is no such thing."""
        first = self.http.request("GET", url, expect=(200, *absent))
        return self._linked(first) if first.status == 200 else None

    def _linked(self, answer: _http.Answer) -> Iterator[dict[str, Any]]:
        for _ in range(PAGES):
            yield answer.json()
            link = re.match(r'<([^>]{1,4000})>\s*;\s*rel="?next"?', answer.headers.get("Link", ""))
            if link is None:
                return
            url = urljoin(answer.url, link[1])
            if not url.startswith(self.root):
                raise CorruptInput(f"{self.place} lists what goes on at {_http.shown(url)}", "that is another server")
            answer = self.http.request("GET", url)
        raise CorruptInput(f"{_http.shown(answer.url)} has more than {PAGES:,} pages")

    # Writing

    def has(self, blob: Blob) -> bool:
        """Whether a blob is there (end-2, HEAD)."""
        url = f"{self.base}/blobs/{references.digest(blob.digest)}"
        return self.http.request("HEAD", url, expect=(200, 404)).status == 200

    def put(self, content: bytes, media: str, reference: str) -> bool:
        """Put a manifest under a tag or its digest (end-7); whether the registry lists it with its subject by itself."""
        url = f"{self.base}/manifests/{reference}"
        answer = self.http.request("PUT", url, headers={"Content-Type": media}, body=content, expect=(201,))
        digest = Blob.of(content).digest
        said = answer.headers.get("Docker-Content-Digest", digest)
        if said.startswith("sha256:") and said != digest:
            raise CorruptInput(f"{self.place} took {digest} for {said[:80]}", "tell who runs the registry")
        return "OCI-Subject" in answer.headers

    def list_referrer(self, subject: str, descriptor: dict[str, Any]) -> None:
        """Add a manifest to the tag that stands in for the referrers API. Raises Unreachable where others keep winning."""
        for _ in range(TRIES):
            held = self._fallback(subject)
            if any(one.blob.digest == descriptor["digest"] for one in _listed(held, str(self.place))):
                return
            made = {"schemaVersion": 2, "mediaType": index.INDEX, "manifests": [*(held.get("manifests") or ()), descriptor]}
            self.put(manifest.canonical(made), index.INDEX, subject.replace(":", "-"))
        # Another writer may have replaced it meanwhile: it is looked at again, and then it is there or not.
        if not any(one.blob.digest == descriptor["digest"] for one in _listed(self._fallback(subject), str(self.place))):
            raise Unreachable(f"others change the referrers of {subject[:19]} at {self.place}", "run it again")

    def untag(self, tag: str) -> bool:
        """Remove a tag (end-9); where the registry cannot, its manifest, if it has no other tag. Whether it is gone."""
        digest = self.find(tag)
        if digest is None:
            return True
        refused = (202, 400, 404, 405)
        self.http.request("DELETE", f"{self.base}/manifests/{tag}", expect=refused)
        if self.find(tag) is None:
            return True
        if any(self.find(other) == digest for other in self.tags() if other != tag):
            return False
        self.http.request("DELETE", f"{self.base}/manifests/{digest}", expect=refused)
        return self.find(tag) is None


def _listed(page: dict[str, Any], where: str) -> list[Referrer]:
    """The descriptors of an index of referrers. Raises CorruptInput."""
    entries = page.get("manifests") or []
    if not isinstance(entries, list):
        raise CorruptInput(f"{where} lists referrers that are no list")
    found = []
    for one in entries:
        if not isinstance(one, dict) or type(one.get("size")) is not int or not 0 <= one["size"] < 1 << 63:
            raise CorruptInput(f"{where} lists a referrer without a size")
        found.append(Referrer(Blob(references.digest(one.get("digest", "")), one["size"]), str(one.get("artifactType", ""))))
    return found
