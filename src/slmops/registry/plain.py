"""Models that slmops did not make: what a manifest says of them, from their headers. No weight is read.

What is proven of an artifact stands in its receipt; these have none. A graph that cannot be lifted is filed as it is: its
engine runs it, and nothing can be made of it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slmops.core import receipt
from slmops.core.errors import SourceNotFound, UnknownFamily, Unsupported
from slmops.registry import contents, manifest, references
from slmops.registry.contents import CHECKPOINT, RECEIPT, Choice
from slmops.registry.references import Reference

AS_IS = "as is"
"""The scheme of a graph whose weights are not understood."""
GRAPHS = ("onnx", "openvino")


class Described(NamedTuple):
    """A model on this machine."""

    facts: Mapping[str, Any]
    """What its manifest is made from: its receipt, or what facts() finds."""
    files: dict[str, Path]
    """Name in the artifact -> where it lies."""
    left: tuple[str, ...] = ()
    """Beside it, and left out because it can run code."""


def described(path: Path) -> Described:
    """A finished artifact, or any model that can be read: what its manifest says of it, and which files are of it.

    path: a folder, or a .gguf. Raises SourceNotFound, CorruptInput, UnknownFamily, Unsupported; UsageError where a folder
    holds several.
    """
    if (path / receipt.NAME).is_file():
        found = receipt.load(path)
        return Described(found, {name: path / name for name in manifest.files(path, found)})
    path = path.absolute()
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise SourceNotFound(f"there is nothing at {path}", "give a folder of a model, or a .gguf")
    listing = {one.name: one.stat().st_size for one in folder.iterdir() if one.is_file()}
    if path is not folder:
        shard = contents.SHARD.fullmatch(path.name)
        listing = {
            name: count
            for name, count in listing.items()
            if name == path.name or (shard and (other := contents.SHARD.fullmatch(name)) and other[1] == shard[1])
        }
    choice = narrowed(contents.choose(listing, str(path)), folder)
    names = (*choice.weights, *choice.others)
    manifest.check_paths(names)
    return Described(facts(folder, choice), {name: _real(folder, name) for name in names}, choice.left)


def notes(left: Sequence[str]) -> tuple[str, ...]:
    """What to tell the user of files that were left out."""
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return (f"left out, for they can run code: {', '.join(left[:5])}{more}",) if left else ()


def narrowed(choice: Choice, folder: Path) -> Choice:
    """With the weights that a checkpoint's index names, or the files that a receipt lists, once these lie in a folder.

    What nobody here can read is refused, before its weights are fetched. Raises what reading config.json raises.
    """
    from slmops import source as sources
    from slmops.core import spec as specs
    from slmops.formats import huggingface

    if choice.form == RECEIPT:
        listed = {choice.place + name for name in (*receipt.load(folder)["files"], receipt.NAME)}
        kept = [tuple(name for name in names if name in listed) for names in (choice.weights, choice.others)]
        return dataclasses.replace(choice, weights=kept[0], others=kept[1])
    if choice.form != CHECKPOINT:
        return choice
    specs.from_config(huggingface.read_config(folder))
    if sources.format_of(folder) == "huggingface":
        huggingface.check(folder)
    wanted = [choice.place + name for name in huggingface.wanted_weights(folder)]
    missing = [name for name in wanted if name not in choice.weights]
    if missing:
        raise SourceNotFound(
            f"{missing[0]} is not there, which is part of the model", "look for it where the rest came from"
        )
    return dataclasses.replace(choice, weights=tuple(wanted))


def facts(folder: Path, choice: Choice, name: str = "", source: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """The keys of a receipt that a manifest is made from, of a model whose files lie in a folder; its own, if it has one.

    name: in place of the one that the files say. source: {"hub": org/name, "revision": commit} of what is the Hub's.
    Raises SourceNotFound, CorruptInput, UnknownFamily, Unsupported: what reading it raises.
    """
    from slmops import source as sources
    from slmops.core import plugins
    from slmops.formats import _licence

    if choice.form == RECEIPT:
        found = receipt.load(folder)
        manifest.files(folder, found)
        return found
    path = folder / choice.inside(choice.weights[0]) if choice.form == "gguf" else folder
    form = sources.format_of(path)
    common = {"format": form, "source": dict(source or {})}
    try:
        model = plugins.load("formats", form).read(path)
    except (Unsupported, UnknownFamily):
        if form not in GRAPHS:
            raise
        return {**common, "name": name or folder.name, "scheme": AS_IS, "tensors": {}, **_graph(folder)}
    sizes: dict[str, int] = {}
    for tensor in model.tensors.values():
        kind, count = _stored(tensor)
        sizes[kind] = sizes.get(kind, 0) + count
    return {
        **common,
        "name": name or model.name,
        "scheme": max(sizes, key=lambda kind: sizes[kind]),
        "licence": model.licence or (_licence.read(folder) if choice.others else None),
        "config": {"model_type": model.spec.family},
        "tensors": {role: {"shape": list(tensor.shape)} for role, tensor in model.tensors.items()},
    }


def name_of(facts: Mapping[str, Any], kind: str | None = None) -> Reference:
    """The name to give by default: the model's, tagged FORMAT-SCHEME. kind: in place of the scheme."""
    tag = f"{facts['format']}-{kind or facts.get('scheme', '')}"
    tag = "-".join(re.findall(r"[a-z0-9.]+", tag.lower()))
    return references.named(str(Reference(references.slug(str(facts.get("name", ""))), tag)))


def _real(folder: Path, name: str) -> Path:
    """Where a file's bytes lie: Hugging Face's cache has links, which stay within it."""
    from slmops.formats import _files

    return Path(os.path.realpath(_files.inside(folder, name)))


def _stored(tensor: Any) -> tuple[str, int]:
    """What a tensor is stored as, and in how many bytes."""
    from slmops.core.scheme import Packed, stored_as
    from slmops.core.tensor import elements

    if isinstance(tensor, Packed):
        return stored_as(tensor), tensor.scheme.nbytes(tensor.shape)
    return stored_as(tensor), elements(tensor.shape) * tensor.dtype.itemsize


def _graph(folder: Path) -> dict[str, Any]:
    """Family and licence of a graph, from the files beside it."""
    from slmops.formats import _files, _licence

    family = ""
    for file in ("config.json", "genai_config.json"):
        if _files.there(folder, file):
            said = _files.read_json(folder, file)
            inner = said.get("model")
            family = family or str(said.get("model_type") or (inner.get("type") if isinstance(inner, dict) else "") or "")
    return {"config": {"model_type": family[:100]}, "licence": _licence.read(folder)}
