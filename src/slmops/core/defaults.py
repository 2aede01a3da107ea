"""What a model says by itself where a request says nothing: `defaults.json` in its folder, as `models create` writes it.

    {"system": str, "messages": [{"role": str, "content": str}], "parameters": {name: value}, "template": Jinja}

All keys may be absent; parameters have Ollama's names. Of Foundry Local's `inference_model.json` the PromptTemplate and what
its ModelConfig says of sampling are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slmops.core import receipt
from slmops.core.errors import CorruptInput

NAME = "defaults.json"
FOUNDRY = "inference_model.json"
SAMPLED = {"temperature": 100, "top_k": 1 << 20, "top_p": 1, "min_p": 1}
"""What is heeded of Foundry's, and the most that it may be."""
MOST_BYTES = 1 << 20
FORM: Any = {
    "system": str | None,
    "messages": [{"role": str, "content": str}],
    "parameters": {...: str | int | float | list},
    "template": str | None,
}


@dataclass(frozen=True)
class Defaults:
    """Of one model."""

    system: str | None = None
    """Goes before a conversation that has no system message of its own."""
    messages: tuple[Mapping[str, str], ...] = ()
    """Stand before every conversation."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of sampling, by Ollama's names: temperature, stop, ..."""
    template: str | None = None
    """A chat template in Jinja, in place of the model's own."""

    def before(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """A conversation with what stands before it."""
        first, rest = ([messages[0]], messages[1:]) if messages and messages[0]["role"] == "system" else ([], messages)
        system = first or ([{"role": "system", "content": self.system}] if self.system else [])
        return [*system, *self.messages, *rest]

    def written(self) -> str:
        """As NAME holds it; the same of the same."""
        held = {key: value for key, value in asdict(self).items() if value}
        return json.dumps(held, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


NOTHING = Defaults()


def read(folder: Path) -> Defaults:
    """Of the model in a folder. Raises CorruptInput."""
    if (path := folder / NAME).is_file():
        value = {"messages": [], "parameters": {}, **_object(path)}
        known = {key: value.get(key) for key in FORM}
        if (place := receipt.misfit(known, FORM) or min(set(value) - set(FORM), default=None)) is not None:
            fault = f"{path} is damaged: {place[:100]} is of another kind, or not known"
            raise CorruptInput(fault, "make it again: slmops models create")
        return Defaults(
            value.get("system"),
            tuple({"role": one["role"], "content": one["content"]} for one in value["messages"]),
            value["parameters"],
            value.get("template"),
        )
    return NOTHING


def foundry(folder: Path) -> Defaults:
    """What Foundry's `inference_model.json` says of sampling. Raises CorruptInput."""
    path = folder / FOUNDRY
    said = _object(path).get("ModelConfig") if path.is_file() else None
    said = said if isinstance(said, dict) else {}
    numbers = {key: said[key] for key, most in SAMPLED.items() if _within(said.get(key), most, key == "top_k")}
    return Defaults(parameters={"temperature": 0} if said.get("do_sample") is False else numbers)


def _within(value: Any, most: int, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and 0 < value <= most


def foundry_template(folder: Path) -> str | None:
    """The chat template that Foundry's `inference_model.json` says, in Jinja; None where it says none.

    Its PromptTemplate has a text for each role, in which {Content} stands for what is said, and `prompt`: what the user says
    with what asks for an answer. Raises CorruptInput.
    """
    path = folder / FOUNDRY
    said = _object(path).get("PromptTemplate") if path.is_file() else None
    if not isinstance(said, dict) or not said:
        return None
    texts = {key: value for key, value in said.items() if isinstance(value, str)}
    if len(texts) != len(said) or "prompt" not in texts or any(text.count("{Content}") != 1 for text in texts.values()):
        fault = f"{path} has a PromptTemplate that is not understood"
        raise CorruptInput(fault, "each text has {Content} once, and there is a prompt")
    texts = {"user": texts["prompt"], "assistant": "{Content}", **texts}
    branches = [f"{{% if loop.last and add_generation_prompt and role == 'user' %}}{_said(texts['prompt'])}"]
    for role in ("system", "user", "assistant"):
        if role in texts:
            branches.append(f"{{% elif role == '{role}' %}}{_said(texts[role])}")
    refused = "{% else %}{{ raise_exception('this template has no text for the role ' + role) }}{% endif %}"
    return f"{{% for message in messages %}}{{% set role = message['role'] %}}{''.join(branches)}{refused}{{% endfor %}}"


def _said(text: str) -> str:
    """A text around {Content}, in Jinja."""
    before, _, after = text.partition("{Content}")
    return f"{{{{ {_text(before)} + message['content'] + {_text(after)} }}}}"


def _text(said: str) -> str:
    """As a literal of Jinja."""
    return json.dumps(said, ensure_ascii=False)


def _object(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST_BYTES:
        raise CorruptInput(f"{path} is larger than {MOST_BYTES} bytes", "make it again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptInput(f"{path} is not JSON: {error}", "make it again") from None
    if not isinstance(value, dict):
        raise CorruptInput(f"{path} is no JSON object", "make it again")
    return value
