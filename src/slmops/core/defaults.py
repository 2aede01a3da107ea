"""What a model says by itself where a request says nothing: `defaults.json` in its folder, as `models create` writes it.

    {"system": str, "messages": [{"role": str, "content": str}], "parameters": {name: value}, "template": Jinja}

All keys may be absent; parameters have Ollama's names. Of Foundry Local's `inference_model.json` the PromptTemplate and what
its ModelConfig says of sampling are read.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from slmops.core import parameters, receipt
from slmops.core.errors import CorruptInput, UsageError

NAME = "defaults.json"
FOUNDRY = "inference_model.json"
SAMPLED = ("temperature", "top_k", "top_p", "min_p")
"""What is heeded of Foundry's."""
MOST_BYTES = 1 << 20
FORM: Any = {
    "system": str | None,
    "messages": [{"role": str, "content": str}],
    "parameters": {...: str | int | float | list},
    "template": str | None,
}

Settings = TypeVar("Settings", bound=Any)


@dataclass(frozen=True)
class Defaults:
    """Of one model."""

    system: str | None = None
    """Goes before a conversation that has no system message of its own."""
    messages: tuple[Mapping[str, str], ...] = ()
    """Stand before every conversation."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """By Ollama's names (core/parameters.py): temperature, stop, ..."""
    template: str | None = None
    """A chat template in Jinja, in place of the model's own."""

    def before(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """A conversation with what stands before it."""
        first, rest = ([messages[0]], messages[1:]) if messages and messages[0]["role"] == "system" else ([], messages)
        system = first or ([{"role": "system", "content": self.system}] if self.system else [])
        return [*system, *self.messages, *rest]

    def fill(self, sampling: Settings, said: Collection[str] = ()) -> Settings:
        """How the next token is picked (engines.Sampling), with the model's own parameters in place of what nobody said.

        said: the fields that somebody did.
        """
        own = {name: value for name, value in self._sampling.items() if name not in said}
        return replace(sampling, **own) if own else sampling

    @functools.cached_property
    def _sampling(self) -> Mapping[str, Any]:
        return parameters.sampling(self.parameters)

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer which is asked without any."""
        return parameters.stops(self.parameters) or ()

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
        try:
            checked = parameters.check(value["parameters"])
        except UsageError as fault:
            raise CorruptInput(f"{path}: {fault}", "make it again: slmops models create") from None
        messages = tuple({"role": one["role"], "content": one["content"]} for one in value["messages"])
        return Defaults(value.get("system"), messages, checked, value.get("template"))
    return NOTHING


def foundry(folder: Path) -> Defaults:
    """What Foundry's `inference_model.json` says of sampling. Raises CorruptInput."""
    path = folder / FOUNDRY
    said = _object(path).get("ModelConfig") if path.is_file() else None
    said = said if isinstance(said, dict) else {}
    if said.get("do_sample") is False:
        return Defaults(parameters={"temperature": 0.0})
    numbers: dict[str, Any] = {}
    for name in SAMPLED:
        with contextlib.suppress(UsageError):  # what it says besides is not for us to judge
            numbers |= parameters.check({name: said.get(name) or None})
    return Defaults(parameters=numbers)


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
    value = receipt.parse(path, MOST_BYTES)
    if not isinstance(value, dict):
        raise CorruptInput(f"{path} is no JSON object", "make it again")
    return value
