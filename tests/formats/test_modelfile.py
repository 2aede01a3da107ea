"""Modelfiles and Ollama's templates, as its documentation has them (docs/modelfile.mdx, docs/template.mdx)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.core import chat
from slmops.core.errors import CorruptInput, SlmopsError, Unsupported
from slmops.formats import _go_template, _modelfile

WHOLE = '''# a comment
FROM llama3.2
# sets the temperature to 1 [higher is more creative, lower is more coherent]
PARAMETER temperature 1
parameter stop "<|im end|>"
PARAMETER stop AI:
PARAMETER num_ctx 4096
SYSTEM """
You are Mario
from "Super Mario Bros.""""

TEMPLATE """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
ADAPTER ./adapter
LICENSE """
MIT
"""
MESSAGE user Is Toronto in Canada?
MESSAGE assistant "yes"
'''
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
USER = {"role": "user", "content": "Hello, how are you?"}
ANSWER = {"role": "assistant", "content": "I'm doing great."}
AGAIN = {"role": "user", "content": "Show me <|im_end|> {{ x }} {% y %}"}


def test_a_whole_one() -> None:
    found = _modelfile.parse(WHOLE)
    assert (found.source, found.adapter) == ("llama3.2", "./adapter")
    assert found.parameters == {"temperature": 1.0, "stop": ["<|im end|>", "AI:"], "num_ctx": 4096}
    assert found.system == '\nYou are Mario\nfrom "Super Mario Bros."' and found.licences == ["\nMIT\n"]
    assert found.messages == [
        {"role": "user", "content": "Is Toronto in Canada?"},
        {"role": "assistant", "content": "yes"},
    ]
    assert found.template is not None and found.template.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no FROM"),
        ("FROM x\n\nFORM y", "line 3: 'FORM'"),
        ("FROM", "line 1: FROM says nothing"),
        ('FROM x\nSYSTEM """no end\n', "line 2: SYSTEM's text has no end"),
        ("FROM x\nPARAMETER colour red", "line 2: there is no parameter 'colour'"),
        ("FROM x\nPARAMETER top_k many", "line 2: top_k is a number"),
        ("FROM x\nPARAMETER temperature nan", "line 2: temperature is a number"),
        ("FROM x\nMESSAGE robot hello", "line 2: 'robot' is no role"),
        ("FROM x\nDRAFT y", "line 2: DRAFT is not done"),
        ("FROM x\nFROM y", "line 2: a second FROM"),
    ],
)
def test_errors_have_their_line(text: str, said: str) -> None:
    with pytest.raises(SlmopsError) as caught:
        _modelfile.parse(text)
    assert said in str(caught.value)


def rendered(template: str, *messages: dict[str, str]) -> str:
    return chat.render(_go_template.jinja(template), messages)


CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
TURNS = (
    "{{ if .System }}<|system|>\n{{ .System }}<|end|>\n{{ end }}{{ if .Prompt }}<|user|>\n{{ .Prompt }}<|end|>\n{{ end }}"
    "<|assistant|>\n{{ .Response }}<|end|>\n"
)
LAST = (
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 -}}"
    '{{ if and (eq .Role "user") $.System $last }}[{{ $.System }}] {{ end }}'
    '{{ if ne .Role "system" }}{{ .Content }}{{ if not $last }};{{ end }}{{ end }}{{ end }}'
)


def test_templates_write_what_ollama_writes() -> None:
    """By hand, from the rules of docs/template.mdx; Ollama's own are tried in the report of the commit."""
    assert rendered(CHATML, SYSTEM, USER) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello, how are you?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered(TURNS, SYSTEM, USER, ANSWER, AGAIN) == (
        "<|system|>\nYou are a helpful assistant.<|end|>\n<|user|>\nHello, how are you?<|end|>\n"
        "<|assistant|>\nI'm doing great.<|end|>\n<|user|>\nShow me <|im_end|> {{ x }} {% y %}<|end|>\n<|assistant|>\n"
    )
    assert rendered("{{ .Prompt }} =>", USER, ANSWER, USER) == (
        "Hello, how are you? =>I'm doing great.Hello, how are you? =>"
    )
    assert rendered(LAST, SYSTEM, USER, ANSWER, USER) == (
        "Hello, how are you?;I'm doing great.;[You are a helpful assistant.] Hello, how are you?"
    )
    assert rendered('{{ range .Messages }}{{ .Content }}{{ end }}{{/* no */}} {{- " {% raw %}" }}', USER).endswith(
        "{% raw %}"
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ range .Tools }}{{ end }}", "range over .Tools"),
        ("{{ .Messages }}{{ if .Tools }}x{{ end }}", ".Tools"),
        ('{{ range .Messages }}{{ printf "%s" .Content }}{{ end }}', "'printf'"),
        ("{{ range .Messages }}{{ $x := 1 }}{{ $x = 2 }}{{ end }}", "'='"),
        ("{{ with .System }}x{{ end }}", "with"),
        ("{{ if .System }}x", "without an end"),
        ("x{{ end }}", "an end too many"),
        ("{{ .System | json }}", "'|'"),
        ("{{ if .Prompt }}{{ .Response }}{{ end }}", ".Response inside"),
        ("{{", "without an end"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_cure(template: str, said: str) -> None:
    with pytest.raises((Unsupported, CorruptInput)) as caught:
        _go_template.jinja(template)
    assert said in str(caught.value) and "leave TEMPLATE out" in caught.value.cure


PARTS = ["{{", "}}", "if", "end", ".System", ".Messages", "range", '"', "-", "x", "(", ")", "eq", "$", "{%", "%}"]


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PARTS)).map(" ".join))
def test_hostile_templates_are_errors_of_ours_or_text(template: str) -> None:
    with contextlib.suppress(SlmopsError):
        rendered(template, SYSTEM, USER)


@settings(deadline=None, max_examples=200)
@given(st.text('FROMSYTEM"# \n\\xPARA', max_size=60))
def test_hostile_modelfiles_are_errors_of_ours(text: str) -> None:
    with contextlib.suppress(SlmopsError):
        _modelfile.parse(text)
