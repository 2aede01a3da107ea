"""From a name to a folder that an engine here opens: what is absent is pulled, compiled, and kept in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmops.cli._progress import Progress
    from slmops.registry import Registry
    from slmops.registry.references import Reference


def folder(
    text: str, *, engine: str | None = None, variant: str | None = None, scheme: str | None = None, quiet: bool = False
) -> Path:
    """A path, a name in the registry, or a name of the Hugging Face Hub (`org/name[@revision]`).

    The Hub's comes as `org/name:source`; what runs of it is `org/name:latest` (or :VARIANT, :SCHEME), so that a second time
    finds it at once. Of what has no engine here, the form is compiled that the preferred installed engine opens, proven.
    engine: that one, of those that open it. variant: of a repository that holds several models. scheme: as `convert` has it.
    Raises what resolving, pulling and converting raise.
    """
    from slmops.cli import _reference
    from slmops.cli._progress import Progress
    from slmops.core.errors import UsageError
    from slmops.formats import _hub
    from slmops.registry import Registry, exists, home, references

    hub = _hub.parse(text) if not Path(text).exists() else None
    if hub is None or (exists(home()) and references.parse(text) and _reference.folder(text) != Path(text)):
        if variant is not None or scheme is not None:
            raise UsageError(f"{text} is here already", "--variant and --quantize say what to make of a name of the Hub")
        return _reference.folder(text)
    organisation, _, name = hub.repo.partition("/")
    told = references.slug("-".join(filter(None, (variant, scheme, hub.revision))) or references.LATEST)
    called = references.Reference(f"{references.slug(organisation)}/{references.slug(name)}", told)
    progress = Progress(quiet)
    with Registry.open() as registry:
        if registry.catalog.tagged(called.name, called.tag) is None:
            _bring(registry, str(hub), called, engine, variant, scheme, progress)
    return _reference.folder(str(called))


def _bring(
    registry: Registry,
    hub: str,
    called: Reference,
    engine: str | None,
    variant: str | None,
    scheme: str | None,
    progress: Progress,
) -> None:
    from slmops.registry import documents, remotes
    from slmops.registry.references import Reference

    progress.say(f"fetching {hub}")
    tag = "source" if called.tag == "latest" else f"source-{called.tag}"[:128]
    wanted = remotes.Wanted(name=Reference(called.name, tag), variant=variant, replace=True)
    taken = remotes.pull(registry, f"hf:{hub}", wanted, progress.watch())
    digest = taken.artifacts[0]
    documents.write(registry, digest)
    if scheme is None and _runs(registry.manifest(digest).ours("format"), engine):
        registry.tag(digest, called)
        return
    with registry.lease(digest, "is being compiled") as source:
        _compile(source, called, _form(engine), scheme, progress)


def _runs(form: str, engine: str | None) -> bool:
    """Whether an artifact is run as it is: by the engine that was asked for, or by one that is made for its form."""
    from slmops import run
    from slmops.core.errors import EngineMissing, UsageError

    try:
        run.choose_engine(form, engine)
    except (EngineMissing, UsageError):
        return False
    return engine is not None or form != "huggingface"  # there PyTorch would run it, slower than what is compiled


def _form(engine: str | None) -> str:
    """The format to write: of the engine that was asked for, else of the preferred installed one. Raises EngineMissing."""
    from slmops import compile as compiler
    from slmops import run
    from slmops.core import plugins
    from slmops.core.errors import EngineMissing, UsageError
    from slmops.engines import _host

    written = compiler.writable(codes=True)
    if engine is not None:
        found = [form for form in plugins.load("engines", engine).FORMATS if form in written]
        if not found:
            raise UsageError(f"nothing that {engine} opens is written here", "leave --engine out")
        return str(found[0])
    cures = []
    for form in sorted(written, key=lambda one: _host.engines_for(one)[:1] or ["~"]):
        try:
            run.choose_engine(form)
        except EngineMissing as error:
            cures.append(error.cure)
        else:
            return form
    raise EngineMissing("no engine is installed", cures[0] if cures else 'pip install "slmops[cpu]"')


def _compile(source: Path, called: Reference, form: str, scheme: str | None, progress: Progress) -> None:
    """File what is made of a checkpoint under a name; a step that ran before is recalled."""
    from slmops import compile as compiler
    from slmops.cli import _filing
    from slmops.passes.quantize import packed
    from slmops.quantize._cast import warm_up
    from slmops.source import load

    warm_up()
    model = load(str(source))
    scheme = scheme or (compiler.KEEP if packed(model) else "q4")
    progress.say(f"writing {form} with {scheme}")
    with _filing.opened(str(called), [form], False) as filing:
        assert filing is not None
        step = compiler.step_of(model, scheme, "cpu", None)
        filing.check(step, model.licence)
        if filing.recall(step):
            return
        with filing.scratch as scratch:
            (made,) = compiler.convert(model, [form], scheme, scratch / "made", watch=progress.watch())
            if made.failure is not None:
                raise made.failure
            filing.file(made, take=True)
