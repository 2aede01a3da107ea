"""Where a verb takes a model to run, a name of the Hugging Face Hub does as well: what is absent is pulled and compiled."""

from __future__ import annotations

from pathlib import Path


def folder(
    text: str, *, engine: str | None = None, variant: str | None = None, scheme: str | None = None, quiet: bool = False
) -> Path:
    """A path, a name in the registry, or a name of the Hugging Face Hub (`org/name[@revision]`), in this order.

    Raises what resolving, pulling and converting raise.
    """
    from slmops.cli import _reference
    from slmops.cli._progress import Progress
    from slmops.core.errors import UsageError
    from slmops.formats import _hub

    hub = _hub.parse(text)
    found = _reference.folder(text)
    if found != Path(text) or found.exists() or hub is None:
        if variant is not None or scheme is not None:
            raise UsageError(f"{text} is here already", "--variant and --quantize say what to make of a name of the Hub")
        return found
    from slmops import obtain
    from slmops.registry import Registry

    with Registry.open() as registry:
        watch = Progress(quiet).watch()
        name = obtain.obtain(registry, hub, engine=engine, variant=variant, scheme=scheme, watch=watch)
    return _reference.folder(str(name))
