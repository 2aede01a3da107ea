"""Chat templates: rendered with jinja2 in a bounded sandbox, the way transformers renders them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
    think: bool | None = None,
) -> str:
    """The text of a conversation. `special` gives bos_token, eos_token and so on. Raises CorruptInput.

    tools: functions that the model may call, {"type": "function", "function": {...}} each, as transformers gives them.
    think: whether the model shall think first, where its template can tell it; None: as the template has it.
    """
    import jinja2

    from slmops.core import sandbox

    special_tokens = {name: text for name, text in (special or {}).items() if text is not None}
    more = {} if think is None else {"enable_thinking": think}
    try:
        with sandbox.limited():
            pieces, size = [], 0
            for piece in _compile(template).generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=[dict(tool) for tool in tools] or None,
                documents=None,
                **{**special_tokens, **more},
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
    from slmops.core.sandbox import Environment

    if len(template) > MOST_TEMPLATE:
        raise CorruptInput(f"the chat template has {len(template)} characters, more than {MOST_TEMPLATE}")
    return Environment().from_string(template)
