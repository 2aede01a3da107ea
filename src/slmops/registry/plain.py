"""Models that slmops did not make: what a manifest says of them, from their headers. No weight is read.

What is proven of an artifact stands in its receipt; these have none. A graph that cannot be lifted is filed as it is: its
engine runs it, and nothing can be made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.core.errors import UnknownFamily, Unsupported

AS_IS = "as is"
"""The scheme of a graph whose weights are not understood."""
GRAPHS = ("onnx", "openvino")


def facts(folder: Path, name: str, files: Sequence[str], source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys of a receipt that a manifest is made from, of a model in a folder that holds these files.

    source: {"hub": org/name, "revision": commit} of what came from the Hub.
    Raises SourceNotFound, CorruptInput, UnknownFamily, Unsupported: what reading it raises.
    """
    from slmops import source as sources
    from slmops.core import plugins

    form = sources.format_of(folder)
    common = {"format": form, "name": name, "source": dict(source or {}), "files": dict.fromkeys(files, 0)}
    try:
        model = plugins.load("formats", form).read(folder)
    except (Unsupported, UnknownFamily):
        if form not in GRAPHS:
            raise
        return {**common, "scheme": AS_IS, "tensors": {}, **_graph(folder)}
    sizes: dict[str, int] = {}
    for tensor in model.tensors.values():
        kind, count = _stored(tensor)
        sizes[kind] = sizes.get(kind, 0) + count
    return {
        **common,
        "scheme": max(sizes, key=lambda kind: sizes[kind]),
        "licence": model.licence,
        "config": {"model_type": model.spec.family},
        "tensors": {role: {"shape": list(tensor.shape)} for role, tensor in model.tensors.items()},
    }


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
