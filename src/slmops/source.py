"""From what a user types to a Model: a path in any format that can be read, or a name on the Hugging Face Hub.

Not called load.py: a submodule of that name would hide the verb `slmops.load`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TypeVar

from slmops.core import plugins
from slmops.core.adapter import Adapter
from slmops.core.errors import SlmopsError, SourceNotFound, Unsupported, UsageError
from slmops.core.model import Model
from slmops.formats import _files, _hub, _peft, huggingface

Found = TypeVar("Found", Model, huggingface.Survey)


def load(source: str | Path, revision: str | None = None) -> Model:
    """The model at a path, or of a Hub name (`org/name`, `org/name@revision`), which is downloaded first.

    No weight is read. Raises SourceNotFound, CorruptInput, UnknownFamily or Unsupported.
    """
    model: Model
    path = local(source, revision)
    if path is not None:
        model = plugins.load("formats", format_of(path)).read(path)
        return _called(model, path)
    name = hub_name(source, revision)
    folder = _hub.small_files(name)
    form = format_of(folder)
    if form != "huggingface":
        _hub.weight_files(name, folder, huggingface.wanted_weights(folder))
        model = plugins.load("formats", form).read(folder)
        where = {**model.source, "hub": str(name), "revision": folder.name}
        return dataclasses.replace(model, name=huggingface.name_of(folder), source=where)
    # Refused before gigabytes are fetched: unknown families, kinds of quantization without a reader, remote code.
    huggingface.check(folder)
    _hub.weight_files(name, folder, huggingface.wanted_weights(folder))
    return huggingface.assemble(_of_hub(huggingface.survey(folder), name, folder))


def adapter(folder: str | Path, model: Model) -> Adapter:
    """The LoRA in this folder, for this model. Raises SourceNotFound, CorruptInput or Unsupported."""
    return _peft.read(Path(folder).expanduser(), model.spec)


def outline(source: str | Path) -> Model:
    """The model as far as predictions need it: shapes and names, the tokenizer unread, no weight fetched from the Hub.

    Nothing can be made of it. What is quantized already is loaded whole. Raises what load() raises.
    """
    path = local(source)
    if path is not None and format_of(path) != "huggingface":
        return load(source)
    found = survey(source, tokenizer=False)
    return load(source) if path is None and found.config.get("quantization_config") else huggingface.assemble(found)


def survey(source: str | Path, revision: str | None = None, *, tokenizer: bool = True) -> huggingface.Survey:
    """What a Hugging Face folder or Hub name says about itself; of a Hub name only headers are fetched, no weights.

    tokenizer: whether it is read, or left as text.
    """
    path = local(source, revision)
    if path is not None:
        return _called(huggingface.survey(path, tokenizer=tokenizer), path)
    name = hub_name(source, revision)
    folder = _hub.small_files(name)
    shards = huggingface.wanted_weights(folder)
    here = all((folder / shard).exists() for shard in shards)
    headers = None if here else _hub.headers(name, folder)
    return _of_hub(huggingface.survey(folder, headers, tokenizer=tokenizer), name, folder)


def _of_hub(survey: huggingface.Survey, name: _hub.Name, folder: Path) -> huggingface.Survey:
    """Note where it came from: the name as typed, and the commit that it stood for."""
    return dataclasses.replace(survey, source={**survey.source, "hub": str(name), "revision": folder.name})


def _called(found: Found, path: Path) -> Found:
    """An artifact of the registry is called what its manifest says, not after its folder there (docs/registry.md)."""
    folder = path if path.is_dir() else path.parent
    root = folder.absolute().parent.parent
    if found.name != folder.name or folder.parent.name != "artifacts" or not _files.there(root, "oci-layout"):
        return found
    with contextlib.suppress(SlmopsError):
        said = _files.read_json(root / "blobs" / "sha256", folder.name).get("annotations")
        name = said.get("dev.slmops.name") if isinstance(said, dict) else None
        return dataclasses.replace(found, name=name[:200]) if isinstance(name, str) and name else found
    return found


def local(source: str | Path, revision: str | None = None) -> Path | None:
    """The path, if there is something; None if the source can only be a Hub name."""
    path = Path(source)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long for the system, an unknown ~user
        if isinstance(error, PermissionError):
            raise
        exists = False
    if not exists:
        if isinstance(source, Path):
            raise SourceNotFound(f"there is nothing at {source}")
        return None
    if revision is not None:
        raise UsageError(f"{source} is a path here, and paths have no revision", "leave the revision out")
    return path


def format_of(path: Path) -> str:
    """Name of the format that reads this path. Formats that know the folder closer stand before plain safetensors."""
    names = [name for name in plugins.names("formats") if name != "huggingface"] + ["huggingface"]
    for name in names:
        module = plugins.load("formats", name)
        if hasattr(module, "read") and module.detect(path):
            return name
    if path.is_dir() and not (path / "config.json").exists():
        raise SourceNotFound(
            f"{path} has no config.json", "give a folder of a Hugging Face checkpoint: config.json beside model.safetensors"
        )
    raise Unsupported(f"{path} is in no format that can be read", f"formats: {', '.join(names)}")


def hub_name(source: str | Path, revision: str | None = None) -> _hub.Name:
    """Read the source as a Hub name; raises SourceNotFound saying both readings."""
    name = _hub.parse(str(source), revision)
    if name is None:
        raise SourceNotFound(
            f"there is no file or folder {str(source)[:200]!r}, and it is no Hub name (org/name) either",
            "check the path, or name a model such as Qwen/Qwen3-0.6B",
        )
    return name


def fetched(source: str | Path) -> bool:
    """Whether nothing of it is left to be fetched. Of a Hub name the small files are."""
    if local(source) is not None:
        return True
    folder = _hub.small_files(hub_name(source))
    return all((folder / shard).exists() for shard in huggingface.wanted_weights(folder))
