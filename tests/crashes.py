"""Operations of the registry cut off at a chosen system call, and what must hold afterwards; for tests and bench/crash.py.

strace kills the process on entering the n-th call of a kind, or makes that call fail. A kill leaves the page cache: what a
power cut does to bytes that were never synced is for powercuts.py.
"""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filed import artifact
from slmops.registry import Registry, approval, archive, fsck, gc, signing
from slmops.registry.references import named

MARK = "/slmops-begin"
CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "link", "unlink", "unlinkat", "mkdir", "rmdir", "chmod",
    "fchmod", "utimensat", "ftruncate", "flock",
)  # fmt: skip
FAULTS = {"EIO": ("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "link", "unlink"),
          "ENOSPC": ("openat", "write", "pwrite64", "rename", "link", "mkdir")}  # fmt: skip
OPERATIONS = {
    "add": 'registry.add(work / "new", named("new"))',
    "take": "taken(registry, stack.enter_context(registry.scratch()))",
    "attach": 'registry.attach(registry.resolve("old"), "measurement", {"measured": {"x": 1.0}})',
    "sign": 'signing.sign(registry, registry.resolve("old"), signing.Signer(work / "key.pem"))',
    "approve": 'approval.approve(registry, registry.resolve("old"), "ann")',
    "document": 'documents.write(registry, registry.resolve("old"))',
    "promote": 'registry.tag("good", named("live:production"), replace=True)',
    "tag": 'registry.tag("old", named("new"))',
    "rm": 'registry.remove("gone")',
    "gc": "gc.sweep(registry, 0)",
    "place": 'registry.place(registry.resolve("old"))',
    "import": 'archive.receive(registry, stack.enter_context(archive.opened(work / "new.tar")))',
    "reindex": "registry.reindex()",
    "repair": "fsck.check(root, repair=True)",
}
NAMING = ("add", "take", "tag", "import")
"""Those that make the name `new`."""
WARM = {"sign": "import model_signing.manifest, model_signing.signing, model_signing.verifying"}
"""What is imported before calls are counted: files that are only read lose nothing."""
LEAVES = {"sign": "signature", "approve": "approval", "document": "card", "attach": "measurement"}
"""What an operation attaches to `old`."""
SCRIPT = """
import contextlib, os, resource, shutil, signal, sys
from pathlib import Path
from slmops.registry import Registry, approval, archive, documents, fsck, gc, signing, trust
from slmops.registry.references import named
import psutil
WARM

def taken(registry, scratch):
    shutil.copytree(work / "new", scratch / "made", copy_function=shutil.copyfile)
    registry.add(scratch / "made", named("new"), take=True)

root, work, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
BEFORE
with contextlib.suppress(OSError):
    open("/slmops-begin")
if most:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
with contextlib.ExitStack() as stack:
    registry = stack.enter_context(Registry.open(root))
    OPERATION
os.write(1, b"done")
"""


@dataclass(frozen=True)
class Case:
    """Where an operation is cut: at the n-th `call` after it began, by a kill or an error; or at files of so many bytes."""

    operation: str
    call: str = ""
    number: int = 0
    fault: str = "KILL"
    most: int = 0


def usable() -> bool:
    """Some sandboxes have strace and forbid what it does."""
    return (
        shutil.which("strace") is not None and not subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode
    )


def prepare(work: Path) -> Path:
    """A registry of three artifacts: one named `old`, one `gone`, one that lost its name; and what operations need."""
    root = work / "home"
    with Registry.open(work / "other") as registry:
        if find_spec("cryptography") is not None:
            signing.make_key(work / "key.pem")
        digest = registry.add(artifact(work / "new", b"n"), named("new"))
        archive.send(registry, [digest], work / "new.tar")
    with Registry.open(root) as registry:
        registry.add(artifact(work / "old", b"o"), named("old"))
        registry.add(artifact(work / "gone", b"g"), named("gone"))
        registry.add(artifact(work / "lost", b"l"), named("lost"))
        registry.remove("lost")
        for name in ("first", "good"):
            approval.approve(registry, registry.add(artifact(work / name, name[:1].encode()), named(name)), "ann")
        registry.tag("first", named("live:production"))
    return root


def cases(operation: str, work: Path) -> list[Case]:
    """Every call that the operation makes on a fresh copy, as a case for each fault that can meet it."""
    root = fresh(work)
    log = work / "strace.log"
    run(operation, root, work, 0, ["-o", str(log), "-e", "trace=" + ",".join(CALLS)])
    before: collections.Counter[str] = collections.Counter()
    seen: collections.Counter[str] = collections.Counter()
    began = False
    for line in log.read_text(errors="replace").splitlines():
        if (match := re.match(r"(?:\d+ +)?(\w+)\(", line)) is None:
            continue
        began = began or MARK in line
        seen[match[1]] += 1
        if not began or MARK in line:
            before[match[1]] += 1
    found = []
    for call in CALLS:
        for number in range(before[call] + 1, seen[call] + 1):
            found.append(Case(operation, call, number))
            found += [Case(operation, call, number, fault) for fault, calls in FAULTS.items() if call in calls]
    # Real short writes: the system takes what fits below the limit, and then no more.
    return found + [Case(operation, most=most, fault="EFBIG") for most in (1, 500, 4096, 33_000, 69_999)]


def fresh(work: Path) -> Path:
    """A copy of what prepare() made."""
    root = work / "case"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(work / "home", root)
    return root


def check(case: Case, work: Path) -> str:
    """Run a case; the fault that it shows, or nothing."""
    root = fresh(work)
    options = []
    if case.call:
        what = f"signal={case.fault}" if case.fault == "KILL" else f"error={case.fault}"
        options = ["-o", "/dev/null", "-e", f"trace={case.call}", "-e", f"inject={case.call}:{what}:when={case.number}"]
    done = run(case.operation, root, work, case.most, options)
    if "Traceback" in done.stderr and "slmops.core.errors" not in done.stderr and "Errno" not in done.stderr:
        return f"it ended in {done.stderr.splitlines()[-1]}"
    return afterwards(root, work, case.operation, "done" in done.stdout)


def afterwards(root: Path, work: Path, operation: str, acknowledged: bool, *, retry: bool = True) -> str:
    """What does not hold of a registry after an operation was cut off, and after it is tried again; or nothing."""
    try:
        if said := sound(root, {operation: acknowledged}):
            return said
        if not retry:
            return ""
        again = run(operation, root, work, 0, [])
        if "done" not in again.stdout and not (operation == "rm" and "has no artifact" in again.stderr):
            return f"the retry failed: {again.stderr.splitlines()[-1:]}"
        with Registry.open(root) as registry:
            gc.sweep(registry, 0)
        if said := sound(root, {operation: True}):
            return f"after the retry: {said}"
        left = [path.name for path in (root / "scratch").iterdir()] + [path.name for path in root.glob(".*")]
        return f"left behind: {left}" if left else ""
    except Exception as error:  # whatever it is, it is what the sweep looks for
        return f"afterwards: {type(error).__name__}: {error}"


def sound(root: Path, done: Mapping[str, bool]) -> str:
    """Reopened, fsck finds nothing, each acknowledged name is there, and what is there is whole; or what is not so.

    done: operations that were begun, and whether each was acknowledged.
    """
    with Registry.open(root) as registry:
        tags = {tag: row.digest for row in registry.rows() for tag in row.tags}
        for tag in tags:
            fsck.verify(registry, registry.resolve(tag))
        for row in registry.rows():
            if row.fault:
                return f"{row.digest} is shown and cannot be read: {row.fault}"
        left = {kind for _, kind in registry.catalog.attachments(tags["old:latest"])} if "old:latest" in tags else set()
        for operation in LEAVES.keys() & done.keys():
            if done[operation] and LEAVES[operation] not in left:
                return f"the {LEAVES[operation]} is lost"
        live = tags.get("live:production"), tags.get("first:latest"), tags.get("good:latest")
        if live[0] not in live[1:] or (done.get("promote") and live[0] != live[2]):
            return f"production is {live[0]}"
    must = {"old:latest", "first:latest", "good:latest", "live:production"}
    must |= {"gone:latest"} if "rm" not in done else set()
    may = must | {"gone:latest"}
    for operation, acknowledged in done.items():
        if operation in NAMING:
            may |= {"new:latest"}
            must |= {"new:latest"} if acknowledged else set()
        if operation == "rm" and acknowledged:
            may -= {"gone:latest"}
    if not must <= set(tags) <= may:
        return f"names are {sorted(tags)}"
    checked = fsck.check(root)
    return "" if checked.sound else f"fsck: {[one for one in checked.problems if not one.harmless]}"


def run(
    operation: str, root: Path, work: Path, most: int, strace: list[str], before: str = ""
) -> subprocess.CompletedProcess[str]:
    """The operation in a process of its own, after the statements `before`; under strace where options are given."""
    traced = ["strace", "-f", "-qq", *strace] if strace else []
    return subprocess.run(
        [*traced, *command(operation, root, work, most, before)], capture_output=True, text=True, timeout=120
    )


def command(operation: str, root: Path, work: Path, most: int = 0, before: str = "") -> list[str]:
    """What runs an operation: it writes `done` to its standard output once it is acknowledged."""
    script = (
        SCRIPT.replace("WARM", WARM.get(operation, "")).replace("OPERATION", OPERATIONS[operation]).replace("BEFORE", before)
    )
    return [sys.executable, "-B", "-c", script, str(root), str(work), str(most)]
