"""slmops chat: a conversation in the terminal, with a model here or on a server."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmops.engines import Options

HELP = "talk with a model: a folder, a name, or the address of a server (slmops serve, or any with OpenAI's API)"
EXAMPLE = "slmops chat out/home/gguf --temperature 0"
COMMANDS = """\
/clear           forget what was said
/system TEXT     tell the model how to behave, and begin anew
/help            these lines
/bye             end; so does Ctrl-D
\"\"\"              begins and ends a text of several lines
Ctrl-C           stops an answer"""

Answer = Callable[[Sequence[dict[str, str]]], Generator[str, None, None]]
"""A conversation -> pieces of what comes next. Closing it stops the model."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="as slmops run takes it, or http://HOST:PORT")
    parser.add_argument("--model", dest="called", metavar="NAME", help="of a server: which of its models (its first)")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before anything else")
    parser.add_argument("--engine", help="an engine by name; default: the preferred one that is installed")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of an answer (as many as the context has room for)")
    # What is not said, the model's own parameters say; a server says it for its models.
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (0.7)")
    parser.add_argument("--top-p", type=float, metavar="P", help="sample among those that sum to P (0.95)")
    parser.add_argument("--seed", type=int, metavar="N", help="for sampling (another one each time)")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens of all that is said (4096)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where the engine runs")


def run(arguments: argparse.Namespace) -> int:
    import contextlib

    from slmops.cli import _obtain, _remote, _sampling
    from slmops.core.errors import UsageError
    from slmops.engines import Options

    said = _sampling.said(arguments)
    if arguments.context < 1:
        raise UsageError("--context is at least 1")
    with contextlib.ExitStack() as stack:
        if arguments.model.startswith(("http://", "https://")):
            answer = _remote.answers(arguments.model, arguments.called, said)
        else:
            if arguments.called is not None:
                raise UsageError("--model names one of a server's models", "give the server's address in place of a model")
            folder = _obtain.folder(arguments.model, engine=arguments.engine, quiet=arguments.json)
            options = Options(device=arguments.device, context=arguments.context)
            answer = stack.enter_context(_here(folder, arguments.engine, options, said))
        return _talk(answer, arguments.system, arguments.json)


def _here(folder: Any, engine: str | None, options: Options, said: dict[str, Any]) -> Any:
    """A context: the model in its engine."""
    import contextlib
    import secrets

    from slmops import run as runner
    from slmops.engines import Sampling

    artifact = runner.Artifact.open(folder)
    usual = Sampling(options.context, 0.7, 40, 0.95, secrets.randbits(31))
    sampling = artifact.defaults.fill(dataclasses.replace(usual, **said), said)

    @contextlib.contextmanager
    def opened() -> Iterator[Answer]:
        with runner.open_worker(artifact, engine, options) as worker:

            def answer(messages: Sequence[dict[str, str]]) -> Generator[str, None, None]:
                ids = runner.tokens_of(worker, artifact, artifact.prompt(messages))
                with contextlib.closing(runner.answer(worker, artifact, ids, sampling, options.context)) as tokens:
                    for token in tokens:
                        yield token.text

            yield answer

    return opened()


def _talk(answer: Answer, system: str | None, as_json: bool) -> int:
    """Turns until the input ends. In a pipe a line is a turn, and only answers are written."""
    import json
    import sys

    from slmops.core.errors import SlmopsError

    typed = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    if typed:
        import readline  # noqa: F401 - with it, lines can be edited and called back

        print("/help says what can be typed; Ctrl-D ends", flush=True)
    begun = [{"role": "system", "content": system}] if system else []
    said: list[dict[str, str]] = list(begun)
    while (text := _turn(typed)) is not None:
        command, _, rest = text.strip().partition(" ")
        if command == "/bye":
            break
        if command in ("/clear", "/system"):
            begun = [{"role": "system", "content": rest.strip()}] if command == "/system" and rest.strip() else begun
            said = list(begun)
        elif command == "/help":
            print(COMMANDS, file=sys.stderr)
        elif command.startswith("/") and command[1:].isalpha():
            print(f"slmops: there is no command {command[:40]}; /help lists them", file=sys.stderr)
        elif text.strip():
            try:
                got = _answered(answer, [*said, {"role": "user", "content": text}], as_json)
            except SlmopsError as error:
                if not typed:
                    raise
                print(f"slmops: {error}" + (f"\n        {error.cure}" if error.cure else ""), file=sys.stderr)
                continue
            said += [{"role": "user", "content": text}, {"role": "assistant", "content": got}]
    if as_json:
        print(json.dumps({"messages": said}, indent=1, ensure_ascii=False))
    return 0


def _answered(answer: Answer, messages: Sequence[dict[str, str]], quiet: bool) -> str:
    """One answer, shown as it comes. Ctrl-C stops it, and is heard between tokens; a second one ends the program."""
    import contextlib
    import signal
    import sys
    from types import FrameType

    from slmops.cli import _text

    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            raise KeyboardInterrupt
        stopped = True

    before, pieces = signal.signal(signal.SIGINT, stop), list[str]()
    try:
        with contextlib.closing(answer(messages)) as coming:
            for piece in coming:
                pieces.append(piece)
                if not quiet:
                    _text.answer(piece)
                if stopped:
                    break
    finally:
        signal.signal(signal.SIGINT, before)
    if not quiet:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(pieces)


def _turn(typed: bool) -> str | None:
    """What is said next; None at the end."""
    import sys

    def line(prompt: str) -> str | None:
        try:
            if typed:
                return input(prompt)
            got = sys.stdin.readline()
            return got.rstrip("\n") if got else None
        except EOFError:
            return None
        except KeyboardInterrupt:
            print("\nCtrl-D or /bye ends", file=sys.stderr)
            return ""

    first = line(">>> ")
    if first is None or not first.lstrip().startswith('"""'):
        return first
    held = [first.lstrip()[3:]]
    while not held[-1].rstrip().endswith('"""'):
        if (more := line("... ")) is None:
            break
        held.append(more)
    return "\n".join(held).rstrip().removesuffix('"""')
