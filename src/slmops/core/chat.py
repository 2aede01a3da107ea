"""Chat templates: rendered with jinja2 in its immutable sandbox, the way transformers renders them."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from slmops.core.errors import CorruptInput

if TYPE_CHECKING:
    import jinja2

MOST_TEMPLATE = 1 << 20
MOST_OUTPUT = 16 << 20
"""Characters: a template is a stranger's program, so what it may hold and write is bounded."""


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special: Mapping[str, str | None] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """The text of a conversation. `special` gives bos_token, eos_token and so on. Raises CorruptInput."""
    import jinja2

    special_tokens = {name: text for name, text in (special or {}).items() if text is not None}
    try:
        pieces, size = [], 0
        for piece in _compile(template).generate(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **special_tokens,
        ):
            size += len(piece)
            if size > MOST_OUTPUT:
                raise CorruptInput("the chat template writes without end", "use --raw, or another template")
            pieces.append(piece)
        return "".join(pieces)
    except jinja2.TemplateError as error:
        raise CorruptInput(f"the chat template does not take this conversation: {error}", "use --raw") from error
    except (TypeError, ValueError, KeyError, RecursionError, ArithmeticError, MemoryError) as error:
        raise CorruptInput(f"the chat template fails: {error}", "use --raw, or another template") from error


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    if len(template) > MOST_TEMPLATE:
        raise CorruptInput(f"the chat template has {len(template)} characters, more than {MOST_TEMPLATE}")

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Repetition and powers are how one line asks for all the memory there is."""
            long = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
            times = [value for value in (left, right) if isinstance(value, int)]
            if (long and times and long[0] * times[0] > MOST_OUTPUT) or (operator == "**" and abs(right) > 64):
                raise jinja2.TemplateError("it asks for more than it may have")
            return super().call_binop(context, operator, left, right)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)
