"""Prompt templates of one text a role, derived from chat templates."""

from __future__ import annotations

import pytest

from slmops.formats import _prompt

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}" + CHATML


def test_chatml() -> None:
    templates, reason = _prompt.derive(CHATML, {}, False)
    assert not reason
    assert templates == {
        "system": "<|im_start|>system\n{Content}<|im_end|>\n",
        "user": "<|im_start|>user\n{Content}<|im_end|>\n",
        "assistant": "<|im_start|>assistant\n{Content}<|im_end|>\n",
        "prompt": "<|im_start|>user\n{Content}<|im_end|>\n<|im_start|>assistant\n",
    }


def test_end_of_text_behind_a_finished_conversation_is_no_part_of_a_turn() -> None:
    templates, _ = _prompt.derive(PHI, {"eos_token": "<|endoftext|>"}, False)
    assert templates is not None
    assert templates["assistant"] == "<|assistant|>\n{Content}<|end|>\n"
    assert "endoftext" not in "".join(templates.values())


def test_default_system_message_is_in_the_single_prompt_only() -> None:
    templates, _ = _prompt.derive(DEFAULT, {}, False)
    assert templates is not None
    assert templates["prompt"].startswith("<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\n{Content}")
    assert "good" not in templates["user"] + templates["system"]


@pytest.mark.parametrize("adds", [True, False])
def test_bos_is_left_to_the_tokenizer_that_adds_it(adds: bool) -> None:
    templates, _ = _prompt.derive("{{ bos_token }}" + CHATML, {"bos_token": "<s>"}, adds)
    assert templates is not None
    assert templates["prompt"].startswith("<s>") != adds
    assert templates["system"].startswith("<s>") != adds


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template"),
        ("", "no chat template"),
        ("{{ strftime_now('%Y') }}" + CHATML, "date"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML, "no system"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes"),
        ("{{ messages[-1].content }}", "changes"),
        ("{% for m in messages %}{{ loop.index }}{{ m.role }}:{{ m.content }};{% endfor %}", ""),
        ("{% for m in messages", "does not take"),
        ("{% for m in range(10**9) %}x{% endfor %}", ""),
    ],
)
def test_what_cannot_be_said_so_simply_is_refused(template: str | None, reason: str) -> None:
    templates, said = _prompt.derive(template, {}, False)
    assert templates is None
    assert said
    assert reason in said
