"""What a model says by itself: defaults.json, and Foundry Local's inference_model.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmops.core import chat, defaults
from slmops.core.defaults import Defaults
from slmops.core.errors import CorruptInput

USER, ANSWER = {"role": "user", "content": "Hi {Content} {{ x }}"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert defaults.read(tmp_path) == Defaults()
    said = Defaults("Be brief.", (USER, ANSWER), {"temperature": 0.5, "stop": ["x"]}, "{{ messages }}")
    (tmp_path / defaults.NAME).write_text(said.written())
    assert defaults.read(tmp_path) == said and defaults.read(tmp_path).written() == said.written()
    assert said.before([USER]) == [SYSTEM, USER, ANSWER, USER]
    other = {"role": "system", "content": "Be long."}
    assert said.before([other, USER]) == [other, USER, ANSWER, USER]


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"system": 1}', '{"colour": 1}', '{"messages": [{"role": 1}]}', '{"parameters": {"x": {}}}', "[" * 100_000],
)
def test_what_is_not_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / defaults.NAME).write_text(text)
    with pytest.raises(CorruptInput):
        defaults.read(tmp_path)


def foundry(folder: Path, templates: object) -> str | None:
    (folder / defaults.FOUNDRY).write_text(json.dumps({"Name": "x:1", "PromptTemplate": templates}))
    return defaults.foundry_template(folder)


def test_foundrys_template(tmp_path: Path) -> None:
    """The texts of Phi-3, as its makers print them."""
    assert defaults.foundry_template(tmp_path) is None and foundry(tmp_path, None) is None
    template = foundry(
        tmp_path,
        {
            "system": "<|system|>\n{Content}<|end|>\n",
            "user": "<|user|>\n{Content}<|end|>\n",
            "assistant": "<|assistant|>\n{Content}<|end|>\n",
            "prompt": "<|user|>\n{Content}<|end|>\n<|assistant|>\n",
        },
    )
    assert template is not None
    assert chat.render(template, [SYSTEM, USER, ANSWER, USER]) == (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi {Content} {{ x }}<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nHi {Content} {{ x }}<|end|>\n<|assistant|>\n"
    )
    short = foundry(tmp_path, {"assistant": "{Content}", "prompt": "<|User|>{Content}<|Assistant|>"})
    assert short is not None
    assert chat.render(short, [USER, ANSWER, USER]).count("<|Assistant|>") == 2
    with pytest.raises(CorruptInput):
        chat.render(short, [SYSTEM, USER])  # no text for it
    for wrong in ({"prompt": "no place"}, {"user": "{Content}"}, {"prompt": 1}):
        with pytest.raises(CorruptInput):
            foundry(tmp_path, wrong)


def test_foundrys_sampling(tmp_path: Path) -> None:
    def said(config: object) -> Defaults:
        (tmp_path / defaults.FOUNDRY).write_text(json.dumps({"Name": "x:1", "ModelConfig": config}))
        return defaults.foundry(tmp_path)

    assert defaults.foundry(tmp_path) == Defaults() == said(None) == said({"max_length": 512, "top_k": "x"})
    assert said({"do_sample": False, "temperature": 1}).parameters == {"temperature": 0}
    assert said({"temperature": 0.5, "top_k": 7}).parameters == {"temperature": 0.5, "top_k": 7}
