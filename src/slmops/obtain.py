"""From a name of the Hugging Face Hub to an artifact that an engine here opens: pulled, compiled, kept in the registry.

The Hub's comes as `org/name:source`; what runs of it is `org/name:latest` (or :VARIANT, :SCHEME), so that a second time
finds it at once.
"""

from __future__ import annotations

from slmops import compile as compiler
from slmops import run
from slmops.core import plugins
from slmops.core.errors import EngineMissing, UsageError
from slmops.core.model import Model
from slmops.core.watch import Watch
from slmops.engines import _installed
from slmops.formats._hub import Name
from slmops.registry import Registry, documents, references, remotes
from slmops.registry.references import LATEST, Reference
from slmops.source import load

CHECKPOINT = "huggingface"


def called(hub: Name, variant: str | None = None, scheme: str | None = None) -> Reference:
    """What runs of a name of the Hub is called here."""
    organisation, _, name = hub.repo.partition("/")
    told = "-".join(filter(None, (variant, scheme, hub.revision)))
    return Reference(f"{references.slug(organisation)}/{references.slug(name)}", references.slug(told) if told else LATEST)


def obtain(
    registry: Registry,
    hub: Name,
    *,
    engine: str | None = None,
    variant: str | None = None,
    scheme: str | None = None,
    watch: Watch | None = None,
) -> Reference:
    """The name of what runs of a name of the Hub; nothing is asked of the Hub where it is here.

    Of a checkpoint, and of what has no engine here, the form is compiled that the preferred installed engine opens, proven.
    engine: that one, of those that open it. variant: of a repository that holds several models. scheme: as `convert` has it.
    Raises what pulling and converting raise, EngineMissing.
    """
    name, watch = called(hub, variant, scheme), watch or Watch()
    if registry.catalog.tagged(name.name, name.tag) is not None:
        return name
    watch.say(f"fetching {hub}")
    beside = Reference(name.name, "source" if name.tag == LATEST else f"source-{name.tag}"[:128])
    taken = remotes.pull(registry, f"hf:{hub}", remotes.Wanted(name=beside, variant=variant, replace=True), watch)
    digest = taken.artifacts[0]
    documents.write(registry, digest)
    if scheme is None and _runs(registry.manifest(digest).ours("format"), engine):
        registry.tag(digest, name)
        return name
    with registry.lease(digest, "is being compiled") as source:
        file(registry, load(str(source)), name, form(engine), scheme, watch)
    return name


def _runs(written: str, engine: str | None) -> bool:
    """Whether an artifact is run as it is: by the engine that was asked for, or by one that is made for its form."""
    try:
        run.choose_engine(written, engine)
    except (EngineMissing, UsageError):
        return False
    return engine is not None or written != CHECKPOINT  # there PyTorch would run it, slower than what is compiled


def form(engine: str | None = None) -> str:
    """The format to write: of the engine that was asked for, else of the preferred installed one. Raises EngineMissing."""
    written = compiler.writable(codes=True)
    if engine is not None:
        found = [one for one in plugins.load("engines", engine).FORMATS if one in written]
        if not found:
            raise UsageError(f"nothing that {engine} opens is written here", "choose another engine")
        return str(found[0])
    cures = []
    for one in sorted(written, key=lambda each: _installed.engines_for(each)[:1] or ["~"]):
        try:
            run.choose_engine(one)
        except EngineMissing as error:
            cures.append(error.cure)
        else:
            return one
    raise EngineMissing("no engine is installed", cures[0] if cures else 'pip install "slmops[cpu]"')


def file(
    registry: Registry,
    model: Model,
    name: Reference | None,
    written: str,
    scheme: str | None,
    watch: Watch,
    *,
    requantize: bool = False,
) -> str:
    """Compile a model into a format, prove it, and file it under a name; its digest. A step that ran before is recalled.

    scheme: None keeps what is quantized already, and makes q4 of the rest. Raises what converting raises.
    """
    from slmops.passes.quantize import packed
    from slmops.quantize._cast import warm_up

    warm_up()
    scheme = scheme or (compiler.KEEP if packed(model) else "q4")
    names = [name] if name is not None else []
    step = compiler.step_of(model, scheme, "cpu", None)
    if (digest := registry.made(step.key, written)) is not None:
        for one in names:
            registry.tag(digest, one, replace=True)
        return digest
    watch.say(f"writing {written} with {scheme}")
    with registry.scratch() as scratch:
        (made,) = compiler.convert(model, [written], scheme, scratch / "made", requantize=requantize, watch=watch)
        if made.failure is not None:
            raise made.failure
        digest = registry.add(made.folder, *names, take=True, replace=True)
    documents.write(registry, digest)
    return digest
