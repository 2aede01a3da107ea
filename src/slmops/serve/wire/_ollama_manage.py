"""Models by Ollama's API: /api/pull, push, create, copy, delete and blobs, over the registry that the server serves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from slmops.core.errors import CorruptInput, PolicyRefused, SlmopsError, SourceNotFound, UsageError
from slmops.core.store import no_space, sync_file
from slmops.core.watch import Watch
from slmops.registry import Registry, references
from slmops.serve.desk import Desk
from slmops.serve.wire._http import Body, Form, caller, noted, read
from slmops.serve.wire._ollama_bodies import NDJSON, Message, Named, Nothing, Options
from slmops.serve.wire._ollama_jobs import Jobs, Work
from slmops.serve.wire._openapi import reads

if TYPE_CHECKING:
    from slmops import create as creating

# What pulls, makes and pushes is imported when it is asked for: a server answers sooner than it is read.
MOST_BLOB = 1 << 40
MOST_FILES = 1024
SOURCES = "pulled is org/name (or hf.co/org/name:Q4_K_M) of the Hugging Face Hub, or HOST/REPOSITORY:TAG of an OCI registry"
Digests = Annotated[dict[str, Annotated[str, Field(max_length=71)]] | None, Field(max_length=MOST_FILES)]


class Pull(Named):
    stream: bool | None = None
    insecure: bool | None = None
    username: Nothing = None
    password: Nothing = None


class Copy(Body):
    source: Annotated[str, Field(min_length=1, max_length=300)]
    destination: Annotated[str, Field(min_length=1, max_length=300)]


class Create(Named):
    stream: bool | None = None
    from_: Annotated[str | None, Field(alias="from", max_length=300)] = None
    files: Digests = None
    adapters: Digests = None
    template: Annotated[str | None, Field(max_length=1 << 16)] = None
    system: Annotated[str | None, Field(max_length=1 << 18)] = None
    license: Annotated[str, Field(max_length=1 << 18)] | Annotated[list[str], Field(max_length=16)] | None = None
    parameters: Options | None = None
    messages: Annotated[list[Message] | None, Field(max_length=256)] = None
    quantize: Annotated[str | None, Field(max_length=64)] = None
    quantization: Annotated[str | None, Field(max_length=64)] = None

    def wanted(self) -> creating.Wanted:
        from slmops import create as creating

        if any(one.role == "tool" or one.tool_calls for one in self.messages or ()):
            raise UsageError("messages: those of a model are of the roles system, user and assistant, and call nothing")
        said = [{"role": one.role, "content": one.content or ""} for one in self.messages or ()]
        licences = [self.license] if isinstance(self.license, str) else self.license or []
        return creating.Wanted(
            source=self.from_ or "",
            files=self.files or {},
            adapters=self.adapters or {},
            system=self.system,
            messages=None if self.messages is None else tuple(said),
            parameters=self.parameters,
            template=self.template or None,
            licence="\n\n".join(licences) or None,
            quantize=self.quantize or self.quantization,
        )


def routes(desk: Desk) -> list[Route]:
    """The routes that manage models. Who may use them stands in rights.py."""
    jobs = Jobs()

    def allowed() -> None:
        if not desk.models.registry:
            raise PolicyRefused("this server serves what it was given, and not the registry", "slmops serve --registry")

    async def asked(http: HttpRequest, form: type[Form]) -> Form:
        """The body. Raises PolicyRefused, ValidationError."""
        body = await read(http, form)
        allowed()
        return body

    def of(http: HttpRequest, name: str, to: str = "", source: str | None = None) -> dict[str, str]:
        """What the audit log is told. Raises PolicyRefused for a name that is not the caller's: they could else copy what
        they may not use to a name that they may."""
        facts = noted(http, name, to)
        for one in filter(None, (name, to, source)):
            caller(http).check(one)
            if (here := _named(one)) is not None:
                caller(http).check(here)
        return facts

    @reads(Pull, "status", media=NDJSON)
    async def pulled(http: HttpRequest) -> Response:
        body = await asked(http, Pull)
        return await jobs.answer(_pulling(body), body.stream, of(http, body.meant))

    @reads(Pull, "status", media=NDJSON)
    async def pushed(http: HttpRequest) -> Response:
        body = await asked(http, Pull)
        return await jobs.answer(_pushing(body), body.stream, of(http, body.meant))

    @reads(Create, "status", media=NDJSON)
    async def created(http: HttpRequest) -> Response:
        body = await asked(http, Create)
        facts = of(http, body.meant, source=body.from_)
        name, wanted = references.named(body.meant), body.wanted()

        def work(watch: Watch) -> str:
            from slmops import create as creating

            with Registry.open() as registry:
                return creating.create(registry, name, wanted, watch)

        return await jobs.answer(work, body.stream, facts)

    @reads(Copy, empty=True)
    async def copied(http: HttpRequest) -> Response:
        body = await asked(http, Copy)
        facts = of(http, body.source, body.destination)
        facts["digest"] = await asyncio.to_thread(_copy, body.source, body.destination)
        return Response(status_code=200)

    @reads(Named, empty=True)
    async def deleted(http: HttpRequest) -> Response:
        body = await asked(http, Named)
        facts = of(http, body.meant)
        facts["digest"] = await asyncio.to_thread(_remove, body.meant)
        return Response(status_code=200)

    async def blob(http: HttpRequest) -> Response:
        allowed()
        digest = references.digest(http.path_params["digest"])
        noted(http, "")["digest"] = digest
        if await asyncio.to_thread(_has, digest):
            return Response(status_code=200)
        if http.method == "HEAD":
            return Response(status_code=404)
        try:
            await _receive(http, digest)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        return Response(status_code=201)

    return [
        Route("/api/pull", pulled, methods=["POST"]),
        Route("/api/push", pushed, methods=["POST"]),
        Route("/api/create", created, methods=["POST"]),
        Route("/api/copy", copied, methods=["POST"]),
        Route("/api/delete", deleted, methods=["DELETE"]),
        Route("/api/blobs/{digest}", blob, methods=["HEAD", "POST"]),
    ]


def _pulling(body: Pull) -> Work:
    """Names of the Hub and of OCI registries; of what is here already there is nothing to do. Paths are not the client's to
    name, nor web addresses."""
    from slmops import obtain
    from slmops.formats import _hub
    from slmops.registry import remotes

    text = body.meant
    spelled = _hub.spelled(text)
    repo, variant = spelled or (text, None)
    hub, place = _hub.parse(repo), None
    with contextlib.suppress(UsageError):
        place = _there(text) if hub is None else None
    if hub is None and place is None and references.parse(text) is None:
        raise UsageError(f"model {text[:100]!r} is no name", SOURCES)

    def work(watch: Watch) -> str:
        with Registry.open() as registry:
            if spelled is None:
                with contextlib.suppress(SlmopsError):
                    return registry.resolve(text)
            if place is not None:
                source, name = place
                wanted = remotes.Wanted(name=name, plain_http=bool(body.insecure), replace=True)
                return " ".join(remotes.pull(registry, source, wanted, watch).artifacts)
            if hub is None:
                raise SourceNotFound(f"model {text[:100]!r} not found", SOURCES)
            registry.policy.admit(f"hf:{hub.repo}")
            return registry.resolve(str(obtain.obtain(registry, hub, variant=variant, watch=watch)))

    return work


def _there(text: str) -> tuple[str, references.Reference | None]:
    """Where HOST/REPOSITORY[:TAG] is pulled from, with or without oci: before it, and its name here, which has the host in
    it; what is meant by its digest is named after its repository. Raises UsageError."""
    from slmops.registry._distribution import hosted, parse

    if text.startswith("oci:") and "@" in text:
        return str(parse(text)), None
    name, place = hosted(text.removeprefix("oci:").removeprefix("//"))
    return str(place), name


def _pushing(body: Pull) -> Work:
    """A name that begins with a host is pushed there, as Ollama has it."""
    from slmops.registry import push
    from slmops.registry._distribution import Repository, hosted

    name, place = hosted(body.meant)

    def work(watch: Watch) -> str:
        with Registry.open() as registry, Repository(place, plain_http=bool(body.insecure)) as there:
            digest = registry.resolve(str(name))
            push.push(registry, digest, there, place.tag, over=None, watch=watch)
            return digest

    return work


def _named(text: str) -> str | None:
    """What HOST:PORT/REPOSITORY[:TAG] is called here, where that is another name."""
    from slmops.registry._distribution import hosted

    with contextlib.suppress(UsageError):
        return str(hosted(text.removeprefix("oci:").removeprefix("//"))[0])
    return None


def _copy(source: str, text: str) -> str:
    from slmops.registry._distribution import kept

    name = kept(text)
    with Registry.open() as registry:
        return registry.tag(source, name, replace=True)


def _remove(text: str) -> str:
    with Registry.open() as registry:
        return registry.remove(text)[0]


def _has(digest: str) -> bool:
    with Registry.open() as registry:
        return registry.blobs.has(digest)


async def _receive(http: HttpRequest, digest: str) -> None:
    """A blob that is hashed as it comes, and has its name after it proved to be what it says."""
    most = await asyncio.to_thread(_most)
    if int(said if (said := http.headers.get("content-length", "0")).isdecimal() else "0") > most:
        raise CorruptInput(f"a blob has at most {most:,} bytes here")
    path = await asyncio.to_thread(_place)
    try:
        hashed, size = hashlib.sha256(), 0
        with path.open("wb") as handle:

            def write(chunk: bytes) -> None:
                with no_space(path):
                    handle.write(chunk)
                hashed.update(chunk)

            async for chunk in http.stream():
                size += len(chunk)
                if size > most:
                    raise CorruptInput(f"a blob has at most {most:,} bytes here")
                await asyncio.to_thread(write, chunk)
        if (found := f"sha256:{hashed.hexdigest()}") != digest:
            raise CorruptInput(f"digest mismatch: the bytes are {found}, not {digest}", "send the file that was hashed")
        await asyncio.to_thread(_settle, path, digest, size)
    finally:
        path.unlink(missing_ok=True)


def _place() -> Path:
    """Where a blob lies that has no name yet; what a killed server leaves there goes with the next gc."""
    with Registry.open() as registry:
        return registry.root / "scratch" / f"{os.getpid()}.{secrets.token_hex(8)}"


def _settle(path: Path, digest: str, size: int) -> None:
    with Registry.open() as registry, registry.writing():
        sync_file(path)
        registry.blobs.settle(path, digest, size)
        registry.trust([digest])


def _most() -> int:
    with Registry.open() as registry:
        return registry.policy.most_bytes or MOST_BLOB
