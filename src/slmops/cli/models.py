"""slmops models: the registry of what was made: names, bytes, lineage, health."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmops.registry import Registry

HELP = "the registry: add, list, show, name and remove artifacts; check, clean, export and import them"
EXAMPLE = "slmops models ls"
SUB = {
    "add": ("file an artifact's folder", "slmops models add out/gguf --name home:q4"),
    "ls": ("list artifacts: names, format, scheme, size", "slmops models ls"),
    "show": ("say everything of one: files, step, figures, verdicts of gates", "slmops models show home:q4"),
    "tag": ("give an artifact a further name", "slmops models tag home:q4 home:stable"),
    "rm": ("take a name away (of a digest all); the bytes go with gc", "slmops models rm home:stable"),
    "gc": ("remove what no name and no lease leads to, after its grace", "slmops models gc --grace 0s --dry-run"),
    "fsck": ("read every byte, and say what is not as it must be", "slmops models fsck"),
    "reindex": ("make the catalog anew from the manifests", "slmops models reindex"),
    "verify": ("hash the files of artifacts again", "slmops models verify home:q4"),
    "lineage": ("what an artifact was made from, and what from it", "slmops models lineage home:q4 --dot"),
    "lease": ("keep an artifact for a time, whatever its names", "slmops models lease home:q4 --for 7d"),
    "export": ("write artifacts as an OCI image layout", "slmops models export home:q4 -o home.tar"),
    "import": ("take artifacts in from an OCI image layout", "slmops models import home.tar"),
}


def add(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    made: dict[str, argparse.ArgumentParser] = {}
    for name, (said, example) in SUB.items():
        text = f"{said}\n\nexample:\n  {example}"
        form = argparse.RawDescriptionHelpFormatter
        made[name] = verbs.add_parser(name, help=said, description=text, formatter_class=form, allow_abbrev=False)
        made[name].add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    for name in ("show", "tag", "rm", "verify", "lineage", "lease", "export"):
        many = name in ("rm", "verify", "export")
        count = "+" if many else "?" if name == "lineage" else None
        made[name].add_argument("reference", nargs=count, help="NAME[:TAG], or sha256:... (8 digits of it do)")
    made["add"].add_argument("folder", help="a folder that slmops wrote")
    made["add"].add_argument("--name", metavar="NAME[:TAG]", help="default: its model's name, tagged FORMAT-SCHEME")
    made["ls"].add_argument("name", nargs="?", help="only artifacts that have a tag of this name")
    made["tag"].add_argument("new", metavar="NAME[:TAG]", help="the name to give")
    for name in ("add", "tag", "import", "export"):
        made[name].add_argument(
            "--force", action="store_true", help="move a name that is taken, replace a file that is there"
        )
    grace = "since the last name went, or a blob was last asked for: 24h, 30d, 0s (24h)"
    made["gc"].add_argument("--grace", default="24h", metavar="TIME", help=grace)
    made["gc"].add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    made["fsck"].add_argument("--repair", action="store_true", help="make again what can be made; set damaged blobs aside")
    made["lineage"].add_argument("--dot", action="store_true", help="as a graph for Graphviz")
    made["lease"].add_argument("--for", dest="time", default="24h", metavar="TIME", help="how long: 24h, 7d (24h)")
    made["export"].add_argument("-o", "--out", required=True, help="a file that ends in .tar, or a folder")
    made["import"].add_argument("archive", help="a folder or a tar of an OCI image layout")
    made["import"].add_argument("--name", metavar="NAME[:TAG]", help="for its only artifact, in place of its own names")


def run(arguments: argparse.Namespace) -> int:
    import json

    from slmops.core.errors import CorruptInput
    from slmops.registry import Registry, fsck

    if arguments.what == "fsck":
        checked = fsck.check(repair=arguments.repair)
        facts, said = _checked(checked)
    else:
        with Registry.open() as registry:
            facts, said = ACTIONS[arguments.what](registry, arguments)
    # What manifests say is not ours: nothing of it may steer the terminal.
    if not said.replace("\n", "").isprintable():
        said = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in said)
    print(json.dumps(facts, indent=1) if arguments.json else said)
    if arguments.what == "fsck" and not checked.sound:
        count = sum(not one.harmless and not one.repaired for one in checked.problems)
        raise CorruptInput(f"{count} faults were found", "" if arguments.repair else "--repair mends what can be mended")
    return 0


def _add(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    from pathlib import Path

    from slmops.core import receipt
    from slmops.registry import references
    from slmops.registry.references import Reference

    folder = Path(arguments.folder)
    facts = receipt.load(folder)
    tag = f"{facts['format']}-{facts.get('scheme', '')}".replace("_", "-").replace(":", "-").rstrip("-")
    if arguments.name:
        name = references.named(arguments.name)
    else:
        name = references.named(str(Reference(references.slug(str(facts.get("name", ""))), tag)))
    digest = registry.add(folder, name, replace=arguments.force)
    return {"digest": digest, "name": str(name)}, f"{name}: {digest}"


def _ls(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    from slmops.cli import _text

    rows = registry.rows(arguments.name)
    if arguments.json:
        return [{**row._asdict(), "verified": bool(row.verified)} for row in rows], ""
    shown = [
        [
            ", ".join(row.tags) or "-",
            row.digest[7:19],
            row.format.replace("_", "-"),
            row.scheme,
            _text.size(row.bytes),
            "damaged" if row.fault else "yes" if row.verified else "no",
        ]
        for row in rows
    ]
    return None, _text.table(
        ["name", "digest", "format", "scheme", "size", "proven"], shown, "llllrl"
    ) if rows else "nothing yet"


def _show(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    import dataclasses

    from slmops.cli import _text
    from slmops.registry import manifest

    digest = registry.resolve(arguments.reference)
    found = registry.manifest(digest)
    row = next(row for row in registry.rows() if row.digest == digest)
    config = registry.document(found.config)
    attached = [
        {"digest": one, "kind": kind, "document": registry.document(registry.manifest(one).layers[0].blob)}
        for one, kind in registry.catalog.attachments(digest)
    ]
    gates = registry.catalog.gates(digest)
    facts = {
        **row._asdict(),
        "config": config,
        "annotations": dict(found.annotations),
        "files": [{"path": one.path, "kind": one.kind, **dataclasses.asdict(one.blob)} for one in found.layers],
        "inputs": [dataclasses.asdict(one) for one in manifest.inputs(found)],
        "attachments": attached,
        "leases": [dataclasses.asdict(one) for one in registry.catalog.leases() if one.digest == digest],
    }
    pairs = [
        ("digest", digest),
        ("names", ", ".join(row.tags)),
        ("model", f"{row.name} ({row.family})"),
        ("format", f"{row.format}, {row.scheme}, {_text.size(row.bytes)}"),
        ("proven", "yes" if row.verified else "no"),
        ("made from", "\n".join(f"{one.role}: {one.label or one.parent}" for one in manifest.inputs(found))),
        ("leased", f"{len(facts['leases'])} times" if facts["leases"] else ""),
        ("gates", "\n".join(f"{gate}: {said}" for gate, _, _, said in gates)),
    ]
    files = [[one.path, one.kind, _text.size(one.blob.size), one.blob.digest[7:19]] for one in found.layers]
    return facts, f"{_text.pairs(pairs)}\n\n{_text.table(['file', 'kind', 'size', 'digest'], files, 'llrl')}"


def _tag(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    from slmops.registry import references

    name = references.named(arguments.new)
    digest = registry.tag(arguments.reference, name, replace=arguments.force)
    return {"digest": digest, "name": str(name)}, f"{name}: {digest}"


def _rm(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    done = [registry.remove(one) for one in arguments.reference]
    facts = [{"digest": digest, "names": list(map(str, gone))} for digest, gone in done]
    lines = [f"{', '.join(map(str, gone)) or 'no name'}: {digest}" for digest, gone in done]
    return facts, "\n".join([*lines, "what has no name any more goes with gc, a day from now: slmops models gc"])


def _gc(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    import dataclasses

    from slmops.cli import _text, _units
    from slmops.registry import gc

    grace = 0.0 if arguments.grace in ("0", "0s") else _units.seconds(arguments.grace)
    found = gc.sweep(registry, grace, dry_run=arguments.dry_run)
    would = "would go" if arguments.dry_run else "gone"
    lines = [f"{would}: {len(found.artifacts)} artifacts, {found.blobs} blobs, {_text.size(found.bytes)}"]
    for kept, why in ((found.leased, "leased"), (found.young, "younger than their grace")):
        lines += [f"kept without a name: {len(kept)}, {why}"] if kept else []
    return dataclasses.asdict(found), "\n".join(lines)


def _checked(checked: Any) -> tuple[Any, str]:
    import dataclasses

    from slmops.cli import _text

    lines = [f"{'repaired ' if one.repaired else ''}{one.what} {one.name}: {one.said}" for one in checked.problems]
    lines.append(f"{checked.manifests} manifests, {checked.blobs} blobs, {_text.size(checked.bytes)} read")
    return {**dataclasses.asdict(checked), "sound": checked.sound}, "\n".join(lines)


def _reindex(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    registry.reindex()
    rows = registry.rows()
    return {"artifacts": len(rows)}, f"{len(rows)} artifacts"


def _verify(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    from slmops.cli import _text
    from slmops.registry import fsck

    done = {one: fsck.verify(registry, registry.resolve(one)) for one in arguments.reference}
    return {"bytes": done}, "\n".join(f"{one}: {_text.size(size)}, every byte as it was" for one, size in done.items())


def _lineage(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    import dataclasses

    from slmops.registry import lineage

    digest = registry.resolve(arguments.reference) if arguments.reference else None
    facts = [dataclasses.asdict(one) for one in lineage.edges(registry, digest)]
    if arguments.dot:
        return facts, lineage.dot(registry, digest)
    digests = [digest] if digest else [row.digest for row in registry.rows()]
    return facts, "\n".join(lineage.text(registry, one) for one in digests)


def _lease(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    from slmops.cli import _units

    digest = registry.keep(arguments.reference, "asked for by hand", seconds := _units.seconds(arguments.time))
    return {"digest": digest, "seconds": seconds}, f"{digest} stays for {arguments.time}"


def _export(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    from pathlib import Path

    from slmops.cli import _text
    from slmops.registry import archive

    digests = [registry.resolve(one) for one in arguments.reference]
    size = archive.send(registry, list(dict.fromkeys(digests)), Path(arguments.out), replace=arguments.force)
    return {"out": arguments.out, "digests": digests, "bytes": size}, f"{arguments.out}: {_text.size(size)}"


def _import(registry: Registry, arguments: argparse.Namespace) -> tuple[Any, str]:
    from pathlib import Path

    from slmops.cli import _text
    from slmops.registry import archive, references

    rename = references.named(arguments.name) if arguments.name else None
    with archive.opened(Path(arguments.archive)) as source:
        taken = archive.receive(registry, source, rename=rename, replace=arguments.force)
    facts = {"artifacts": taken.artifacts, "names": list(map(str, taken.names)), "new": taken.new}
    named = ", ".join(map(str, taken.names)) or "no name"
    return facts, f"{len(taken.artifacts)} artifacts ({named}), {_text.size(taken.new)} of it new"


ACTIONS = {
    "add": _add, "ls": _ls, "show": _show, "tag": _tag, "rm": _rm, "gc": _gc, "reindex": _reindex, "verify": _verify,
    "lineage": _lineage, "lease": _lease, "export": _export, "import": _import,
}  # fmt: skip
