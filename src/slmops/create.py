"""create: a model out of another, with what it says by itself: as Ollama's Modelfiles and /api/create ask for it.

Nothing is copied: the new artifact has the other's files, and `defaults.json` (core/defaults.py) beside them. Adapters are
merged, and what is quantized is compiled anew and proven.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slmops import obtain
from slmops.core import defaults, parameters, plugins
from slmops.core.defaults import Defaults
from slmops.core.errors import SourceNotFound, UsageError
from slmops.core.step import Step
from slmops.core.watch import Watch
from slmops.formats import _go_template, _hub
from slmops.formats._modelfile import Modelfile
from slmops.passes.merge import merge
from slmops.registry import Registry, documents, manifest, plain
from slmops.registry.blobs import Blob, share
from slmops.registry.manifest import Layer
from slmops.registry.references import Reference
from slmops.source import adapter, load

CODE = "create-1"
LICENCE = "LICENSE"
PORTABLE = frozenset({"q4", "q4a", "q8", "f16", "bf16", "f32"})
"""Schemes that every format has: the preferred engine's is written. All others are GGUF's own."""


@dataclass(frozen=True)
class Wanted:
    """What a model shall be. Of what is None or empty, the model that it is made from has its own."""

    source: str = ""
    """A name in the registry or on the Hugging Face Hub; or `files`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256:... of a blob in the registry."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """The same, of a LoRA in PEFT's form."""
    system: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    parameters: Mapping[str, object] | None = None
    template: str | None = None
    """Ollama's: Go's text/template."""
    licence: str | None = None
    """A text. It is filed beside the model, and is not what policies go by: that is what the model itself says."""
    quantize: str | None = None
    """q4_K_M, q8_0 and the like, or a scheme as `convert` has it."""


def create(registry: Registry, name: Reference, wanted: Wanted, watch: Watch | None = None) -> str:
    """Make it, and give it the name, which moves where it is another's; the digest.

    Raises SourceNotFound, UsageError, CorruptInput, Unsupported, PolicyRefused, and what converting raises.
    """
    watch = watch or Watch()
    if bool(wanted.source) == bool(wanted.files):
        raise UsageError("a model is made from another, or from files: one of them", "FROM names it")
    # What is wrong with the words is said before anything is fetched or made.
    scheme = scheme_of(wanted.quantize) if wanted.quantize else None
    template = _go_template.jinja(wanted.template) if wanted.template is not None else None
    own = parameters.check(wanted.parameters or {})
    with contextlib.ExitStack() as stack:
        digest = _base(registry, wanted, watch)
        folder = stack.enter_context(registry.lease(digest, "a model is made from it"))
        said = defaults.read(folder)
        form = registry.manifest(digest).ours("format")
        if wanted.adapters or scheme is not None or form == obtain.CHECKPOINT:
            digest = _compiled(registry, folder, form, wanted, scheme, watch, stack)
            folder = stack.enter_context(registry.lease(digest, "a model is made from it"))
        says = Defaults(
            said.system if wanted.system is None else wanted.system or None,
            said.messages if wanted.messages is None else wanted.messages,
            {**said.parameters, **own},
            said.template if template is None else template,
        )
        if says == defaults.read(folder) and not wanted.licence:
            registry.tag(digest, name, replace=True)
            return digest
        watch.say("writing manifest")
        return _filed(registry, digest, folder, name, says, wanted.licence)


def scheme_of(text: str) -> str:
    """Ollama's name for a quantization, as ours. Raises UsageError naming those that there are."""
    found = text.lower()
    if found not in plugins.names("quantize"):
        raise UsageError(f"the quantization {text[:40]!r} is not known", f"one of: {', '.join(plugins.names('quantize'))}")
    return found


def _base(registry: Registry, wanted: Wanted, watch: Watch) -> str:
    """The digest of what it is made from."""
    if wanted.files:
        with registry.scratch() as scratch:
            return registry.add(_assembled(registry, wanted.files, scratch), take=False)
    try:
        return registry.resolve(wanted.source)
    except (SourceNotFound, UsageError):
        hub = _hub.parse(wanted.source)
        if hub is None:
            raise
        registry.policy.admit(f"hf:{hub.repo}")
        return registry.resolve(str(obtain.obtain(registry, hub, watch=watch)))


def _assembled(registry: Registry, files: Mapping[str, str], scratch: Path) -> Path:
    """Blobs under their names, in a folder; the .gguf, where it is one. Raises CorruptInput, SourceNotFound."""
    manifest.check_paths(list(files))
    if any("/" in name for name in files):
        raise UsageError("a file of a model is called by a plain name", "leave folders out")
    for name, digest in files.items():
        path = registry.blobs.path(digest)
        if not path.is_file():
            raise SourceNotFound(f"the blob {digest} is not here", f"POST it to /api/blobs/{digest} first")
        share(path, scratch / name)
    only = next(iter(files))
    return scratch / only if len(files) == 1 and only.lower().endswith(".gguf") else scratch


def _compiled(
    registry: Registry,
    folder: Path,
    form: str,
    wanted: Wanted,
    scheme: str | None,
    watch: Watch,
    stack: contextlib.ExitStack,
) -> str:
    """With its adapters merged, and quantized."""
    path = next(folder.glob("*.gguf"), folder) if form == "gguf" else folder
    model = load(str(path))
    if wanted.adapters:
        scratch = stack.enter_context(registry.scratch())
        model = merge(model, adapter(_assembled(registry, wanted.adapters, scratch), model))
    written = form if form != obtain.CHECKPOINT else obtain.form()
    if scheme is not None and scheme not in PORTABLE:
        written = "gguf"
    return obtain.file(registry, model, None, written, scheme, watch)


def _filed(registry: Registry, digest: str, folder: Path, name: Reference, says: Defaults, licence: str | None) -> str:
    base, found = registry.manifest(digest), plain.described(_model(folder))
    texts = {defaults.NAME: says.written()} | ({LICENCE: licence.strip() + "\n"} if licence else {})
    # A step of its own: what asks whether the other one was made must not be given this.
    step = Step("create", {"source": digest}, {file: Blob.of(text.encode()).digest for file, text in texts.items()}, CODE)
    facts = {**found.facts, "step": {"key": step.key, **step.facts()}}
    facts["source"] = {**dict(found.facts.get("source") or {}), "path": str(registry.root / "artifacts" / digest[7:])}
    with registry.writing():
        written = [Layer(file, registry.blobs.put(text.encode()), manifest.kind_of(file)) for file, text in texts.items()]
        kept = [layer for layer in base.layers if layer.path not in texts]
        layers = sorted([*kept, *written], key=lambda layer: layer.path)
        made = registry.file(facts, layers, name, replace=True)
    documents.write(registry, made)
    return made


def _model(folder: Path) -> Path:
    """What a folder of the registry is described by: itself, or the .gguf in it."""
    from slmops.core import receipt

    return folder if (folder / receipt.NAME).is_file() else next(folder.glob("*.gguf"), folder)


def of(registry: Registry, said: Modelfile, place: Path, quantize: str | None = None) -> Wanted:
    """What a Modelfile asks for. place: where it lies, from which FROM and ADAPTER are told. Raises what filing raises.

    A folder or .gguf is filed without a name; what nothing is made of goes with gc.
    """
    own = parameters.check(said.parameters)  # before anything is filed
    path, adapters = place / said.source, {}
    there = path.exists() and not said.source.startswith("-")
    source = registry.add(path) if there else said.source
    if said.adapter:
        folder = place / said.adapter
        if not folder.is_dir():
            raise SourceNotFound(f"ADAPTER {said.adapter}: there is no folder {folder}", "a LoRA in PEFT's form is one")
        with registry.writing():
            for file in sorted(folder.iterdir()):
                if file.is_file() and file.suffix in (".json", ".safetensors"):
                    adapters[file.name] = registry.blobs.add(file).digest
    return Wanted(
        source=source,
        adapters=adapters,
        system=said.system,
        messages=tuple(said.messages) or None,
        parameters=own or None,
        template=said.template,
        licence="\n\n".join(said.licences) or None,
        quantize=quantize,
    )
