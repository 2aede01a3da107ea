"""The registry after a power cut: an operation's system calls are recorded, and replayed without what was not synced.

strace writes down every call that changes files, with its bytes. A model of a file system that promises no more than POSIX
replays them: bytes are durable once their file was synced, names once their folder was. For each prefix there are several
disks that a cut may leave:

    dropped   nothing that was not synced
    emptied   names as they were, bytes only as they were synced (a journal of metadata alone)
    torn      of each folder some of its changes, in their order, of each file some of its unsynced bytes; drawn at random
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import crashes

TRACED = (
    "open", "openat", "creat", "close", "dup", "dup2", "dup3", "fcntl", "lseek", "write", "pwrite64", "writev", "pwritev",
    "ftruncate", "truncate", "fallocate", "copy_file_range", "sendfile", "ioctl", "fsync", "fdatasync", "rename", "renameat",
    "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
)  # fmt: skip
FICLONE = "0x40049409"
MOST = 4_000_000
"""Bytes of one call that are written down."""


@dataclass
class Node:
    """A file or a folder: as it is, and as it would be after a cut."""

    folder: bool
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    names: dict[str, Node] = field(default_factory=dict)
    durable_names: dict[str, Node] = field(default_factory=dict)
    pending: list[tuple[str, Node | None]] = field(default_factory=list)
    """Changes of names since the folder was synced, in their order; None takes one away."""

    def put(self, name: str, node: Node | None) -> None:
        if node is None:
            self.names.pop(name, None)
        else:
            self.names[name] = node
        self.pending.append((name, node))

    def sync(self) -> None:
        self.durable, self.durable_names, self.pending = bytes(self.content), dict(self.names), []


@dataclass
class Opened:
    """What a file descriptor leads to."""

    node: Node
    place: int = 0
    appends: bool = False


class Disk:
    """Replays calls below one folder. What is read below `beside` does not change."""

    def __init__(self, root: Path, beside: Path) -> None:
        self._root, self._beside, self.top = str(root), f"{beside}/", _read(root)
        self._open: dict[int, Opened] = {}
        self._where = Path.cwd()

    def _find(self, path: str) -> tuple[Node, str] | None:
        """The folder and the name of a path below the root; None for what is elsewhere."""
        path = os.path.normpath(self._where / path)
        if not path.startswith(self._root + "/"):
            return None
        *folders, name = path[len(self._root) + 1 :].split("/")
        node = self.top
        for folder in folders:
            if folder not in node.names:
                return None
            node = node.names[folder]
        return node, name

    def _node(self, path: str) -> Node | None:
        if os.path.normpath(self._where / path) == self._root:
            return self.top
        found = self._find(path)
        return found[0].names.get(found[1]) if found else None

    def apply(self, call: str, words: list[str], result: int) -> bool:
        """Do what a call did; whether files, names or what is durable of them changed."""
        done = getattr(self, f"_{call}", None)
        if done is None:
            raise AssertionError(f"{call} is not replayed")
        return bool(done(words, result))

    def _openat(self, words: list[str], result: int) -> bool:
        return self._opening(_text(words[1]), words[2], result, words[0])

    def _open_(self, words: list[str], result: int) -> bool:
        return self._opening(_text(words[0]), words[1], result, "AT_FDCWD")

    def _opening(self, path: str, flags: str, result: int, at: str) -> bool:
        if at != "AT_FDCWD" and not path.startswith("/"):
            assert not path or int(at) not in self._open or "O_CREAT" not in flags, "a file made beside a descriptor"
            return False
        found, changed = self._find(path), False
        node = self._node(path)
        if node is None and found is not None and "O_CREAT" in flags:
            node, changed = Node(folder=False), True
            found[0].put(found[1], node)
        if node is not None:
            if "O_TRUNC" in flags and node.content:
                node.content, changed = bytearray(), True
            self._open[result] = Opened(node, 0, "O_APPEND" in flags)
        elif path.startswith(self._beside) and flags.startswith("O_RDONLY") and Path(path).is_file():
            self._open[result] = Opened(Node(folder=False, content=bytearray(Path(path).read_bytes())))
        else:
            self._open.pop(result, None)
        return changed

    def _close(self, words: list[str], result: int) -> bool:
        self._open.pop(int(words[0]), None)
        return False

    def _dup(self, words: list[str], result: int) -> bool:
        if int(words[0]) in self._open:
            self._open[result] = self._open[int(words[0])]
        return False

    _dup2 = _dup3 = _dup

    def _fcntl(self, words: list[str], result: int) -> bool:
        return self._dup(words, result) if words[1].startswith("F_DUPFD") else False

    def _ioctl(self, words: list[str], result: int) -> bool:
        if FICLONE in words[1] or "FICLONE" in words[1]:
            target, source = self._open.get(int(words[0])), self._open.get(int(words[2]))
            assert target is not None and source is not None, "a clone of what is elsewhere is not replayed"
            target.node.content = bytearray(source.node.content)
            return True
        return False

    def _lseek(self, words: list[str], result: int) -> bool:
        if int(words[0]) in self._open:
            self._open[int(words[0])].place = result
        return False

    def _put(self, number: int, content: bytes, place: int | None) -> bool:
        opened = self._open.get(number)
        if opened is None:
            return False
        node = opened.node
        start = place if place is not None else len(node.content) if opened.appends else opened.place
        if start > len(node.content):
            node.content.extend(bytes(start - len(node.content)))
        node.content[start : start + len(content)] = content
        if place is None:
            opened.place = start + len(content)
        return True

    def _write(self, words: list[str], result: int) -> bool:
        return self._put(int(words[0]), _bytes(words[1])[:result], None)

    def _pwrite64(self, words: list[str], result: int) -> bool:
        return self._put(int(words[0]), _bytes(words[1])[:result], int(words[3]))

    def _writev(self, words: list[str], result: int) -> bool:
        content = b"".join(_bytes(part) for part in re.findall(r'iov_base=("(?:\\x[0-9a-f]{2})*")', words[1]))
        return self._put(int(words[0]), content[:result], None)

    def _copied(self, source: str, target: str, count: int) -> bool:
        taken = self._open.get(int(source))
        assert taken is not None or int(target) not in self._open, "bytes copied from elsewhere are not replayed"
        if taken is None:
            return False
        content = bytes(taken.node.content[taken.place : taken.place + count])
        taken.place += count
        return self._put(int(target), content, None)

    def _copy_file_range(self, words: list[str], result: int) -> bool:
        assert words[1] == words[3] == "NULL", "copy_file_range at a place is not replayed"
        return self._copied(words[0], words[2], result)

    def _sendfile(self, words: list[str], result: int) -> bool:
        return self._copied(words[1], words[0], result)

    def _ftruncate(self, words: list[str], result: int) -> bool:
        opened, size = self._open.get(int(words[0])), int(words[1])
        if opened is not None:
            del opened.node.content[size:]
            opened.node.content.extend(bytes(size - len(opened.node.content)))
        return opened is not None

    def _fallocate(self, words: list[str], result: int) -> bool:
        return self._ftruncate([words[0], str(int(words[2]) + int(words[3]))], result)

    def _fsync(self, words: list[str], result: int) -> bool:
        opened = self._open.get(int(words[0]))
        if opened is not None:
            opened.node.sync()
        return opened is not None

    _fdatasync = _fsync

    def _move(self, old: str, new: str) -> bool:
        source, target = self._find(old), self._find(new)
        node = source[0].names.get(source[1]) if source else None
        assert node is not None or target is None, f"{old} comes from elsewhere"
        if node is None or source is None:
            return False
        source[0].put(source[1], None)
        if target is not None:
            target[0].put(target[1], node)
        return True

    def _rename(self, words: list[str], result: int) -> bool:
        return self._move(_text(words[0]), _text(words[1]))

    def _renameat(self, words: list[str], result: int) -> bool:
        assert words[0] == words[2] == "AT_FDCWD", "names below a descriptor are not replayed"
        return self._move(_text(words[1]), _text(words[3]))

    _renameat2 = _renameat

    def _link(self, words: list[str], result: int) -> bool:
        node, target = self._node(_text(words[0])), self._find(_text(words[1]))
        assert node is not None or target is None, "a link to what is elsewhere is not replayed"
        if node is not None and target is not None:
            target[0].put(target[1], node)
        return target is not None

    def _linkat(self, words: list[str], result: int) -> bool:
        return self._link([words[1], words[3]], result)

    def _unlink(self, words: list[str], result: int) -> bool:
        found = self._find(_text(words[0]))
        if found is not None:
            found[0].put(found[1], None)
        return found is not None

    _rmdir = _unlink

    def _unlinkat(self, words: list[str], result: int) -> bool:
        path = _text(words[1])
        if words[0] != "AT_FDCWD" and not path.startswith("/"):
            opened = self._open.get(int(words[0]))
            if opened is not None:
                opened.node.put(path, None)
            return opened is not None
        return self._unlink(words[1:], result)

    def _mkdir(self, words: list[str], result: int) -> bool:
        found = self._find(_text(words[0]))
        if found is not None:
            found[0].put(found[1], Node(folder=True))
        return found is not None

    def _mkdirat(self, words: list[str], result: int) -> bool:
        return self._mkdir(words[1:], result)


def _read(path: Path) -> Node:
    """A folder as it lies on the disk, all of it durable; hard links are one node."""
    known: dict[int, Node] = {}

    def node(entry: Path) -> Node:
        found = entry.lstat()
        assert not stat.S_ISLNK(found.st_mode), f"{entry} is a link"
        if found.st_ino not in known:
            made = Node(folder=entry.is_dir())
            if made.folder:
                made.names = {one.name: node(one) for one in entry.iterdir()}
            else:
                made.content = bytearray(entry.read_bytes())
            made.sync()
            known[found.st_ino] = made
        return known[found.st_ino]

    return node(path)


def _bytes(word: str) -> bytes:
    assert word.startswith('"') and not word.endswith("..."), "a call's bytes are cut off: raise MOST"
    return bytes.fromhex(word.strip('"').replace("\\x", ""))


def _text(word: str) -> str:
    return os.fsdecode(_bytes(word))


def record(operation: str, work: Path, before: str = "") -> list[tuple[str, list[str], int]]:
    """The calls (name, arguments, result) of an operation on a fresh copy that succeeded, in the order of their ends."""
    log = work / "powercut.log"
    options = ["-xx", "-s", str(MOST), "-o", str(log), "-e", "trace=" + ",".join(TRACED)]
    done = crashes.run(operation, crashes.fresh(work), work, 0, options, before)
    assert "done" in done.stdout, done.stderr
    found, waiting = [], dict[str, str]()
    for line in log.read_text(errors="replace").splitlines():
        process, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            waiting[process] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if (match := re.match(r"<\.\.\. \w+ resumed>\s?", rest)) is not None:
            rest = waiting.pop(process) + rest[match.end() :]
        if (match := re.fullmatch(r"(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+)(?: .*)?", rest)) is None or match[3].startswith(
            "-"
        ):
            continue
        found.append((match[1], _split(match[2]), int(match[3], 0)))
    return found


def _split(arguments: str) -> list[str]:
    """At commas outside of brackets; strings are in hexadecimal, so they hold none."""
    words, depth, word = [], 0, ""
    for letter in arguments:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth:
            words.append(word.strip())
            word = ""
        else:
            word += letter
    return [*words, word.strip()]


@dataclass(frozen=True)
class State:
    """A disk that a cut may leave."""

    operation: str
    prefix: int
    """Calls that had been made."""
    last: str
    kind: str
    acknowledged: bool
    tree: dict[str, bytes]
    """Path -> content; of a folder its path ends in a slash."""


def states(operation: str, work: Path, draws: int = 2, before: str = "") -> Iterator[State]:
    """Every different disk of an operation, prefix by prefix; `draws` torn ones of each. before: statements, for faults."""
    calls = record(operation, work, before)
    disk, seen, acknowledged = Disk(crashes.fresh(work), work), set[bytes](), False
    for number, (call, words, result) in enumerate(calls):
        name = "open_" if call == "open" else call
        changed = disk.apply(name, words, result)
        if call == "write" and words[0] == "1" and _bytes(words[1]) == b"done":
            acknowledged = changed = True
        if not changed:
            continue
        kinds = ["dropped", "emptied", *(f"torn {draw}" for draw in range(draws))]
        for kind in kinds:
            tree = dict[str, bytes]()
            _lay(disk.top, "", kind, random.Random(f"{operation} {number} {kind}"), tree)
            mark = _mark(tree, acknowledged)
            if mark not in seen:
                seen.add(mark)
                yield State(operation, number + 1, call, kind, acknowledged, tree)


def _lay(node: Node, path: str, kind: str, random: random.Random, tree: dict[str, bytes]) -> None:
    """What a cut leaves of a folder, into the tree. Hard links become files of their own."""
    if kind == "dropped":
        names = node.durable_names
    elif kind == "emptied":
        names = node.names
    else:
        names = dict(node.durable_names)
        for name, one in node.pending[: random.randint(0, len(node.pending))]:
            if one is None:
                names.pop(name, None)
            else:
                names[name] = one
    for name, one in sorted(names.items()):
        place = f"{path}{name}"
        if one.folder:
            tree[place + "/"] = b""
            _lay(one, place + "/", kind, random, tree)
        else:
            tree[place] = _kept(one, kind, random)


def _kept(node: Node, kind: str, random: random.Random) -> bytes:
    if not kind.startswith("torn") or bytes(node.content) == node.durable:
        return node.durable
    whole = bytes(node.content)
    cut = random.choice([0, len(whole), random.randrange(0, len(whole) + 1, 512)])
    # Of what was longer before, the old bytes stay behind the cut; a file that had grown has a hole there.
    behind = node.durable[cut:].ljust(len(whole) - cut, b"\0")
    return whole[:cut] + behind


def _mark(tree: dict[str, bytes], acknowledged: bool) -> bytes:
    hashed = hashlib.sha256(bytes([acknowledged]))
    for path, content in tree.items():
        hashed.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
    return hashed.digest()


def check(state: State, work: Path, *, retry: bool) -> str:
    """Lay the disk out, and hold what must hold; the fault, or nothing."""
    root = work / "case"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, content in state.tree.items():
        if path.endswith("/"):
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
    return crashes.afterwards(root, work, state.operation, state.acknowledged, retry=retry)
