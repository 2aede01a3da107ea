"""Operations of the registry cut off at a chosen system call, and what must hold afterwards; for tests and bench/crash.py.

strace kills the process on entering the n-th call of a kind, or makes that call fail. A kill leaves the page cache: what a
power cut does to bytes that were never synced is for powercuts.py.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import fakehub
import ociregistry
from conftest import write_toy
from filed import artifact
from slmops.registry import Registry, approval, archive, fsck, gc, push, remotes, signing
from slmops.registry._distribution import Repository, parse
from slmops.registry.references import named

MARK = "/slmops-begin"
LOST = re.compile("Errno|lost sys.stderr")
"""What a failing system call may look like, the one that says so included."""
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
NAMING = ("add", "take", "tag", "import", "pull oci", "pull hub")
"""Those that make the name `new`."""
NETWORKED = {
    "pull oci": 'remotes.pull(registry, (work / "pulled").read_text(), remotes.Wanted())',
    "pull hub": 'remotes.pull(registry, "hf:org/new", remotes.Wanted(name=named("new"), jobs=1))',
    "push": 'push.push(registry, registry.resolve("old"), Repository(parse((work / "pushed").read_text())), "latest")',
}
"""The same within `served`."""
_NETWORK = """
from slmops.registry import _http, push, remotes
from slmops.registry._distribution import Repository, parse
from slmops.registry.remotes import hub, oci
from slmops.formats import _hub
_http.certificates()
import huggingface_hub.hf_api, tokenizers
from slmops import source
from slmops.core import plugins
from slmops.registry.remotes import local, http
for room in ("formats", "architectures"):
    for name in plugins.names(room):
        plugins.load(room, name)
[getattr(huggingface_hub, name) for name in ("HfApi", "get_token", "hf_hub_url", "try_to_load_from_cache")]
"""
WARM = {
    "sign": "import model_signing.manifest, model_signing.signing, model_signing.verifying",
    **dict.fromkeys(NETWORKED, _NETWORK),
}
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
        shutil.which("strace") is not None
        and not subprocess.run(["strace", "-qq", "true"], capture_output=True, timeout=60).returncode
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


@contextlib.contextmanager
def served(work: Path) -> Iterator[None]:
    """A registry across the network that has the artifact `new`, and a Hub that has a model `org/new`."""
    hub = fakehub.serve({"org/new": write_toy("qwen3", work / "hub")})
    with ociregistry.serve(work / "server") as server, hub as models:
        (work / "hub.txt").write_text(models.url)
        (work / "server.txt").write_text(server.host)
        (work / "pushed").write_text(f"oci:{server.host}/first")
        (work / "pulled").write_text(f"oci:{server.host}/new:latest")
        with Registry.open(work / "other") as registry, Repository(parse(f"oci:{server.host}/new")) as there:
            push.push(registry, registry.resolve("new"), there, "latest")
        yield


def cases(operation: str, work: Path) -> list[Case]:
    """Every call that the operation makes on a fresh copy, as a case for each fault that can meet it."""
    root = fresh(work)
    log = work / "strace.log"
    whole = run(operation, root, work, 0, ["-o", str(log), "-e", "trace=" + ",".join(CALLS)])
    assert "done" in whole.stdout, f"{operation} fails undisturbed: {whole.stderr}"
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
    if case.operation == "push":  # a repository that has nothing yet
        (work / "pushed").write_text(f"oci:{(work / 'server.txt').read_text()}/case{secrets.token_hex(8)}")
    options = []
    if case.call:
        what = f"signal={case.fault}" if case.fault == "KILL" else f"error={case.fault}"
        options = ["-o", "/dev/null", "-e", f"trace={case.call}", "-e", f"inject={case.call}:{what}:when={case.number}"]
    done = run(case.operation, root, work, case.most, options)
    if "Traceback" in done.stderr and "slmops.core.errors" not in done.stderr and not LOST.search(done.stderr):
        return f"it ended in {done.stderr.splitlines()[-1]}"
    return afterwards(root, work, case.operation, "done" in done.stdout)


def afterwards(root: Path, work: Path, operation: str, acknowledged: bool, *, retry: bool = True) -> str:
    """What does not hold of a registry after an operation was cut off, and after it is tried again; or nothing."""
    try:
        if said := sound(root, {operation: acknowledged}) or _there(operation, work, acknowledged):
            return said
        if not retry:
            return ""
        again = run(operation, root, work, 0, [])
        if "done" not in again.stdout and not (operation == "rm" and "has no artifact" in again.stderr):
            return f"the retry failed: {again.stderr.splitlines()[-1:]}"
        with Registry.open(root) as registry:
            gc.sweep(registry, 0)
        if said := sound(root, {operation: True}) or _there(operation, work, True):
            return f"after the retry: {said}"
        left = [path.name for folder in ("scratch", "partial") for path in (root / folder).glob("*")]
        left += [path.name for path in root.glob(".*")]
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


def _there(operation: str, work: Path, acknowledged: bool) -> str:
    """What is pushed is there whole, or not at all; what was acknowledged is there."""
    if operation != "push":
        return ""
    place = parse((work / "pushed").read_text())
    shutil.rmtree(work / "back", ignore_errors=True)
    with Repository(place) as there, Registry.open(work / "back") as registry:
        if "latest" not in there.tags():
            return "the other registry does not have it" if acknowledged else ""
        remotes.pull(registry, f"{place}:latest", remotes.Wanted())
    return ""


def run(
    operation: str, root: Path, work: Path, most: int, strace: list[str], before: str = ""
) -> subprocess.CompletedProcess[str]:
    """The operation in a process of its own, after the statements `before`; under strace where options are given."""
    traced = ["strace", "-f", "-qq", *strace] if strace else []
    whole = [*traced, *command(operation, root, work, most, before)]
    return subprocess.run(whole, env=environment(operation, work), capture_output=True, text=True, timeout=600)


def environment(operation: str, work: Path) -> dict[str, str]:
    """What an operation finds: a Hub of the test's own, if it asks one."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    if operation == "pull hub":
        own |= {"HF_ENDPOINT": (work / "hub.txt").read_text(), "HF_HOME": str(work / "hf")}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    return own


def command(operation: str, root: Path, work: Path, most: int = 0, before: str = "") -> list[str]:
    """What runs an operation: it writes `done` to its standard output once it is acknowledged."""
    script, act = SCRIPT, {**OPERATIONS, **NETWORKED}[operation]
    for name, said in (("WARM", WARM.get(operation, "")), ("BEFORE", before), ("OPERATION", act)):
        script = script.replace(name, said)
    return [sys.executable, "-B", "-c", script, str(root), str(work), str(most)]
