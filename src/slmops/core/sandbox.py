"""A jinja2 environment for strangers' templates: no attribute of Python's insides, nothing changed, nothing huge.

jinja2's own sandbox keeps a template away from Python; it does not keep it from asking for all the memory there is, which
takes one line (`'x' * 10 ** 12`) or forty doublings, nor for ever, which takes two loops. Here every operation that can make
a value larger than its operands is measured first, and every turn of a loop, call, filter and slice is counted against what
one rendering may make and the time that it may take (`limited`).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from jinja2.compiler import CodeGenerator, Frame

MOST = 16 << 20
"""Characters that one value of a template may have; an entry of a list counts as 16."""
MOST_MADE = 256 << 20
"""Characters that one rendering may make in all, kept or not."""
SECONDS = 0.5
"""Of processor time that it may take: conversations take milliseconds."""
_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate"}
_TURNS = "slmops-turns"
"""A filter that no template can name."""
_GROWING_FILTERS = ("center", "format", "wordwrap", "urlize", "xmlattr", "filesizeformat", "pprint")


class _Budget(threading.local):
    """What the rendering of this thread has left."""

    made = 0
    until = float("inf")


_budget = _Budget()


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within it, one template is compiled and rendered, by this thread alone."""
    _budget.made, _budget.until = 0, time.thread_time() + SECONDS
    try:
        yield
    finally:
        _budget.until = float("inf")


def _charge(made: int = 0) -> None:
    """Something was done, and made so many characters."""
    _budget.made += made
    if _budget.until != float("inf") and (_budget.made > MOST_MADE or time.thread_time() > _budget.until):
        raise jinja2.TemplateError("it takes more than it may have")


def _length(value: Any) -> int:
    """About how much a copy of a value takes, its parts left out."""
    return len(value) if isinstance(value, str) else 16 * len(value) if isinstance(value, list | tuple | dict) else 0


class _Turns:
    """What a loop goes over, counted."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            _charge()
            yield value

    def __len__(self) -> int:
        return len(self._values)


@jinja2.pass_context
def _turns(context: Any, values: Any) -> _Turns:
    return _Turns(values)


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted with what it is given; its marks for jinja2 stay."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        _charge(_length(arguments[at]) if len(arguments) > at else 0)
        return function(*arguments, **named)

    return counted


def size(value: Any) -> int:
    """About how many characters a value has when it is written; raises once it is past MOST."""
    total, left = 0, [value]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            left += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set):
            left += part
        total += len(part) if isinstance(part, str) else 16
        if total > MOST:
            raise jinja2.TemplateError("it asks for more than it may have")
    return total


def bounded(total: int) -> None:
    """Raise for a result of that many characters or entries."""
    if total > MOST:
        raise jinja2.TemplateError("it asks for more than it may have")
    _charge(total)


class _Generator(CodeGenerator):
    """Joins texts (`~`) through the environment, which measures them."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: Frame) -> None:  # noqa: N802 - the name is jinja2's
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for the loss mask of training; rendering passes it through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """transformers' settings: blocks trimmed, break and continue, `tojson`, `raise_exception`, `strftime_now`."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        extensions = [jinja2.ext.loopcontrols, _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_measured)
        for name in _GROWING_FILTERS:
            del self.filters[name]
        self.globals = {"range": self.globals["range"], "dict": dict, "namespace": self.globals["namespace"]}
        self.filters |= {"tojson": _tojson, "join": _join, "replace": _replace, "indent": _indent, "string": _string}
        self.filters["list"] = _list
        self.filters = {name: _charged(function) for name, function in self.filters.items()} | {_TURNS: _turns}
        self.globals |= {"raise_exception": _raise, "strftime_now": _now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = jinja2.nodes.Filter(loop.iter, _TURNS, [], [], None, None, lineno=loop.lineno)
        return tree

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, slice):
            _charge(_length(obj))
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        lengths = [len(v) if isinstance(v, str) else 16 * len(v) for v in (left, right) if isinstance(v, str | list | tuple)]
        if operator == "+" and lengths:
            bounded(sum(lengths))
        elif operator == "*" and lengths:
            bounded(lengths[0] * max(value for value in (left, right, 0) if isinstance(value, int)))
        elif operator == "*":
            bounded(MOST + 1 if any(isinstance(value, int) and abs(value) > 1 << 64 for value in (left, right)) else 0)
        elif operator == "**":
            bounded(MOST + 1 if abs(right) > 64 or abs(left) > 1 << 32 else 0)
        elif operator == "%" and isinstance(left, str):
            bounded(size(right) + len(left) + (MOST if re.search(r"\*|\d{4}", left) else 0))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in {*_PADDING, "join", "replace"}:
            return attr in {"join", "replace"} and super().is_safe_attribute(obj, attr, value)
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        """Methods of texts that can grow them go through the filters of the same name."""
        text = getattr(function, "__self__", None)
        _charge(16 * len(text) if isinstance(text, str) else 0)  # split makes many of one
        if isinstance(text, str) and getattr(function, "__name__", "") == "replace":
            # Within loops and blocks, Jinja hands their variables along.
            own = {key: value for key, value in named.items() if key not in ("_loop_vars", "_block_vars")}
            return _replace(text, *arguments, **own)
        if isinstance(text, str) and getattr(function, "__name__", "") == "join":
            return _join(arguments[0] if arguments else (), text)
        return super().call(context, function, *arguments, **named)

    def concatenate(self, parts: Iterable[Any]) -> str:
        """The texts of all parts, one after the other (`~`)."""
        kept = tuple(parts)
        size(kept)
        return "".join(str(part) for part in kept)


def _measured(value: Any) -> Any:
    size(value)
    return value


def _list(value: Iterable[Any]) -> list[Any]:
    bounded(_length(value) * (16 if isinstance(value, str) else 1))
    return list(value)


def _string(value: Any) -> str:
    size(value)
    return str(value)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text = str(value)
    found = text.count(old) if count < 0 else min(count, text.count(old))
    bounded(len(text) + found * len(new))
    return text.replace(old, new, count)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    kept = list(values)
    if attribute is not None:
        kept = [value[attribute] if isinstance(value, Mapping) else "" for value in kept]
    bounded(size(kept) + len(kept) * len(separator))
    return separator.join(str(value) for value in kept)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    mark: str = width if isinstance(width, str) else " " * min(max(width, 0), 64)
    lines = text.split("\n")
    bounded(len(text) + len(lines) * len(mark))
    return "\n".join(mark + line if (line or blank) and (first or i) else line for i, line in enumerate(lines))


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As transformers' own: non-ASCII stays, no HTML escapes. Options: separators, sort_keys."""
    size(value)
    depth = min(max(indent, 0), 16) if isinstance(indent, int) else indent
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=depth, **options)
    return "".join(_counted(encoder.iterencode(value)))


def _counted(pieces: Iterator[str]) -> Iterator[str]:
    total = 0
    for piece in pieces:
        total += len(piece)
        bounded(total)
        yield piece


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    bounded(len(form) * 64)
    return datetime.datetime.now().strftime(form)
