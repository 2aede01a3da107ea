"""slmops models pull: fetch a model from the Hub, an OCI registry, a web server or this machine."""

from __future__ import annotations

import argparse

from slmops.cli import _units
from slmops.cli._sub import Said

HELP = "fetch a model from the Hub, an OCI registry, a web server or this machine; it has its name when it is proven"
EXAMPLE = "slmops models pull Qwen/Qwen3-0.6B-GGUF --variant Q8_0 --name qwen3:q8"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="org/name or hf:org/name (@revision), oci:host/repo:tag, https://host/file or folder/, or a path"
    )
    parser.add_argument("--name", metavar="NAME[:TAG]", help="default: the model's name, tagged FORMAT-SCHEME")
    parser.add_argument("--revision", metavar="R", help="of the Hub: a branch, tag or commit (main)")
    parser.add_argument("--variant", metavar="V", help="where a source holds several models: which (Q4_K_M, a folder)")
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="only weights that match (may be repeated)"
    )
    parser.add_argument("--jobs", type=_units.jobs, default=4, metavar="N", help="files at a time (4)")
    parser.add_argument("--unverified", action="store_true", help="of the web: take a file that nobody gave a digest of")
    parser.add_argument("--plain-http", action="store_true", help="of OCI registries: without encryption")
    parser.add_argument("--force", action="store_true", help="move a name that is taken")


def run(arguments: argparse.Namespace) -> Said:
    from slmops.cli import _text
    from slmops.cli._progress import Progress
    from slmops.registry import Registry, documents, references, remotes

    wanted = remotes.Wanted(
        name=references.named(arguments.name) if arguments.name else None,
        revision=arguments.revision,
        patterns=tuple(arguments.include),
        variant=arguments.variant,
        unverified=arguments.unverified,
        plain_http=arguments.plain_http,
        replace=arguments.force,
        jobs=arguments.jobs,
    )
    with Registry.open() as registry:
        taken = remotes.pull(registry, arguments.source, wanted, Progress(arguments.json).watch())
        for digest in taken.artifacts:
            documents.write(registry, digest)
        rows = {row.digest: row for row in registry.rows()}
    facts = {"artifacts": taken.artifacts, "names": list(map(str, taken.names)), "new": taken.new, "notes": taken.notes}
    named = ", ".join(map(str, taken.names)) or "no name"
    lines = [f"{named}: {_text.size(sum(rows[one].bytes for one in taken.artifacts))}, {_text.size(taken.new)} of it new"]
    return Said(facts, "\n".join([*lines, *taken.artifacts, *taken.notes]))
