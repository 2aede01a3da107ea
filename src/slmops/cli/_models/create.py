"""slmops models create: a model out of another, with what it says by itself, from a Modelfile."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "make a model from another by an Ollama Modelfile: system prompt, parameters, messages, template, adapter, precision"
EXAMPLE = "slmops models create butler --modelfile Modelfile --quantize q8_0"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[:TAG]", help="what it will be called; a name that is taken moves with --force")
    parser.add_argument(
        "--modelfile", default="Modelfile", metavar="FILE", help="FROM names a folder, a .gguf, a name here or of the Hub"
    )
    parser.add_argument("--quantize", metavar="SCHEME", help="q4_K_M, q8_0, or as convert has it (as it is)")
    parser.add_argument("--force", action="store_true", help="move a name that is taken")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops import create
    from slmops.cli._progress import Progress
    from slmops.core.errors import SourceNotFound, UsageError
    from slmops.formats import _modelfile
    from slmops.registry import Registry, references

    path, name = Path(arguments.modelfile), references.named(arguments.name)
    try:
        if path.stat().st_size > 4 * _modelfile.MOST_LETTERS:
            raise UsageError(f"{path} is no Modelfile: it is too large")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceNotFound(f"the Modelfile cannot be read: {path}: {error.strerror}", "--modelfile FILE") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8", "save it as such") from None
    said = _modelfile.parse(text)
    with Registry.open() as registry:
        if not arguments.force:
            registry.refuse_taken(name)
        wanted = create.of(registry, said, path.absolute().parent, arguments.quantize)
        digest = create.create(registry, name, wanted, Progress(arguments.json).watch())
    return Said({"digest": digest, "name": str(name)}, f"{name}: {digest}")
