"""What slmops serve serves: the words, options and file that say it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

    from slmops.serve.models import Models
    from slmops.serve.names import Entry
    from slmops.serve.setup import Setup


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="an artifact's folder, its name in the registry, or a model of another server (https://host/v1#model); "
        "NAME=MODEL calls it NAME; none: all that the registry has",
    )
    parser.add_argument(
        "--upstream-key", action="append", default=[], metavar="NAME=VARIABLE", help="the variable with another server's key"
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a LoRA (PEFT's folder) beside the one model that is named, served as NAME",
    )
    parser.add_argument("--registry", action="store_true", help="serve what the registry has besides those given")
    parser.add_argument(
        "--alias", action="append", default=[], metavar="ALIAS=NAME", help="a further name: production=home:q4"
    )
    parser.add_argument("--config", metavar="FILE", help="serve what a file says (docs/serving.md); SIGHUP reads it again")
    parser.add_argument(
        "--pin", action="append", default=[], metavar="NAME", help="load it at the start, and unload it for no other"
    )
    parser.add_argument("--warm", action="store_true", help="generate a token when a model is loaded")
    parser.add_argument(
        "--keep-alive", default="10m", metavar="TIME", help="how long a model stays loaded without a request; always (10m)"
    )
    parser.add_argument(
        "--memory", metavar="BYTES", help="what models may take together: 8GiB (four fifths of what is free at the start)"
    )
    parser.add_argument("--engine", help="in place of the preferred one of each format")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"))
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens of a prompt and its answer (4096)")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="requests computed at once, by a model (4)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="requests that may wait for a model (64)")
    parser.add_argument(
        "--otlp", metavar="URL", help="send traces and metrics to an OTLP receiver; OTEL_EXPORTER_OTLP_* do so too"
    )
    parser.add_argument("--log-format", default="text", choices=("text", "json"), help="of the log on standard error (text)")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"), help="(info)")


def models(arguments: argparse.Namespace) -> Models:
    """What was asked for; what cannot be opened is said now, not to the first who asks.

    Raises UsageError, SourceNotFound, CorruptInput, and what opening raises.
    """
    from slmops.serve.models import Models
    from slmops.serve.names import Names

    found = read(arguments)
    names = Names(found.entries, found.aliases, found.rest)
    made = Models(names, found.memory, warm=found.warm)
    try:
        for name in (*(one.name for entry in found.entries for one in (entry, *entry.adapted)), *found.aliases):
            made.get(name)
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def reloading(arguments: argparse.Namespace, models: Future[Models]) -> Iterator[None]:
    """SIGHUP has the file read again, once the models are there; one with faults changes nothing, and is told in the log."""
    import logging
    import signal
    import threading
    from types import FrameType

    from slmops.core.errors import SlmopsError

    log = logging.getLogger("slmops.setup")

    def again() -> None:
        try:
            served, found = models.result(), read(arguments)
            served.reload(found.entries, found.aliases)
            log.info("read again", extra={"config": arguments.config, "models": len(found.entries)})
        except SlmopsError as fault:
            log.error("not taken", extra={"config": arguments.config, "fault": str(fault), "cure": fault.cure})

    def heard(number: int, frame: FrameType | None) -> None:
        # Reading files is not for the loop that is interrupted.
        threading.Thread(target=again, name="reload", daemon=True).start()
        if callable(before):
            before(number, frame)

    if not hasattr(signal, "SIGHUP") or not arguments.config:
        yield
        return
    before = signal.signal(signal.SIGHUP, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def read(arguments: argparse.Namespace) -> Setup:
    """What the words, the options and the file say together; options are what the file leaves out."""
    import dataclasses
    from pathlib import Path

    from slmops.core.errors import UsageError
    from slmops.core.units import parse_size
    from slmops.serve import setup

    usual = _usual(arguments)
    said = setup.read(Path(arguments.config), usual) if arguments.config else setup.Setup(rest=usual)
    named = setup.keyed([setup.entry(text, usual) for text in arguments.models], arguments.upstream_key)
    entries = (*said.entries, *setup.adapted(named, arguments.adapter))
    aliases = {**said.aliases, **setup.aliases(arguments.alias)}
    pinned = {one.name: dataclasses.replace(one, pin=one.pin or one.name in arguments.pin) for one in entries}
    for name in arguments.pin:
        if name not in pinned and name not in aliases:
            # Of what is served from the registry besides, one is named by being pinned.
            pinned[name] = dataclasses.replace(setup.entry(name, usual), pin=True)
        elif name in aliases:
            raise UsageError(f"{name} is an alias", f"--pin {aliases[name]} pins what it stands for")
    if len(pinned) < len({one.name for one in entries}):
        raise UsageError("two models have one name", "give one of them another: NAME=MODEL")
    alone = bool(arguments.models) and not arguments.config
    rest = usual if arguments.registry else None if alone else said.rest
    memory = parse_size(arguments.memory) if arguments.memory else said.memory
    return setup.Setup(tuple(pinned.values()), aliases, rest, memory, said.warm or arguments.warm)


def _usual(arguments: argparse.Namespace) -> Entry:
    from slmops.core.errors import UsageError
    from slmops.engines import Options
    from slmops.serve import setup
    from slmops.serve.names import Entry

    if min(arguments.queue, arguments.context, arguments.parallel) < 1:
        raise UsageError("--queue, --context and --parallel are at least 1")
    options = Options(device=arguments.device, context=arguments.context, parallel=arguments.parallel)
    keep = setup.keep_alive(arguments.keep_alive)
    return Entry("", "", arguments.engine, options, arguments.queue, keep_alive=keep)
