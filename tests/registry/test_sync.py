"""Two registries and a hub (distribution): what differs, both ways, with and without a link."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from faultserver import Fault, Reply, forward, serve
from filed import artifact
from ociregistry import Running, needs_registry
from ociregistry import serve as registry_of
from slmops.core.errors import OutputExists, SlmopsError, SourceNotFound, Unreachable, UsageError
from slmops.registry import Registry, _http, fsck, gc, remembered
from slmops.registry.references import named
from slmops.registry.sync import Options, Side, Synced, _decided, parse, sync

PREFIXES = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with registry_of(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_PAUSE", 0.01)


@pytest.fixture
def remote(server: Running) -> str:
    """A prefix of its own for each test."""
    return f"oci:{server.host}/hub{next(PREFIXES)}"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "edge") as registry:
        yield registry


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "office") as registry:
        yield registry


def make(registry: Registry, name: str, fill: bytes) -> str:
    folder = registry.root.parent / f"made-{fill.hex()}"
    return registry.add(artifact(folder, fill), named(name), replace=True)


def run(registry: Registry, remote: str, *only: str, **options: object) -> Synced:
    return sync(registry, parse(remote), only, Options(**options))  # type: ignore[arg-type]


def told(done: Synced) -> list[tuple[str, str, bool]]:
    return [(str(one.difference.name), one.difference.action, one.done) for one in done.outcomes]


def tags(registry: Registry) -> dict[str, str]:
    registry.refresh()
    return {tag: row.digest for row in registry.rows() for tag in row.tags}


@needs_registry
def test_both_ways_until_both_are_the_same(edge: Registry, office: Registry, remote: str) -> None:
    a, b = make(edge, "home:q4", b"a"), make(office, "deep/garden:q8", b"b")
    assert (
        told(run(edge, remote, dry_run=True)) == [("home:q4", "push", False)]
        and run(edge, remote, dry_run=True).fault is None
    )
    assert told(run(edge, remote)) == [("home:q4", "push", True)]
    first = run(office, remote)
    assert told(first) == [("deep/garden:q8", "push", True), ("home:q4", "pull", True)] and first.fault is None
    done = run(edge, remote)
    assert told(done) == [("deep/garden:q8", "pull", True)] and done.same == 1 and done.listed
    for one in (edge, office):
        assert tags(one) == {"home:q4": a, "deep/garden:q8": b}
        again = run(one, remote)
        assert told(again) == [] and again.same == 2 and again.fault is None
        assert fsck.check(one.root).problems == ()


@needs_registry
def test_what_moved_on_one_side_follows_and_on_both_is_left(edge: Registry, office: Registry, remote: str) -> None:
    make(edge, "home:q4", b"a")
    run(edge, remote)
    run(office, remote)
    newer = make(edge, "home:q4", b"n")
    assert told(run(office, remote)) == []  # the hub does not know yet
    run(edge, remote)
    assert told(run(office, remote)) == [("home:q4", "pull", True)] and tags(office) == {"home:q4": newer}

    mine, theirs = make(edge, "home:q4", b"e"), make(office, "home:q4", b"o")
    run(office, remote)
    done = run(edge, remote)
    assert told(done) == [("home:q4", "conflict", False)] and tags(edge) == {"home:q4": mine}
    with pytest.raises(OutputExists, match="moved on both sides"):
        raise done.fault  # type: ignore[misc]
    assert told(run(edge, remote, prefer="local", dry_run=True)) == [("home:q4", "push", False)]
    assert told(run(edge, remote, prefer="remote")) == [("home:q4", "pull", True)] and tags(edge) == {"home:q4": theirs}
    assert told(run(edge, remote)) == []


@needs_registry
def test_what_was_removed_does_not_come_back(edge: Registry, office: Registry, remote: str) -> None:
    make(edge, "home:q4", b"a")
    make(edge, "garden:q4", b"g")
    run(edge, remote)
    run(office, remote)
    edge.remove("home:q4")
    gc.sweep(edge, 0)
    done = run(edge, remote)
    assert told(done) == [("home:q4", "remove there", False)] and "--delete" in done.outcomes[0].said and done.fault is None
    assert set(tags(edge)) == {"garden:q4"} and told(run(office, remote)) == []
    assert told(run(edge, remote, delete=True)) == [("home:q4", "remove there", True)]
    assert told(run(edge, remote)) == []
    assert told(run(office, remote)) == [("home:q4", "remove here", False)]
    assert told(run(office, remote, delete=True)) == [("home:q4", "remove here", True)]
    assert set(tags(office)) == {"garden:q4"} and told(run(office, remote)) == []


@needs_registry
def test_one_way_and_some_names(edge: Registry, office: Registry, remote: str) -> None:
    for name, fill in (("home:q4", b"a"), ("home:q8", b"b"), ("garden:q4", b"c")):
        make(edge, name, fill)
    assert told(run(edge, remote, "home:q8")) == [("home:q8", "push", True)]
    assert told(run(edge, remote, "home")) == [("home:q4", "push", True)]
    make(office, "shed", b"s")
    ways: frozenset[Side] = frozenset({"local"})
    assert told(run(office, remote, ways=ways)) == [
        ("home:q4", "pull", True), ("home:q8", "pull", True), ("shed:latest", "push", False)]  # fmt: skip
    done = run(edge, remote, "gar*", "none*")
    assert told(done) == [("garden:q4", "push", True)] and [name for name, _ in done.untold] == ["none*"]
    assert isinstance(done.fault, SourceNotFound)
    assert told(run(office, remote, "garden", ways=frozenset({"remote"}))) == [("garden:q4", "pull", False)]


@needs_registry
def test_what_is_attached_goes_both_ways(edge: Registry, office: Registry, remote: str) -> None:
    digest = make(edge, "home:q4", b"a")
    run(edge, remote)
    run(office, remote)
    edge.attach(digest, "measurement", {"measured": {"edge": 1.0}})
    office.attach(digest, "measurement", {"measured": {"office": 2.0}})
    assert told(run(edge, remote)) == [("home:q4", "push", True)]
    done = run(office, remote)
    assert told(done) == [("home:q4", "push", True), ("home:q4", "pull", True)] and all(
        one.difference.documents for one in done.outcomes
    )
    assert told(run(edge, remote)) == [("home:q4", "pull", True)]
    for one in (edge, office):
        assert {figure for _, figure, _ in one.catalog.figures(digest)} == {"edge", "office"}
        assert told(run(one, remote)) == [] and fsck.check(one.root).problems == ()


@needs_registry
def test_without_a_link_it_says_what_waits(edge: Registry, server: Running) -> None:
    with serve(forward(server.url)) as link:
        remote = f"oci:{link.host}/offline"
        make(edge, "home:q4", b"a")
        run(edge, remote)
        make(edge, "home:q4", b"n")
        make(edge, "new", b"w")
    done = run(edge, remote)
    assert told(done) == [("home:q4", "push", False), ("new:latest", "push", False)]
    with pytest.raises(Unreachable):
        raise done.fault  # type: ignore[misc]
    assert {one.said for one in done.outcomes} == {"waits"}


@needs_registry
def test_what_breaks_off_goes_on(edge: Registry, server: Running, remote: str) -> None:
    for number in range(3):
        make(edge, f"m{number}:q4", bytes([65 + number]))
    with serve(forward(server.url)) as link:
        through = remote.replace(server.host, link.host)
        link.faults.append(Fault("PUT", "/m1/manifests/q4", times=99, reply=Reply(503)))
        done = run(edge, through)
        assert told(done) == [("m0:q4", "push", True), ("m1:q4", "push", False), ("m2:q4", "push", False)]
        assert isinstance(done.fault, Unreachable) and done.outcomes[2].said == "waits"
        link.faults.clear()
        assert told(run(edge, through)) == [("m1:q4", "push", True), ("m2:q4", "push", True)]


@needs_registry
def test_names_that_the_remote_does_not_tell_are_not_taken_for_removed(edge: Registry, server: Running, remote: str) -> None:
    make(edge, "home:q4", b"a")
    make(edge, "garden:q4", b"g")
    with serve(forward(server.url)) as link:
        through = remote.replace(server.host, link.host)
        run(edge, through)
        link.faults.append(Fault("GET", "/home/tags/list", times=99, reply=Reply(403)))
        done = run(edge, through, delete=True)
        assert told(done) == [] and done.same == 1 and [name for name, _ in done.untold] == ["home"]
        assert isinstance(done.fault, SlmopsError) and set(tags(edge)) == {"home:q4", "garden:q4"}
        # Registries without a listing: what is known here is compared.
        link.faults[:] = [Fault("GET", "_catalog", times=99, reply=Reply(404))]
        done = run(edge, through)
        assert done.same == 2 and not done.listed


@needs_registry
def test_a_tag_that_moves_while_it_is_synced_is_not_overwritten(
    edge: Registry, office: Registry, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmops.registry.remotes import oci

    make(office, "home:q4", b"a")
    run(office, remote)
    bring = oci.bring

    def slow(*arguments: object) -> object:
        taken = bring(*arguments)  # type: ignore[arg-type]
        make(edge, "home:q4", b"m")
        return taken

    monkeypatch.setattr(oci, "bring", slow)
    done = run(edge, remote)
    assert told(done) == [("home:q4", "pull", False)] and isinstance(done.fault, OutputExists)
    assert tags(edge)["home:q4"] == make(edge, "x", b"m")


@needs_registry
def test_what_was_agreed_outlives_the_catalog(edge: Registry, remote: str) -> None:
    make(edge, "home:q4", b"a")
    run(edge, remote)
    edge.remove("home:q4")
    edge.close()
    (edge.root / "catalog.sqlite").write_bytes(b"broken")
    with Registry.open(edge.root) as registry:
        assert told(run(registry, remote)) == [("home:q4", "remove there", False)]
        (edge.root / remembered.NAME).unlink()
        assert told(run(registry, remote)) == [("home:q4", "pull", True)]


@pytest.mark.parametrize(
    ("here", "there", "agreed", "action"),
    [
        ("a", None, None, "push"), (None, "a", None, "pull"), ("a", "b", None, "conflict"),
        ("b", "a", "a", "push"), ("a", "b", "a", "pull"), ("b", "c", "a", "conflict"),
        (None, "a", "a", "remove there"), ("a", None, "a", "remove here"),
        (None, "b", "a", "conflict"), ("b", None, "a", "conflict"),
    ],
)  # fmt: skip
def test_decisions(here: str | None, there: str | None, agreed: str | None, action: str) -> None:
    assert _decided(here, there, agreed, None) == action
    local, remote = _decided(here, there, agreed, "local"), _decided(here, there, agreed, "remote")
    if action == "conflict":
        assert local == ("push" if here else "remove there") and remote == ("pull" if there else "remove here")
    else:
        assert local == remote == action


def test_a_remote_that_is_not_there(edge: Registry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    make(edge, "home:q4", b"a")
    done = run(edge, f"oci:127.0.0.1:{port}/hub")
    assert told(done) == [("home:q4", "push", False)] and isinstance(done.fault, Unreachable)
    for text in ("oci:", "hub", "oci:host/a:b", "https://host/a", "oci:host/A"):
        with pytest.raises(UsageError):
            parse(text)
