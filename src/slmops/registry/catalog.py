"""The catalog: an index over index.json and the manifests, in SQLite (WAL). All of it but leases can be made again.

It remembers which index.json it was made from (by the file's identity), so that a reader sees with one stat whether another
process, or another tool, has changed the layout, and brings itself up to date.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slmops.core.errors import CorruptInput, NoSpace, SlmopsError
from slmops.registry import manifest as manifests
from slmops.registry.blobs import Identity
from slmops.registry.index import Index
from slmops.registry.leases import Lease, holds
from slmops.registry.manifest import Manifest
from slmops.registry.policy import HERE

NAME = "catalog.sqlite"
SCHEMA = 2
"""Raised with every change of TABLES: an older catalog is made anew."""
FIGURES = 400
"""Numbers that are kept of one measurement."""
TABLES = """
create table meta (key text primary key, value text) without rowid;
create table artifacts (
    digest text primary key, name text, format text, scheme text, family text, bytes integer, verified integer, step text,
    added real, fault text) without rowid;
create index by_step on artifacts (step, format);
create table tags (name text, tag text, digest text, primary key (name, tag)) without rowid;
create index by_digest on tags (digest);
create table lineage (child text, role text, parent text, label text, primary key (child, role, parent)) without rowid;
create index by_parent on lineage (parent);
create table attachments (digest text primary key, subject text, kind text, added real, fault text) without rowid;
create index by_subject on attachments (subject);
create table measurements (attachment text, artifact text, figure text, value real, primary key (attachment, figure))
    without rowid;
create table origins (digest text primary key, origin text) without rowid;
create table gates (attachment text, artifact text, gate text, passed integer, blocks integer, said text);
create table if not exists leases (
    id integer primary key, digest text, host text, pid integer, started real, until real, why text);
create table if not exists signed (
    subject text, attachment text, signers text, who text, at real, primary key (subject, attachment, signers))
    without rowid;
create table if not exists verified (
    digest text, device text, inode text, size integer, mtime integer, primary key (digest, device, inode)) without rowid;
"""
DERIVED = ("meta", "artifacts", "tags", "lineage", "attachments", "measurements", "origins", "gates")


class Row(NamedTuple):
    """An artifact as `ls` shows it; `added` in seconds since 1970. A tuple, for there are thousands."""

    digest: str
    name: str
    format: str
    scheme: str
    family: str
    bytes: int
    verified: int
    added: float
    fault: str
    """Why its manifest cannot be read; empty where it can."""
    tags: tuple[str, ...]


class Catalog:
    """The database. One object a thread; any number of processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _faults(path):
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.execute("pragma synchronous = normal")

    @staticmethod
    def usable(path: Path) -> bool:
        """Whether a catalog of this version stands there."""
        if not path.is_file():
            return False
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=60)) as db:
                return bool(db.execute("pragma user_version").fetchone()[0] == SCHEMA)
        except sqlite3.OperationalError as error:  # the disk's fault, not the file's
            raise _fault(path, error) from error
        except sqlite3.DatabaseError:
            return False

    def create(self, fill: Callable[[], None] = lambda: None) -> None:
        """Make the tables anew; leases and verified files stay where they can be read.

        fill: called within, so that no other process sees the tables empty.
        """
        with _faults(self.path):
            self._db.execute("pragma journal_mode = wal")
            with self.transaction():
                for name in DERIVED:
                    self._db.execute(f"drop table if exists {name}")
                for statement in TABLES.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version = {SCHEMA}")
                fill()

    def close(self) -> None:
        with _faults(self.path):
            self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; one within another is part of it."""
        if self._db.in_transaction:
            yield
            return
        with _faults(self.path):
            self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def seen(self) -> str:
        """The identity of the index.json that this catalog was made from."""
        found = self._all("select value from meta where key = 'index'")
        return str(found[0][0]) if found else ""

    def written(self) -> str:
        """What that index.json hashed to then; empty where a catalog of before did not say."""
        found = self._all("select value from meta where key = 'digest'")
        return str(found[0][0]) if found else ""

    def sync(
        self, index: Index, seen: tuple[str, str], load: Callable[[str], tuple[Manifest, dict[str, Any], float]]
    ) -> None:
        """Bring it up to what index.json says; only manifests that are new are read, with `load(digest)`.

        seen: the file's identity, and what it hashes to.
        `load` returns the manifest, the document of an attachment (else {}), and when it was added.
        """
        with self.transaction():
            known = {
                row[0] for row in self._db.execute("select digest from artifacts union all select digest from attachments")
            }
            for digest in known - index.entries.keys():
                self._drop(digest)
            for digest in index.entries.keys() - known:
                self._insert(digest, index.entries[digest], load)
            held = {(name, tag): digest for name, tag, digest in self._db.execute("select name, tag, digest from tags")}
            wanted = {(one.name, one.tag): digest for one, digest in index.tags.items()}
            self._db.executemany("delete from tags where name = ? and tag = ?", held.keys() - wanted.keys())
            changed = [(*key, digest) for key, digest in wanted.items() if held.get(key) != digest]
            self._db.executemany("insert or replace into tags values (?, ?, ?)", changed)
            origins = {digest: found for digest in index.entries if (found := index.origin(digest)) != HERE}
            if origins != dict(self._db.execute("select digest, origin from origins").fetchall()):
                self._db.execute("delete from origins")
                self._db.executemany("insert into origins values (?, ?)", origins.items())
            self._db.execute("insert or replace into meta values ('index', ?), ('digest', ?)", seen)

    def _drop(self, digest: str) -> None:
        self._db.execute("delete from artifacts where digest = ?", (digest,))
        self._db.execute("delete from lineage where child = ?", (digest,))
        self._db.execute("delete from attachments where digest = ?", (digest,))
        self._db.execute("delete from measurements where attachment = ?", (digest,))
        self._db.execute("delete from gates where attachment = ?", (digest,))
        self._db.execute("delete from signed where attachment = ?", (digest,))

    def _insert(
        self,
        digest: str,
        entry: Mapping[str, Any],
        load: Callable[[str], tuple[Manifest, dict[str, Any], float]],
    ) -> None:
        try:
            found, document, added = load(digest)
        except SlmopsError as fault:
            # Shown, not hidden: the rest of the registry works on.
            if entry["artifactType"] in (manifests.MODEL, ""):
                lost = (digest, "", "", "", "", 0, 0, "", 0.0, str(fault))
                self._db.execute("insert into artifacts values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", lost)
            else:
                self._db.execute("insert into attachments values (?, '', '', 0, ?)", (digest, str(fault)))
            return
        if found.subject is not None:
            held = (digest, found.subject, manifests.kind_attached(found.artifact_type) or "", added)
            self._db.execute("insert into attachments values (?, ?, ?, ?, '')", held)
            self._measured(digest, found.subject, document)
            return
        described = document.get("config") if isinstance(document.get("config"), dict) else {}
        named = document.get("descriptor") if isinstance(document.get("descriptor"), dict) else {}
        assert isinstance(described, dict) and isinstance(named, dict)
        row = (
            digest,
            found.ours("name") or str(named.get("name", "")),
            found.ours("format") or str(described.get("format", "")),
            found.ours("scheme") or str(described.get("quantization") or described.get("precision") or ""),
            str(named.get("family", "")),
            found.nbytes,
            found.ours("verified") == "true",
            found.ours("step"),
            added,
        )
        self._db.execute("insert into artifacts values (?, ?, ?, ?, ?, ?, ?, ?, ?, '')", row)
        for one in manifests.inputs(found):
            self._db.execute("insert or ignore into lineage values (?, ?, ?, ?)", (digest, one.role, one.parent, one.label))

    def _measured(self, attachment: str, subject: str, document: Mapping[str, Any]) -> None:
        for number, (figure, value) in enumerate(figures(document.get("measured"))):
            if number == FIGURES:
                break
            self._db.execute("insert or ignore into measurements values (?, ?, ?, ?)", (attachment, subject, figure, value))
        verdicts = document.get("verdicts")
        for one in verdicts[:FIGURES] if isinstance(verdicts, list) else ():
            if isinstance(one, dict):
                passed, blocks = one.get("passed"), bool(one.get("blocks"))
                row = (attachment, subject, str(one.get("gate")), None if passed is None else bool(passed), blocks)
                self._db.execute("insert into gates values (?, ?, ?, ?, ?, ?)", (*row, str(one.get("said", ""))))

    def rows(self, name: str | None = None) -> list[Row]:
        """Artifacts with their tags, by name; those without a tag last."""
        where = "where digest in (select digest from tags where name = ?)" if name is not None else ""
        values = (name,) if name is not None else ()
        tags: dict[str, list[str]] = {}
        columns = "digest, name, format, scheme, family, bytes, verified, added, fault"
        with _faults(self.path):  # row by row: of ten thousand, memory is what takes long
            named = self._db.execute(f"select digest, name, tag from tags {where} order by name, tag", values)
            for digest, held, tag in named:
                tags.setdefault(digest, []).append(f"{held}:{tag}")
            found = self._db.execute(f"select {columns} from artifacts {where} order by digest", values)
            rows = [Row._make((*row, tuple(tags.get(row[0], ())))) for row in found]
        place = {digest: number for number, digest in enumerate(tags)}
        return sorted(rows, key=lambda row: place.get(row.digest, len(place)))

    def known(self) -> set[str]:
        """Digests of every manifest that it was told of."""
        return {row[0] for row in self._all("select digest from artifacts union all select digest from attachments")}

    def tagged(self, name: str, tag: str) -> str | None:
        found = self._all("select digest from tags where name = ? and tag = ?", (name, tag))
        return str(found[0][0]) if found else None

    def tags(self, name: str) -> list[str]:
        return [row[0] for row in self._all("select tag from tags where name = ? order by tag", (name,))]

    def abbreviated(self, start: str) -> list[str]:
        """Digests of artifacts that start so; `start` is checked by its pattern before."""
        return [
            row[0] for row in self._all("select digest from artifacts where digest between ? and ?", (start, start + "g"))
        ]

    def made(self, step: str, form: str) -> str | None:
        """The verified artifact that a step made here in a format: of one from elsewhere, all that is its own word."""
        where = "step = ? and format = ? and verified and digest not in (select digest from origins)"
        found = self._all(f"select digest from artifacts where {where} limit 1", (step, form))
        return str(found[0][0]) if found else None

    def lineage(self) -> list[tuple[str, str, str, str]]:
        """(child, role, parent, label) of every edge."""
        return self._all("select child, role, parent, label from lineage order by child, role, parent")

    def attachments(self, subject: str) -> list[tuple[str, str]]:
        """(digest, kind) of what is attached to an artifact, oldest first."""
        return self._all("select digest, kind from attachments where subject = ? order by added, digest", (subject,))

    def attached(self, kind: str) -> list[str]:
        """Digests of all attachments of a kind."""
        return [row[0] for row in self._all("select digest from attachments where kind = ? order by added, digest", (kind,))]

    def figures(self, artifact: str) -> list[tuple[str, str, float]]:
        """(attachment, figure, value) of what was measured of it."""
        return self._all("select attachment, figure, value from measurements where artifact = ? order by 1, 2", (artifact,))

    def gates(self, artifact: str) -> list[tuple[str, bool | None, bool, str]]:
        """(gate, passed, blocks, said)."""
        found = self._all("select gate, passed, blocks, said from gates where artifact = ?", (artifact,))
        return [(gate, None if passed is None else bool(passed), bool(blocks), said) for gate, passed, blocks, said in found]

    def trusts(self, digest: str, identity: Identity) -> bool:
        """Whether this very file was hashed, and was this."""
        sought = (digest, str(identity.device), str(identity.inode), identity.size, identity.mtime)
        return bool(self._all("select 1 from verified where (digest, device, inode, size, mtime) = (?, ?, ?, ?, ?)", sought))

    def trust(self, found: Iterable[tuple[str, Identity]]) -> None:
        """Remember files that were hashed, by who they are."""
        rows = [(digest, str(one.device), str(one.inode), one.size, one.mtime) for digest, one in found]
        with self.transaction():
            self._db.executemany("insert or replace into verified values (?, ?, ?, ?, ?)", rows)

    def distrust(self, digests: Iterable[str]) -> None:
        with self.transaction():
            self._db.executemany("delete from verified where digest = ?", [(one,) for one in digests])

    def origins(self) -> dict[str, str]:
        """Digest -> where it came from, of every manifest; HERE of what was made here."""
        return {**dict.fromkeys(self.known(), HERE), **dict(self._all("select digest, origin from origins"))}

    def origin(self, digest: str) -> str:
        found = self._all("select origin from origins where digest = ?", (digest,))
        return str(found[0][0]) if found else HERE

    def signatures(self, subject: str) -> list[tuple[str, str, str, float]]:
        """(attachment, signers, who, at) of signatures that were verified, and when (seconds since 1970)."""
        return self._all("select attachment, signers, who, at from signed where subject = ? order by at", (subject,))

    def signed(self, subject: str, attachment: str, signers: str, who: str) -> None:
        """Remember that a signature on an artifact was verified by these signers (signing.identity_of)."""
        with self.transaction():
            row = (subject, attachment, signers, who, time.time())
            self._db.execute("insert or replace into signed values (?, ?, ?, ?, ?)", row)

    def lease(self, one: Lease) -> int:
        with self.transaction():
            row = (one.digest, one.host, one.pid, one.started, one.until, one.why)
            cursor = self._db.execute(
                "insert into leases (digest, host, pid, started, until, why) values (?, ?, ?, ?, ?, ?)", row
            )
            return int(cursor.lastrowid or 0)

    def release(self, number: int) -> None:
        with self.transaction():
            self._db.execute("delete from leases where id = ?", (number,))

    def leases(self) -> list[Lease]:
        """Those that hold. Others are forgotten on the way."""
        found = self._all("select id, digest, host, pid, started, until, why from leases")
        held = [(number, Lease(*rest)) for number, *rest in found]
        if over := [(number,) for number, one in held if not holds(one)]:
            with self.transaction():
                self._db.executemany("delete from leases where id = ?", over)
        return [one for _, one in held if holds(one)]

    def sound(self) -> str:
        """What SQLite finds wrong with its file; empty where nothing is."""
        try:
            found = [str(row[0]) for row in self._db.execute("pragma integrity_check(3)")]
        except sqlite3.DatabaseError as error:
            return str(error)
        return "" if found == ["ok"] else "; ".join(found)

    def _all(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with _faults(self.path):
            return self._db.execute(query, values).fetchall()


def figures(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """Every number of a document by its dotted place: speed.decode, quality.kl.value. Lists are left out."""
    if isinstance(value, dict) and depth < 6:
        for key, one in value.items():
            yield from figures(one, f"{place}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        yield place, float(value)


@contextlib.contextmanager
def _faults(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _fault(path, error) from error


def _fault(path: Path, error: sqlite3.DatabaseError) -> SlmopsError:
    # A limit on the size of files, or a quota, is to SQLite a write that failed.
    if error.sqlite_errorname in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMMAP"):
        return NoSpace(f"no space left on the disk of {path}", "free some")
    return CorruptInput(f"the catalog {path}: {error}", "slmops models reindex makes it anew from the manifests")
