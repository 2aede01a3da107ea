"""The keys of a server: a file of their hashes, with what each may do. docs/access.md says what stands in it.

A key is 256 random bits, so one SHA-256 is enough to keep it secret: slow hashes (scrypt, argon2) guard what people can
think of, and nobody guesses 256 bits. Who reads the file learns no key; who can write it can let themselves in.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from slmops.core.errors import CorruptInput, PolicyRefused, SourceNotFound
from slmops.core.store import write_whole
from slmops.serve.request import Caller, Limits, Role

MANUAL = "docs/access.md"
PREFIX = "slm_"
"""So that scanners for leaked secrets find one."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
HASH = re.compile(r"[0-9a-f]{64}")
LIMITS = tuple(field.name for field in dataclasses.fields(Limits))
FIELDS = frozenset({"role", "sha256", "subject", "models", "expires", "created", "former", "former_until", *LIMITS})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """One entry: who it is, and how they are known."""

    caller: Caller
    sha256: str | None = None
    """Of the key."""
    subject: str | None = None
    """Common name of a client certificate that is taken in place of a key."""
    expires: float | None = None
    """Seconds since 1970."""
    created: float | None = None
    former: str | None = None
    """The hash before `rotate`, which is taken until `former_until`."""
    former_until: float = 0.0

    def holds(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires


def mark(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def fresh() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(32)


def read(path: Path) -> dict[str, Key]:
    """The keys of a file, by name. Raises SourceNotFound, CorruptInput naming the line, PolicyRefused for an open file."""
    from slmops.core import yaml12

    found: dict[str, Key] = {}
    try:
        mode = path.stat().st_mode
        value, places = yaml12.located(path, MANUAL)
    except OSError as error:
        raise SourceNotFound(f"the keys cannot be read: {path}: {error.strerror}", "slmops keys create makes one") from None
    # Another owner of a file that may be read is no danger: a secret that is mounted is often readable by a group.
    if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PolicyRefused(f"others can write to {path}, and so let themselves in", f"chmod 600 {path}")
    entries = value.get("keys") if isinstance(value, dict) and set(value) == {"keys"} else None
    if not isinstance(entries, dict):
        raise CorruptInput(f"{path} is no file of keys: it holds `keys:` and nothing else", f"see {MANUAL}")
    hashes: set[str] = set()
    for name, entry in entries.items():
        try:
            found[name] = key = _key(name, entry)
            for one in (key.sha256, key.former):
                if one is not None and one in hashes:
                    raise ValueError("the same key stands under two names")
                hashes.add(one or "")
        except ValueError as error:
            line, column = places.of(("keys", name))
            raise CorruptInput(f"{path}, line {line}, column {column}: {name[:64]}: {error}", f"see {MANUAL}") from None
    return found


def _key(name: str, entry: Any) -> Key:
    if not NAME.fullmatch(name):
        raise ValueError("a name has up to 64 letters, digits and ._@-")
    if not isinstance(entry, dict):
        raise ValueError("it has no fields")
    if unknown := sorted(set(entry) - FIELDS):
        raise ValueError(f"{unknown[0][:40]} is not known")
    role: Any = entry.get("role")
    if role not in get_args(Role):
        raise ValueError(f"its role is one of {', '.join(get_args(Role))}")
    hashed, subject, former = entry.get("sha256"), entry.get("subject"), entry.get("former")
    if any(one is not None and not (isinstance(one, str) and HASH.fullmatch(one)) for one in (hashed, former)):
        raise ValueError("sha256 is 64 hexadecimal digits: the hash of the key, never the key")
    if subject is not None and not (isinstance(subject, str) and 0 < len(subject) <= 128):
        raise ValueError("subject is the common name of a client certificate")
    if hashed is None and subject is None:
        raise ValueError("it needs sha256 or subject")
    models = entry.get("models", ["*"])
    if not isinstance(models, list) or not all(isinstance(one, str) and 0 < len(one) <= 300 for one in models):
        raise ValueError("models is a list of names or patterns")
    numbers = {field: entry.get(field) for field in LIMITS}
    if any(one is not None and not (type(one) is int and 0 < one < 1 << 53) for one in numbers.values()):
        raise ValueError(f"{', '.join(LIMITS)} are whole numbers above 0")
    caller = Caller(name, role, tuple(models), Limits(**numbers))
    expires, created, until = (_moment(entry, field) for field in ("expires", "created", "former_until"))
    return Key(caller, hashed, subject, expires, created, former, until or 0.0)


def _moment(entry: Mapping[str, Any], field: str) -> float | None:
    value = entry.get(field)
    if value is None:
        return None
    try:
        found = datetime.datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise ValueError(f"{field} is a date or a time, as 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return found.replace(tzinfo=found.tzinfo or datetime.UTC).timestamp()


def shown(moment: float) -> str:
    """A moment as it stands in the file."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(path: Path, keys: Mapping[str, Key]) -> None:
    """A file of keys, whole, for its owner alone."""
    import yaml

    entries: dict[str, dict[str, Any]] = {}
    for name, key in keys.items():
        entry: dict[str, Any] = {"role": key.caller.role, "sha256": key.sha256, "subject": key.subject}
        entry |= {"models": None if key.caller.models == ("*",) else list(key.caller.models)}
        entry |= dataclasses.asdict(key.caller.limits)
        entry |= {"created": shown(key.created) if key.created else None}
        entry |= {"expires": shown(key.expires) if key.expires else None}
        if key.former is not None and key.former_until > time.time():
            entry |= {"former": key.former, "former_until": shown(key.former_until)}
        entries[name] = {field: value for field, value in entry.items() if value is not None}
    text = "# Hashes of keys, and what each may do: slmops keys writes it.\n"
    write_whole(path, text + yaml.safe_dump({"keys": entries}, sort_keys=False, allow_unicode=True), mode=0o600)


@contextlib.contextmanager
def changing(path: Path, create: bool = False) -> Iterator[dict[str, Key]]:
    """The keys of a file, to be changed: written when the block ends well, while nobody else changes them."""
    from slmops.registry import _lock

    if not create and not path.exists():
        raise SourceNotFound(f"there is no file {path}", "slmops keys create makes it")
    with _lock.held(path.with_name(f".{path.name}.lock")):
        keys = read(path) if path.exists() else {}
        yield keys
        write(path, keys)


class Keys:
    """The keys of a running server: read again when their file has changed, in a thread."""

    def __init__(self, path: Path) -> None:
        """Raises as read() does."""
        self._path, self._seen = path, _seen(path)
        self._keys = tuple(read(path).values())
        self._reading = False

    async def of(self, key: str) -> Key | None:
        """The entry of a key, compared in constant time with every one that there is."""
        await self.refresh()
        digest, now = mark(key), time.time()
        found = [
            one for one in self._keys if _same(one.sha256, digest) | (_same(one.former, digest) & (now < one.former_until))
        ]
        return found[0] if found and found[0].holds(now) else None

    async def certified(self, subject: str) -> Key | None:
        """The entry of a client certificate's common name; None: none. Raises PolicyRefused for one that has expired."""
        await self.refresh()
        found = next((one for one in self._keys if one.subject == subject), None)
        if found is not None and not found.holds(time.time()):
            raise PolicyRefused(f"{subject[:64]} may not ask any more")
        return found

    async def refresh(self) -> None:
        """Look at the file. What cannot be read changes nothing but the log: half a file must let nobody in, or out."""
        if self._reading or (seen := _seen(self._path)) == self._seen:
            return
        self._reading = True
        try:
            self._keys = tuple((await asyncio.to_thread(read, self._path)).values())
            log.warning("the keys were read again: %s", self._path)
        except (CorruptInput, SourceNotFound, PolicyRefused) as error:
            log.error("the keys stay as they were: %s", error)
        finally:
            # What is wrong is said once, not at every request.
            self._seen, self._reading = seen, False


def _same(known: str | None, digest: str) -> bool:
    return hmac.compare_digest(known or "", digest)


def _seen(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino
