"""Chat templates: transformers' rendering, and what a hostile template cannot do."""

from __future__ import annotations

import pytest

from slmops.core import chat
from slmops.core.errors import CorruptInput

MESSAGES = [{"role": "user", "content": "hi"}]


def test_renders_like_transformers() -> None:
    template = "{% for m in messages %}\n{{ bos_token }}{{ m.role }}: {{ m.content | tojson }}\n{% endfor %}"
    assert chat.render(template, MESSAGES, special={"bos_token": "<s>", "pad_token": None}) == '<s>user: "hi"\n'


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system role') }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        "{{ range(10000000) }}",
        "{% if %}",
        "{{ undefined.attribute }}",
        "{{ 1 / 0 }}",
        "{{ 'x' * 100000000000 }}",
        "{{ 2 ** 10000000000 }}",
        "x" * (2 << 20),
    ],
)
def test_hostile_templates_end_in_an_error(template: str) -> None:
    with pytest.raises(CorruptInput):
        chat.render(template, MESSAGES)
