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
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | string }}",
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x.replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x | replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x.join([n.x, n.x]) %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}",
        "{% set n = namespace(x=10) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
        "{{ 'x'.ljust(10 ** 12) }}",
        "{{ 'x' | center(1000000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ lipsum(n=100000000) }}",
        "x" * (2 << 20),
    ],
)
def test_hostile_templates_end_in_an_error(template: str) -> None:
    with pytest.raises(CorruptInput):
        chat.render(template, MESSAGES)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ ['a', 'b'] | join(', ') }}{{ 'x'.join(['1', '2']) }}", "a, b1x2"),
        ("{{ 'aXb' | replace('X', '-') }}{{ 'aXbX'.replace('X', '', 1) }}", "a-babX"),
        ("{% for one in ['aXb'] %}{{ one.replace('X', '-') }}{{ ', '.join([one]) }}{% endfor %}", "a-baXb"),
        ("{{ 'a\nb' | indent(2) }}{{ 'a' ~ 1 ~ none }}", "a\n  ba1None"),
        ("{{ 'a' + 'b' }}{{ 3 * 'ab' }}{{ 7 % 4 }}{{ '%s!' % 'hey' }}{{ [1] + [2] }}", "abababab3hey![1, 2]"),
        ("{{ {'k': ['é', 1.5, none]} | tojson }}{{ [1] | tojson(indent=2) }}", '{"k": ["é", 1.5, null]}[\n  1\n]'),
        ("{{ messages | map(attribute='role') | join('+') }}{{ messages | join('+', 'content') }}", "userhi"),
        ("{% for i in range(5) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "0134"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hi!"),
    ],
)
def test_what_templates_do_every_day_still_works(template: str, text: str) -> None:
    assert chat.render(template, MESSAGES) == text
