"""Push to and pull from a real OCI registry (distribution), beside skopeo, and over a line that breaks and lies."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faultserver import Asked, Fault, Reply, cable, forward, serve
from filed import artifact
from needs import needs
from ociregistry import PASSWORD, USER, Running, needs_registry, needs_skopeo, skopeo
from ociregistry import serve as registry_of
from slmops.core.errors import (
    CorruptInput,
    OutputExists,
    PolicyRefused,
    SlmopsError,
    SourceNotFound,
    Unreachable,
    Unsupported,
    UsageError,
)
from slmops.core.watch import Watch
from slmops.registry import Registry, _http, _upload, archive, fsck, gc, manifest, remembered, remotes, signing, sync
from slmops.registry import push as pushing
from slmops.registry._distribution import Repository, parse
from slmops.registry.policy import Policy, Signers
from slmops.registry.push import Pushed
from slmops.registry.references import named
from slmops.registry.signing import Signer

pytestmark = needs_registry


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with registry_of(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as registry:
        registry.add(artifact(tmp_path / "made"), named("home:q4"))
        yield registry


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "other") as registry:
        yield registry


def push(registry: Registry, text: str, place: str, *, force: bool = False, jobs: int = 4) -> Pushed:
    where = parse(place)
    with Repository(where) as there:
        over = None if force else ()
        return pushing.push(registry, registry.resolve(text), there, where.tag, over=over, jobs=jobs)


def pull(registry: Registry, place: str, name: str | None = None, **options: object) -> archive.Taken:
    wanted = remotes.Wanted(name=named(name) if name else None, **options)  # type: ignore[arg-type]
    return remotes.pull(registry, place, wanted)


def large(folder: Path, size: int) -> Path:
    """An artifact whose weights are random."""
    artifact(folder)
    (folder / "model.gguf").write_bytes(os.urandom(size))
    facts = json.loads((folder / "slmops.json").read_text())
    facts["files"]["model.gguf"] = size
    (folder / "slmops.json").write_text(json.dumps(facts))
    return folder


# Beside skopeo


@needs_skopeo
def test_what_skopeo_copies_in_is_pulled_and_what_is_pushed_skopeo_copies_out(
    tmp_path: Path, home: Registry, other: Registry, server: Running
) -> None:
    digest = home.resolve("home:q4")
    skopeo("copy", "--dest-tls-verify=false", f"oci:{home.root}:home:q4", f"docker://{server.host}/in/home:q4")
    assert pull(other, f"oci:{server.host}/in/home:q4").artifacts == (digest,)
    assert other.resolve("home:q4") == digest and fsck.check(other.root).problems == ()

    place = f"oci:{server.host}/out/home:q4"
    pushed = push(home, "home:q4", place)
    assert pushed.digest == digest and pushed.place == place and pushed.sent > 70_000
    out = tmp_path / "layout"
    skopeo("copy", "--src-tls-verify=false", f"docker://{server.host}/out/home:q4", f"oci:{out}:home:q4")
    listed = json.loads((out / "index.json").read_text())["manifests"]
    assert [one["digest"] for one in listed] == [digest]
    seen = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{server.host}/out/home:q4")
    assert seen.encode() == home.blobs.read(digest, 1 << 20)


# Push and pull


def test_what_is_attached_travels_but_where_it_came_from_does_not(home: Registry, other: Registry, server: Running) -> None:
    digest = home.resolve("home:q4")
    document = {"measured": {"tokens_per_second": 12.5}, "verdicts": []}
    home.attach(digest, "measurement", document)
    home.attach(digest, "origin", {"source": "file:/etc"})
    place = f"oci:{server.host}/attached/home:q4"
    assert push(home, "home", place).attachments == 3  # with a bill of materials and a card, written on the way
    taken = pull(other, place)
    kept = (digest, *(name for name, kind in home.catalog.attachments(digest) if kind == "measurement"))
    assert taken.new == sum(blob.size for blob in {blob for one in kept for blob in home.manifest(one).blobs})
    kinds = {kind: other.document(other.manifest(name).layers[0].blob) for name, kind in other.catalog.attachments(digest)}
    assert kinds == {"measurement": document, "origin": {"source": f"oci:{server.host}/attached/home@{digest}"}}
    assert other.catalog.figures(digest)[0][1:] == ("tokens_per_second", 12.5)
    # Twice is nothing new, on either side; a document more goes alone.
    assert pull(other, place).new == 0 and push(home, "home", place).sent == 0
    other.attach(digest, "measurement", {"measured": {"tokens_per_second": 99.0}})
    assert 0 < push(other, "home", place).sent < 5_000
    pull(home, place)
    assert {value for _, _, value in home.catalog.figures(digest)} == {12.5, 99.0}
    for one in (home, other):
        assert fsck.check(one.root).problems == ()


def test_blobs_are_mounted_from_a_repository_that_has_them(home: Registry, server: Running) -> None:
    with serve(forward(server.url)) as through:
        push(home, "home", f"oci:{through.host}/mount/one:q4")
        sent = len(through.of("PUT", "/blobs/"))
        assert push(home, "home", f"oci:{through.host}/mount/two:q4").sent == 0
        assert len(through.of("PUT", "/blobs/")) == sent > 0
        assert all("from=mount%2Fone" in one.path for one in through.of("POST", "/mount/two/"))
        # A mount that is refused is sent instead.
        through.faults.append(Fault("POST", "mount=", times=99, reply=Reply(403)))
        assert push(home, "home", f"oci:{through.host}/mount/three:q4").sent > 70_000


class Referring:
    """The referrers API (distribution-spec 1.1, Listing Referrers) in front of a registry that has none, a page an entry."""

    def __init__(self, upstream: str) -> None:
        self.pass_on, self.listed = forward(upstream), dict[str, list[dict[str, object]]]()

    def answer(self, asked: Asked) -> Reply:
        path, _, query = asked.path.partition("?")
        if "/referrers/" in path:
            found = self.listed.get(path.rpartition("/")[2], [])
            at = int(query.removeprefix("at=") or 0)
            body = {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": found[at : at + 1],
            }
            more = {"Link": f'<{path}?at={at + 1}>; rel="next"'} if at + 1 < len(found) else {}
            return Reply(200, more, json.dumps(body).encode())
        got = self.pass_on(asked)
        if asked.method == "PUT" and "/manifests/" in path and (subject := json.loads(asked.body).get("subject")):
            made = {"digest": path.rpartition("/")[2], "size": len(asked.body), "mediaType": manifest.MANIFEST}
            made["artifactType"] = json.loads(asked.body)["artifactType"]
            self.listed.setdefault(subject["digest"], []).append(made)
            got.headers["OCI-Subject"] = subject["digest"]
        return got


def test_a_registry_that_lists_referrers_is_asked(home: Registry, other: Registry, server: Running) -> None:
    digest = home.resolve("home")
    for number in range(3):
        home.attach(digest, "measurement", {"measured": {f"x{number}": 1.0}})
    with serve(Referring(server.url).answer) as through:
        place = f"oci:{through.host}/referring/home:q4"
        assert push(home, "home", place).attachments == 5
        assert not through.of("PUT", "/manifests/sha256-")  # no tag stands in for it
        pull(other, place)
    assert len(other.catalog.figures(digest)) == 3 and fsck.check(other.root).problems == ()


def test_a_tag_of_another_artifact_moves_only_by_force(tmp_path: Path, home: Registry, server: Running) -> None:
    first, place = home.resolve("home"), f"oci:{server.host}/tags/home:q4"
    push(home, "home", place)
    second = home.add(artifact(tmp_path / "next", b"n"), named("home:next"))
    with pytest.raises(OutputExists, match=f"is {first[:19]} already"):
        push(home, "home:next", place)
    assert push(home, "home:next", place, force=True).digest == second
    with Repository(parse(place)) as there:
        assert there.find("q4") == second and there.find("none") is None and there.tags() == ["q4"]
        assert there.find(first) == first  # it stays under its digest


def test_names_of_what_is_pulled(home: Registry, other: Registry, server: Running) -> None:
    digest, base = home.resolve("home"), f"oci:{server.host}/deep/names/home"
    push(home, "home", f"{base}:q4")
    pull(other, base)  # its only tag
    pull(other, f"{base}@{digest}", "pinned:1")
    pull(other, f"oci://{server.host}/deep/names/home:q4@{digest}", "again")
    assert set(other.rows()[0].tags) == {"home:q4", "pinned:1", "again:latest"}
    with pytest.raises(UsageError, match="no tag to be named after"):
        pull(other, f"{base}@{digest}")
    with pytest.raises(SourceNotFound, match="there is no"):
        pull(other, f"{base}:other")
    with pytest.raises(SourceNotFound, match="has no tags"):
        pull(other, f"{base}-not")
    push(home, "home", f"{base}:q5")
    with pytest.raises(SourceNotFound, match="2 tags") as told:
        pull(other, base)
    assert "q4, q5" in told.value.cure
    with pytest.raises(UsageError, match="no revision"):
        pull(other, base, revision="main")


def test_the_policy_is_asked_first(tmp_path: Path, home: Registry, server: Running) -> None:
    with serve(forward(server.url)) as through:
        place = f"oci:{through.host}/policy/home:q4"
        push(home, "home", place)
        through.asked.clear()
        for policy, fetched in ((Policy(sources=("oci:example.com/*",)), 0), (Policy(most_bytes=1000), 1)):
            with Registry.open(tmp_path / f"third{fetched}", policy=policy) as registry:
                with pytest.raises(PolicyRefused):
                    pull(registry, place)
                # What says whose it is and what it may be used for is looked at, of what may come at all.
                assert registry.entries() == [] and all(one.sent < 1000 for one in through.of("GET", "/blobs/"))
                assert bool(through.asked) == bool(fetched)
                done = sync.sync(registry, sync.parse(f"oci:{through.host}/policy"), (), sync.Options())
                assert isinstance(done.fault, PolicyRefused) and registry.rows() == []


@pytest.mark.slow
@needs("model_signing", "OpenSSL")
def test_signatures_travel_and_are_asked_for_before_the_weights(tmp_path: Path, home: Registry, server: Running) -> None:
    signing.make_key(tmp_path / "key.pem")
    required = (Signers(sources=("oci:*",), keys=(tmp_path / "key.pub",)),)
    digest = home.resolve("home")
    weights = next(layer.blob for layer in home.manifest(digest).layers if layer.path == "model.gguf")
    with serve(forward(server.url)) as through:
        place = f"oci:{through.host}/signed/home:q4"
        push(home, "home", place)
        with Registry.open(tmp_path / "strict", policy=Policy(require_signature=required)) as strict:
            with pytest.raises(PolicyRefused, match="not signed"):
                pull(strict, place)
            assert not through.of("GET", weights.digest) and strict.entries() == []
            signing.sign(home, digest, Signer(key=tmp_path / "key.pem"))
            push(home, "home", place)
            assert pull(strict, place).artifacts == (digest,) and strict.place(digest)
            done = sync.sync(strict, sync.parse(f"oci:{through.host}/signed"), (), sync.Options())
            assert done.same == 1 and done.fault is None


@pytest.mark.parametrize(
    "place",
    ["oci:", "oci:host", "oci:host/", "oci:host/Upper", "oci:host/a:b:c", "oci:host/../a", "oci:host/a@sha256:00", "oci:-/a",
     "oci:user@host/a", "oci:host:port/a", "oci:host/a:-b", "oci:host/a%2e", "oci:ho st/a", "oci:host/" + "a" * 2000],
)  # fmt: skip
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(UsageError):
        parse(place)


def test_a_name_that_is_taken_here_is_told_before_the_weights_come(
    tmp_path: Path, home: Registry, other: Registry, server: Running
) -> None:
    mine = other.add(artifact(tmp_path / "mine", b"m"), named("home:q4"))
    with serve(forward(server.url)) as through:
        place = f"oci:{through.host}/taken/home:q4"
        push(home, "home", place)
        with pytest.raises(OutputExists):
            pull(other, place)
        assert not through.of("GET", "/blobs/") and other.resolve("home:q4") == mine
        assert pull(other, place, replace=True).artifacts == (home.resolve("home"),) != (mine,)


def test_http_without_encryption_only_to_this_machine() -> None:
    for text, plain, scheme in (
        ("oci:localhost:5000/a", False, "http"), ("oci:127.0.0.1/a", False, "http"), ("oci:[::1]:5000/a", False, "http"),
        ("oci:127.0.0.1.example.com/a", False, "https"), ("oci:localhost.example.com/a", False, "https"),
        ("oci:example.com/a", False, "https"), ("oci:example.com/a", True, "http"),
    ):  # fmt: skip
        with Repository(parse(text), plain_http=plain) as there:
            assert there.root.partition(":")[0] == scheme


def test_what_is_no_model_is_refused_by_name(tmp_path: Path, home: Registry, other: Registry, server: Running) -> None:
    base = f"oci:{server.host}/refused/things"
    with Repository(parse(base)) as there:
        for content in (b"{}", b"layer"):
            (tmp_path / "blob").write_bytes(content)
            _upload.upload(there, manifest.Blob.of(content), tmp_path / "blob")

        def put(tag: str, media: str, layer: str, kind: str | None = manifest.MODEL) -> None:
            descriptors = [{"mediaType": one, "digest": blob.digest, "size": blob.size} for one, blob in (
                (manifest.CONFIG, manifest.Blob.of(b"{}")), (layer, manifest.Blob.of(b"layer")))]  # fmt: skip
            made = {"schemaVersion": 2, "mediaType": media, "config": descriptors[0], "layers": descriptors[1:]}
            there.put(manifest.canonical({**made, **({"artifactType": kind} if kind else {})}), media, tag)

        packed = "application/vnd.cncf.model.weight.v1.tar+gzip"
        put("packed", manifest.MANIFEST, packed)
        put("image", manifest.MANIFEST, "application/vnd.oci.image.layer.v1.tar+gzip", None)
        put(
            "docker",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            None,
        )
        one = there.manifest("packed")
        listed = {"mediaType": manifest.MANIFEST, "digest": one.blob.digest, "size": one.blob.size}
        index = "application/vnd.oci.image.index.v1+json"
        there.put(manifest.canonical({"schemaVersion": 2, "mediaType": index, "manifests": [listed]}), index, "list")
    for tag, said in (("packed", "no plain file"), ("docker", "docker.distribution"), ("list", "image.index")):
        with pytest.raises(Unsupported, match=said):
            pull(other, f"{base}:{tag}")
    with pytest.raises(SlmopsError):
        pull(other, f"{base}:image")
    assert not list(other.blobs.all()) and other.entries() == []


# Who we are


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Running]:
    with registry_of(tmp_path / "locked", "htpasswd") as running:
        yield running


CLEAN = ("SLMOPS_REGISTRY_USER", "SLMOPS_REGISTRY_PASSWORD", "SLMOPS_REGISTRY_HOST", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR")


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No login anywhere; the folder of docker's."""
    for name in CLEAN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker"


def auths(host: str, user: str = USER, password: str = PASSWORD) -> dict[str, object]:
    return {"auths": {host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}}


def test_logins_by_environment_and_by_docker(
    home: Registry, other: Registry, locked: Running, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"oci:{locked.host}/private/home:q4"
    with pytest.raises(SourceNotFound, match="asks for a login"):
        push(home, "home", place)
    monkeypatch.setenv("SLMOPS_REGISTRY_USER", USER)
    monkeypatch.setenv("SLMOPS_REGISTRY_PASSWORD", "wrong")
    with pytest.raises(SourceNotFound, match=r"refused \(401\)"):
        push(home, "home", place)
    monkeypatch.setenv("SLMOPS_REGISTRY_PASSWORD", PASSWORD)
    monkeypatch.setenv("SLMOPS_REGISTRY_HOST", "registry.example.com")
    with pytest.raises(SourceNotFound):  # that is for another
        push(home, "home", place)
    monkeypatch.setenv("SLMOPS_REGISTRY_HOST", locked.host)
    push(home, "home", place)
    for name in CLEAN[:3]:
        monkeypatch.delenv(name)
    for held in (auths(locked.host), auths(f"https://{locked.host}/"), auths(f"{locked.host}/private")):
        (nobody / "config.json").write_text(json.dumps(held))
        assert pull(other, place).artifacts
    for wrong in ({"auths": {locked.host: {"auth": "%%%"}}}, [], {"auths": 7}):
        (nobody / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(SlmopsError):
            pull(other, place)


@needs_skopeo
def test_the_login_that_skopeo_writes(
    home: Registry, locked: Running, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(nobody / "auth.json"))
    skopeo("login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, locked.host)
    assert push(home, "home", f"oci:{locked.host}/private/home:q4").sent


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_program_that_keeps_logins(
    home: Registry, locked: Running, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docker-credential-helpers has it: `get`, the host on standard input, JSON on standard output."""
    program = nobody / "docker-credential-kept"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = get ] && [ "$(cat)" = {locked.host} ] || exit 1\n'
        f'echo \'{{"ServerURL": "x", "Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n'
    )
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(nobody), prepend=os.pathsep)
    place = f"oci:{locked.host}/private/home:q4"
    for held in (
        {"credsStore": "kept"},
        {"credHelpers": {locked.host: "kept"}},
        {"auths": {locked.host: {}}, "credsStore": "kept"},
    ):
        (nobody / "config.json").write_text(json.dumps(held))
        push(home, "home", place)
    for helper, kind in (("absent", SourceNotFound), ("../kept", CorruptInput)):
        (nobody / "config.json").write_text(json.dumps({"credsStore": helper}))
        with pytest.raises(kind):
            push(home, "home", place)


class TokenServer:
    """Hands out tokens as distribution's token specification has them, and asks for them in front of a registry."""

    def __init__(self, upstream: str) -> None:
        self.pass_on, self.realm, self.issued = forward(upstream), "", dict[str, str]()
        self.granted: list[str] = []

    def hand_out(self, asked: Asked) -> Reply:
        assert asked.headers["authorization"] == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        scopes = re.findall(r"scope=([^&]+)", asked.path)
        self.granted += scopes
        token = f"token-{len(self.issued)}"
        self.issued[token] = " ".join(scopes)
        return Reply(body=json.dumps({"token": token, "expires_in": 60}).encode())

    def answer(self, asked: Asked) -> Reply:
        needed = "pull" if asked.method in ("GET", "HEAD") else "pull%2Cpush"
        name = re.match(r"/v2/(token/\w+)/", asked.path)[1]  # type: ignore[index]
        scopes = self.issued.get(asked.headers.get("authorization", "").removeprefix("Bearer "), "")
        if f"{name.replace('/', '%2F')}%3A{needed}" not in scopes:
            scope = f"repository:{name}:{needed.replace('%2C', ',')}"
            challenge = f'Bearer realm="{self.realm}",service="registry",scope="{scope}"'
            return Reply(401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}')
        headers = {name: value for name, value in asked.headers.items() if name != "authorization"}
        return self.pass_on(Asked(asked.method, asked.path, headers, asked.body))


def test_bearer_tokens(
    home: Registry, other: Registry, server: Running, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = TokenServer(server.url)
    with serve(tokens.hand_out) as granting, serve(tokens.answer) as guarded:
        tokens.realm = f"{granting.url}/token"
        (nobody / "config.json").write_text(json.dumps(auths(guarded.host)))
        place = f"oci:{guarded.host}/token/home:q4"
        push(home, "home", place)
        assert 1 < len(tokens.issued) < 6 and "service=registry" in granting.asked[0].path
        # To mount blobs takes a token for both repositories.
        assert push(home, "home", f"oci:{guarded.host}/token/second:q4").sent == 0
        mounts = guarded.of("POST", "mount=.*from=token%2Fhome")
        scopes = tokens.issued[mounts[-1].headers["authorization"].removeprefix("Bearer ")]
        assert "token%2Fhome%3Apull" in scopes and "token%2Fsecond%3Apull%2Cpush" in scopes
        tokens.issued.clear()  # they run out
        assert pull(other, place).artifacts
        # The password went to who hands out tokens, the tokens to the registry, and neither to the other.
        assert all(one.headers["authorization"].startswith("Basic") for one in granting.asked)
        assert not any(one.headers.get("authorization", "").startswith("Basic") for one in guarded.asked)
        tokens.issued = {}
        monkeypatch.setattr(tokens, "hand_out", lambda _: Reply(401))
        granting.answer = tokens.hand_out
        with pytest.raises(SourceNotFound, match="refused"):
            pull(other, place)


def test_a_refresh_token_is_traded(other: Registry, home: Registry, server: Running, nobody: Path) -> None:
    """distribution's OAuth2 specification: POST, grant_type=refresh_token, the answer's access_token."""
    push(home, "home", f"oci:{server.host}/token/home:q4")
    tokens = TokenServer(server.url)

    def hand_out(asked: Asked) -> Reply:
        assert asked.method == "POST" and "authorization" not in asked.headers
        assert b"grant_type=refresh_token&refresh_token=fresh" in asked.body
        tokens.issued["traded"] = "token%2Fhome%3Apull"
        return Reply(body=b'{"access_token": "traded"}')

    with serve(hand_out) as granting, serve(tokens.answer) as guarded:
        tokens.realm = f"{granting.url}/token"
        (nobody / "config.json").write_text(json.dumps({"auths": {guarded.host: {"identitytoken": "fresh"}}}))
        assert pull(other, f"oci:{guarded.host}/token/home:q4").artifacts


# Over a line that breaks and lies


def test_blobs_behind_a_redirect_get_no_credentials(
    home: Registry, other: Registry, locked: Running, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As registries do that keep their blobs in a cloud's store."""
    monkeypatch.setenv("SLMOPS_REGISTRY_USER", USER)
    monkeypatch.setenv("SLMOPS_REGISTRY_PASSWORD", PASSWORD)
    push(home, "home", f"oci:{locked.host}/private/home:q4")

    def store(asked: Asked) -> Reply:
        digest = asked.path.rpartition("/")[2].partition("?")[0]
        return Reply(body=home.blobs.path(digest).read_bytes())

    with serve(store) as far:
        near = forward(locked.url)

        def answer(asked: Asked) -> Reply:
            got = near(asked)
            moved = asked.method == "GET" and "/blobs/" in asked.path and got.status == 200
            return Reply(307, {"Location": far.url + asked.path + "?signature=s"}) if moved else got

        with serve(answer) as through:
            pull(other, f"oci:{through.host}/private/home:q4")
        assert far.asked and not any("authorization" in one.headers or "cookie" in one.headers for one in far.asked)
    assert fsck.check(other.root).problems == ()


def test_pull_over_a_bad_line(tmp_path: Path, home: Registry, other: Registry, server: Running) -> None:
    digest = home.add(large(tmp_path / "large", 3_000_000), named("large"))
    push(home, "large", f"oci:{server.host}/bad/large:q4")
    weights = next(layer.blob for layer in home.manifest(digest).layers if layer.path == "model.gguf")
    faults = [
        Fault("GET", "/manifests/q4", reply=Reply(503, {"Retry-After": "0"})),
        Fault("GET", "/manifests/q4", cut=100),
        Fault("GET", weights.digest, cut=1_000_000),
        Fault("GET", weights.digest, end=1_500_000),
        Fault("GET", weights.digest, seconds=0.001, cut=500_000),
        Fault("GET", "/blobs/", times=2, cut=0),
    ]
    with serve(forward(server.url), *faults) as through:
        assert pull(other, f"oci:{through.host}/bad/large:q4", jobs=1).artifacts == (digest,)
        assert not [fault for fault in faults if fault.times]
        ranges = [int(one.headers.get("range", "bytes=0-")[6:-1]) for one in through.of("GET", weights.digest)]
        assert ranges == sorted(ranges) and ranges[-1] > 1_500_000  # what came is not asked for again
    assert fsck.check(other.root).problems == () and not list((other.root / "partial").glob("sha256-*"))


@pytest.mark.parametrize(("path", "flip"), [("/blobs/", 3), ("/manifests/", 40)])
def test_wrong_bytes_are_not_taken_in(home: Registry, other: Registry, server: Running, path: str, flip: int) -> None:
    push(home, "home", f"oci:{server.host}/wrong/home:q4")
    with serve(forward(server.url), Fault("GET", path, times=99, flip=flip)) as through:
        with pytest.raises(CorruptInput, match="are not what"):
            pull(other, f"oci:{through.host}/wrong/home:q4")
        assert other.rows() == [] and other.entries() == []
        through.faults.clear()
        assert pull(other, f"oci:{through.host}/wrong/home:q4").artifacts
    assert fsck.check(other.root).problems == ()


@pytest.mark.slow
def test_a_pull_goes_on_where_a_killed_one_ended(tmp_path: Path, home: Registry, other: Registry, server: Running) -> None:
    digest = home.add(large(tmp_path / "large", 3_000_000), named("large"))
    push(home, "large", f"oci:{server.host}/killed/large:q4")
    weights = next(layer.blob for layer in home.manifest(digest).layers if layer.path == "model.gguf")
    script = """
    import sys
    from pathlib import Path
    from slmops.registry import Registry, remotes
    with Registry.open(Path(sys.argv[1])) as registry:
        remotes.pull(registry, sys.argv[2], remotes.Wanted())
    """
    with serve(forward(server.url), Fault("GET", weights.digest, seconds=0.02)) as through:
        place = f"oci:{through.host}/killed/large:q4"
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(other.root), place])
        partial = other.root / "partial" / weights.digest.replace(":", "-")
        for _ in range(600):
            if child.poll() is not None or (partial.exists() and partial.stat().st_size > 1_000_000):
                break
            time.sleep(0.05)
        child.kill()
        child.wait(30)
        came = partial.stat().st_size
        assert 1_000_000 < came < 3_000_000 and other.rows() == []
        gc.sweep(other)  # young partials stay
        through.asked.clear()
        pull(other, place)
        assert [one.headers["range"] for one in through.of("GET", weights.digest)] == [f"bytes={came}-"]
    assert other.resolve("large:q4") == digest and fsck.check(other.root).problems == ()


def test_push_over_a_bad_line(tmp_path: Path, home: Registry, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_upload, "CHUNK", 1 << 20)
    digest = home.add(large(tmp_path / "large", 3_500_000), named("large"))
    faults = [
        Fault("HEAD", "/blobs/", reply=Reply(502)),
        Fault("POST", "/uploads/", reply=Reply(429, {"Retry-After": "0"})),
        Fault("PATCH", "/uploads/", cut=0),  # the chunk arrived, the answer did not
        Fault("PUT", "/uploads/", times=2, cut=0),
        Fault("PUT", "/manifests/", cut=0),
    ]
    with serve(forward(server.url), *faults) as through:
        assert push(home, "large", f"oci:{through.host}/bad/pushed:q4").digest == digest
        assert not [fault for fault in faults if fault.times]
    with Registry.open(tmp_path / "back") as back:
        assert pull(back, f"oci:{server.host}/bad/pushed:q4").artifacts == (digest,)
        assert fsck.check(back.root).problems == ()


def test_push_over_a_line_that_is_cut_within_a_piece(
    tmp_path: Path, home: Registry, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_upload, "CHUNK", 1 << 20)
    digest = home.add(large(tmp_path / "large", 3_500_000), named("large"))
    sent: list[int] = []
    with cable(server.host, 500_000, 2_600_000) as host, Repository(parse(f"oci:{host}/cut/large")) as there:
        done = pushing.push(home, digest, there, "q4", jobs=1, watch=Watch(advance=sent.append))
    assert done.digest == digest and min(sent) < 0  # what went again was taken back
    with Registry.open(tmp_path / "back") as back:
        assert pull(back, f"oci:{server.host}/cut/large:q4").artifacts == (digest,)
        assert fsck.check(back.root).problems == ()


class Uploads:
    """Chunked upload as distribution-spec 1.1 has it (Pushing a blob in chunks): it keeps what arrived, and says 416."""

    def __init__(self) -> None:
        self.kept, self.blobs = b"", dict[str, bytes]()

    def answer(self, asked: Asked) -> Reply:
        path, _, query = asked.path.partition("?")
        here = {"Location": "/v2/a/blobs/uploads/1", "Range": f"0-{max(len(self.kept) - 1, 0)}"}
        if asked.method == "HEAD":
            return Reply(200 if path.rpartition("/")[2] in self.blobs else 404)
        if asked.method == "POST":
            self.kept = b""
            return Reply(202, here)
        if asked.method == "GET":
            return Reply(204, here)
        if asked.method == "PATCH":
            if int(asked.headers["content-range"].partition("-")[0]) != len(self.kept):
                return Reply(416, here)
            self.kept += asked.body
            return Reply(202, {**here, "Range": f"0-{len(self.kept) - 1}"})
        self.blobs[query.partition("=")[2].replace("%3A", ":")] = self.kept + asked.body
        return Reply(201)


def test_a_registry_that_keeps_what_came_is_not_sent_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_upload, "CHUNK", 1 << 20)
    content, sent = os.urandom(3_500_000), list[int]()
    (tmp_path / "blob").write_bytes(content)
    blob, kept, session = manifest.Blob.of(content), Uploads(), tmp_path / "session"
    cuts = (Fault("PATCH", "", swallow=700_000), Fault("PATCH", "", times=0), Fault("PATCH", "", swallow=5))
    with serve(kept.answer, *cuts) as server, Repository(parse(f"oci:{server.host}/a")) as there:
        assert _upload.upload(there, blob, tmp_path / "blob", sent.append, session=session)
        assert kept.blobs == {blob.digest: content} and sum(sent) == len(content)
        assert len(server.of("POST")) == 1 and not session.exists()
        # Of what is begun anew nothing is sent twice but the piece in the air.
        assert sum(len(one.body) for one in server.of("PATCH")) < len(content) + 2 * (1 << 20)
        kept.blobs.clear()
        kept.kept = content[:2_000_000]
        session.write_text(f"{server.url}/v2/a/blobs/uploads/1")  # of a process that was killed
        server.asked.clear()
        assert _upload.upload(there, blob, tmp_path / "blob", session=session) and kept.blobs == {blob.digest: content}
        assert not server.of("POST") and sum(len(one.body) for one in server.of("PATCH")) == 1_500_000


def test_a_push_goes_on_where_a_broken_one_ended(
    tmp_path: Path, home: Registry, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_upload, "CHUNK", 1 << 20)
    home.add(large(tmp_path / "large", 3_500_000), named("large"))
    with serve(forward(server.url)) as through:
        place = f"oci:{through.host}/broken/large:q4"
        patch = through.answer

        def broken(asked: Asked) -> Reply:
            return Reply(503) if asked.method == "PATCH" and len(through.of("PATCH")) > 2 else patch(asked)

        through.answer = broken
        with pytest.raises(Unreachable, match="503"):
            push(home, "large", place)
        assert len(list((home.root / "partial").glob("upload-*"))) == 1
        with Repository(parse(place)) as there:
            assert there.tags() == []
        through.answer = patch
        through.asked.clear()
        push(home, "large", place)
        assert [one.headers["content-range"] for one in through.of("PATCH")] == ["2097152-3145727", "3145728-3499999"]
    assert not list((home.root / "partial").glob("upload-*")) and fsck.check(home.root).problems == ()


def test_a_push_that_breaks_off_shows_nothing(home: Registry, server: Running) -> None:
    digest = home.resolve("home")
    home.attach(digest, "measurement", {"measured": {"x": 1.0}})
    place = "/half/home:q4"
    with serve(forward(server.url)) as through:
        through.faults.append(Fault("PUT", "/manifests/q4", times=99, reply=Reply(500)))
        with pytest.raises(Unreachable):
            push(home, "home", f"oci:{through.host}{place}")
        with Repository(parse(f"oci:{server.host}{place}")) as there:
            assert there.find("q4") is None and there.tags() == [] and len(there.referrers(digest)) == 3
    assert push(home, "home", f"oci:{server.host}{place}").sent == 0


def test_a_damaged_blob_is_not_passed_on(home: Registry, server: Running) -> None:
    layer = home.manifest(home.resolve("home")).layers[0]
    path = home.blobs.path(layer.blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"y" * layer.blob.size)
    with pytest.raises(CorruptInput, match="damaged"):
        push(home, "home", f"oci:{server.host}/damaged/home:q4")


# At once


@pytest.mark.slow
def test_two_processes_pull_the_same_while_gc_runs(tmp_path: Path, home: Registry, other: Registry, server: Running) -> None:
    digest = home.add(large(tmp_path / "large", 2_000_000), named("large"))
    push(home, "large", f"oci:{server.host}/both/large:q4")
    script = """
    import sys
    from pathlib import Path
    from slmops.registry import Registry, remotes
    for number in range(3):
        with Registry.open(Path(sys.argv[1])) as registry:
            print(remotes.pull(registry, sys.argv[2], remotes.Wanted(replace=True)).artifacts[0])
            registry.remove("large:q4")
    """
    with serve(forward(server.url), Fault("GET", "/blobs/", times=4, seconds=0.005)) as through:
        command = [sys.executable, "-c", textwrap.dedent(script), str(other.root), f"oci:{through.host}/both/large:q4"]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        over = threading.Event()

        def sweep() -> None:
            with Registry.open(other.root) as registry:
                while not over.is_set():
                    gc.sweep(registry, 0)

        thread = threading.Thread(target=sweep, daemon=True)
        thread.start()
        try:
            said = [child.communicate(timeout=120) for child in children]
        finally:
            over.set()
            thread.join(60)
    for out, error in said:
        # A name that the other took away meanwhile is not there to be removed: said, and no harm.
        assert "Traceback" not in error or "has no artifact large:q4" in error, error
        assert set(out.split()) == {digest}
    pull(other, f"oci:{server.host}/both/large:q4")
    assert fsck.check(other.root).problems == ()


def test_lost_blobs_come_back(home: Registry, other: Registry, server: Running) -> None:
    place = f"oci:{server.host}/lost/home:q4"
    push(home, "home", place)
    digest = pull(other, place).artifacts[0]
    found = other.manifest(digest)
    other.blobs.path(found.config.digest).unlink()
    damaged = other.blobs.path(found.layers[0].blob.digest)
    damaged.chmod(0o644)
    damaged.write_bytes(b"y" * found.layers[0].blob.size)
    assert not fsck.check(other.root).sound
    assert fsck.check(other.root, repair=True).sound and fsck.check(other.root).problems == ()
    assert fsck.verify(other, digest)


def test_what_is_remembered_is_checked(home: Registry) -> None:
    with Repository(parse("oci:host/a"), plain_http=True) as there:
        remembered.change(home.root, lambda held: held.saw(there, "sha256:" + "0" * 64))
    assert remembered.read(home.root).plain == ["host"]
    with Repository(parse("oci:host/b")) as there:
        assert remembered.read(home.root).beside(there) == {"a": ["sha256:" + "0" * 64]}
    for text in (
        "",
        "[]",
        '{"version": 2}',
        '{"version": 1, "agreed": {"x": {"a:b": "c"}}, "repositories": {}, "plain": []}',
    ):
        (home.root / remembered.NAME).write_text(text)
        with pytest.raises(CorruptInput):
            remembered.read(home.root)
