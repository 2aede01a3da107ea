"""The limits, gates and formats that several verbs take, from what was typed."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from slmops.core.errors import UsageError
from slmops.core.units import parse_rate, parse_seconds, parse_size

if TYPE_CHECKING:
    from slmops.measure.gates import Gate
    from slmops.plan.decide import Limits

size, rate, seconds = parse_size, parse_rate, parse_seconds


def jobs(text: str) -> int:
    """Files that go at a time, for argparse."""
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} makes no sense: from 1 to 64")
    return int(text)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The options of `limits`, and --format."""
    parser.add_argument("--max-size", metavar="BYTES", help="of the artifact: 1GiB, 800MB, or 60%% of the source in 16 bits")
    parser.add_argument("--max-memory", metavar="BYTES", help="of the engine's process at its peak")
    parser.add_argument("--min-speed", metavar="TOK/S", help="of decoding one sequence: 20tok/s")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens that must fit (4096)")
    add_kv(parser, "auto: the engine's own; default: the same, and q8 too where memory asks for it", None)
    parser.add_argument("--format", action="append", metavar="NAME", help="only this format (may be repeated)")


def add_kv(parser: argparse.ArgumentParser, text: str, default: str | None = "auto") -> None:
    """--kv: engines have some of these precisions (KV in their files), and opening one says which."""
    parser.add_argument(
        "--kv", default=default, choices=("auto", "f32", "f16", "q8"), help=f"precision of the KV cache; {text}"
    )


def add_gates(parser: argparse.ArgumentParser, beside: str) -> None:
    """The options of `gates` and `required`."""
    text = f"a gate of yours, {beside}: 'quality.kl<=0.02', 'peak<=800MB'; may be repeated"
    parser.add_argument("--gate", action="append", metavar="GATE", help=text)
    text = "let these gates against the unquantized model block, not only advise: speed (2x), memory (50%%)"
    parser.add_argument("--require", metavar="speed,memory", help=text)


def gates(texts: list[str] | None) -> tuple[Gate, ...]:
    """What --gate said. Raises UsageError for a figure that there is not."""
    from slmops.measure import gates

    return tuple(map(gates.parse, texts or ()))


def required(arguments: argparse.Namespace) -> tuple[str, ...]:
    """What --require said. Raises UsageError for anything but gates that advise."""
    from slmops.measure.gates import ADVISING

    names = tuple(name.strip() for name in (arguments.require or "").split(",") if name.strip())
    for name in names:
        if name not in ADVISING:
            raise UsageError(f"there is no gate {name!r} to require", f"those that advise: {', '.join(ADVISING)}")
    return names


def limits(arguments: argparse.Namespace, parameters: int) -> Limits:
    """What was typed, for a model of so many parameters. Raises UsageError."""
    from slmops.plan import decide

    return decide.read_limits(vars(arguments), parameters)


def formats(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """The formats that were asked for; None for all. Raises UsageError for one that there is not."""
    from slmops.core import plugins

    names = tuple(name.replace("-", "_") for name in arguments.format or ())
    for name in names:
        plugins.load("formats", name)
    return names or None
