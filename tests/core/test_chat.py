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


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% set x = range(100000) | list %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) if n else '' }}{{ f(n - 1) if n else '' }}{% endmacro %}{{ f(60) }}",
        "{% set x = range(100000) | list %}{% for a in x %}{{ (x | sort)[0] }}{% endfor %}",
        "{% set x = range(100000) | list %}{% for a in x %}{{ x | sum }}{% endfor %}",
        "{% set s = 'x' * 16000000 %}{% for a in range(100000) %}{% set t = s[1:] %}{% endfor %}",
        "{% set s = 'x ' * 500000 %}{% for a in range(100000) %}{% set t = s.split() %}{% endfor %}",
        "{% set s = 'x' * 16000000 %}{% for a in range(100000) %}{% set t = s | upper %}{% endfor %}",
        "{% set s = 'x' * 16000000 %}{% for a in range(100000) %}{% set t = s.upper() %}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for a in range(99999) %}{% set n.x = [n.x, 'x' * 9000000 ~ a] %}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for a in range(999) %}{% set n.x = [n.x, ('x' * 900000) | list] %}{% endfor %}",
        "{{ ('x' * 16000000) | list | length }}",
        "{% for a in [1, [2, [3]]] recursive %}{{ loop([a, a, a]) }}{% endfor %}",
        "{% for a in range(100000) %}{{ dict.fromkeys(range(100000), 1) | length }}{% endfor %}",
    ],
)
@pytest.mark.slow
def test_templates_that_go_on_for_ever_are_ended_soon_and_small(template: str) -> None:
    """In processor time, and in memory that stays or passes."""
    import resource
    import time

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    with pytest.raises(CorruptInput):
        chat.render(template, MESSAGES)
    assert time.thread_time() - began < 2.0
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 512  # MiB, where it is counted in KiB


ESCAPES = """
''.__class__.__mro__[1].__subclasses__()
''['__class__']
'' | attr('__class__')
'' | attr('\\x5f\\x5fclass\\x5f\\x5f')
'' | attr(['__cl', 'ass__'] | join)
''.__class__.__base__.__subclasses__()[140].__init__.__globals__
messages.__class__
messages[0].__class__.__init__.__globals__
messages[0].items.__self__.__class__
messages | map(attribute='__class__') | list
messages | map('attr', '__class__') | list
messages | map(attribute='role.__class__') | list
messages | groupby('__class__') | list
messages | selectattr('__class__') | list
messages | sort(attribute='__class__') | map('string') | list
messages | sum(attribute='__class__')
messages | join('', '__class__')
messages | unique(attribute='__class__') | list | string
messages | map('upper') | attr('gi_frame')
(messages | map('string')).gi_frame.f_globals
(messages | map('string')).gi_code
range.__class__
range(1).__class__.__base__
dict.__base__
dict.__mro__
dict.mro()
dict.__subclasses__()
namespace.__init__.__globals__
namespace().__class__
namespace().__init__.__globals__['__builtins__']
namespace()['_Namespace__attrs']
raise_exception.__globals__
raise_exception.__code__
raise_exception | attr('__globals__')
strftime_now.__globals__['datetime']
strftime_now.__closure__
self.__init__
self._TemplateReference__context
self.__dict__
self | attr('__init__')
loop.__class__
cycler.__init__.__globals__.os
joiner.__init__.__globals__.os
lipsum.__globals__.os.popen('id').read()
get_flashed_messages.__globals__
config.items()
request.application.__globals__
url_for.__globals__
g.pop.__globals__
'{0.__class__}'.format('')
'{0.__class__.__mro__}'.format('')
'{x.__class__}'.format_map({'x': ''})
('{0.__class__}' | attr('format'))('')
('{x.__class__}' | attr('format_map'))({'x': ''})
['{0.__class__}'] | map('format', '') | list
['{0.__class__}'.format][0]('')
'%s' | format(''.__class__)
'{!r:{}}'.format('', '>99999999')
'x'.encode.__self__.__class__
'x'.encode().__class__
'x'.join.__func__
'x'.translate({120: 'y' * 99})
1 .__class__
(1).real.__class__
none.__class__
true.__class__.__base__
nothing.__class__
nothing.__init__.__globals__
nothing._undefined_name
nothing | default(self) | attr('_TemplateReference__context')
environment
context
__import__('os')
open('/etc/passwd').read()
eval('1')
messages.append(1)
messages.extend([1])
messages.clear()
messages[0].update({'role': 'x'})
messages[0].pop('role')
messages[0].setdefault('x', 1)
messages.sort()
""".strip().splitlines()
"""From published escapes of jinja2's sandbox and of servers' templates (CVE-2016-10745, CVE-2019-10906, CVE-2024-34359,
CVE-2024-56326, CVE-2025-27516), and their neighbours."""


@pytest.mark.parametrize("inside", ESCAPES)
def test_no_template_gets_out(inside: str) -> None:
    """It ends in an error or says nothing of Python's insides, in each place that takes an expression."""
    kept = [dict(message) for message in MESSAGES]
    for around in (
        "{{ %s }}", "{%% set x = %s %%}{{ x }}", "{%% for x in [%s] %%}{{ x }}{%% endfor %%}",
        "{%% macro f(x=%s) %%}{{ x }}{%% endmacro %%}{{ f() }}", "{%% if %s %%}{%% endif %%}",
    ):  # fmt: skip
        try:
            said = chat.render(around % inside, kept)
        except CorruptInput:
            continue
        finally:
            assert kept == MESSAGES
        for mark in ("<class", "<function", "<module", "<built-in", "<bound", "<code", "<frame", "0x", "root:", "uid="):
            assert mark not in said, (around, said[:200])


@pytest.mark.parametrize(
    "template",
    [
        "{% include '/etc/passwd' %}",
        "{% extends '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% from 'os' import popen %}",
        "{% debug %}",
        "{% do messages.append(1) %}",
        "{{ super() }}",
        "{{ caller() }}",
        "{% autoescape true %}{{ x.y.z }}{% endautoescape %}",
    ],
)
def test_no_template_reads_another(template: str) -> None:
    with pytest.raises(CorruptInput):
        chat.render(template, MESSAGES)
