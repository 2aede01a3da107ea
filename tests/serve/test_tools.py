"""Tool calls: what templates of four families write is read back; they are given what transformers gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CHATML, SAMPLE
from needs import needs
from slmops.core import chat
from slmops.core.errors import Unsupported, UsageError
from slmops.engines import Constraint, Sampling
from slmops.run import Artifact
from slmops.serve import tools
from slmops.serve.request import Arguments, Began, Call, Ended, Event, Piece, Request
from slmops.serve.thoughts import Thoughts
from slmops.serve.tools import _schema

TEMPLATES = {
    path.stem: path.read_text() for path in (Path(__file__).parent.parent / "data" / "chat-templates").glob("*.jinja")
}
FAMILIES = {"qwen2.5": "hermes", "qwen3": "hermes", "mistral-nemo": "mistral", "llama3": "llama3", "phi4": "phi4"}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
LIGHT = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Set the light of a room, in percent.",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string"}, "level": {"type": "integer"}},
            "required": ["room", "level"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time."}}
ASKED = [{"role": "user", "content": "Set the kitchen light to 30 percent."}]


def artifact(template: str | None) -> Artifact:
    return Artifact(Path("none"), "gguf", (0,), None, False, template, SPECIAL, 4096, 100)


def called(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    made = [tools.call(f"call0000{index}", name, arguments) for index, (name, arguments) in enumerate(calls)]
    return {"role": "assistant", "content": "", "tool_calls": made}


def read(reader: Any, pieces: list[str], reason: Any = "stop") -> tuple[str, list[tuple[str, str]], str]:
    """(text, [(name, arguments)], reason) of an answer that came in these pieces."""
    events: list[Event] = [Began(1), *map(Piece, pieces), Ended(reason, len(pieces))]
    told = [one for event in events for one in reader.take(event)]
    assert isinstance(told[0], Began) and isinstance(told[-1], Ended)
    text, calls = "", list[list[str]]()
    for one in told:
        match one:
            case Piece():
                text += one.text
            case Call():
                assert one.index == len(calls) and len(one.id) == 9
                calls.append([one.name, ""])
            case Arguments():
                calls[one.index][1] += one.text
    return text, [(name, arguments) for name, arguments in calls], told[-1].reason


def test_the_notation_is_what_the_template_writes() -> None:
    assert set(TEMPLATES) == set(FAMILIES)
    for name, template in TEMPLATES.items():
        found = tools.notation_of(template, tuple(SPECIAL.items()))
        assert found.told and found.known and found.module.__name__.endswith(f".{FAMILIES[name]}"), name
    none = tools.notation_of(CHATML, ())
    assert not none.told
    # Qwen3-Coder's: a tag that holds no JSON.
    other = (
        TEMPLATES["qwen2.5"].replace('{"name": "', "<function=").replace('{\\"name\\": <', "<").replace("arguments\\", "a\\")
    )
    found = tools.notation_of(other, ())
    assert found.told and not found.known


@needs("transformers")
@pytest.mark.parametrize("name", ["qwen2.5", "mistral-nemo", "llama3"])
def test_templates_are_given_what_transformers_gives_them(name: str) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_file=str(SAMPLE / "tokenizer.json"), **SPECIAL)
    answer = {"role": "tool", "tool_call_id": "call00000", "name": "set_light", "content": '{"ok": true, "said": "süß"}'}
    for messages in (ASKED, [*ASKED, called(("set_light", {"room": "Küche", "level": 30})), answer]):
        fitted, _ = tools.fit(Request("m", tuple(messages), tools=(LIGHT,)), artifact(TEMPLATES[name]))
        ours = artifact(TEMPLATES[name]).prompt(fitted.messages, fitted.tools)
        expected = theirs.apply_chat_template(
            messages, tools=[LIGHT], chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
        )
        assert ours == expected and "set_light" in ours


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | TEXTS
    | st.sampled_from(['"', "}", "\\", "</tool_call>", "[TOOL_CALLS]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
CALL = st.tuples(st.sampled_from(["set_light", "get_time"]), st.dictionaries(TEXTS, VALUES, max_size=3))
CALLS = st.lists(CALL, min_size=1, max_size=3)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@given(calls=CALLS, data=st.data())
@settings(max_examples=30, deadline=None)
def test_what_a_template_writes_is_read_back_however_it_is_cut(name: str, calls: Any, data: Any) -> None:
    """The template itself is the source: the turn that it writes of some calls, cut anywhere, is those calls again."""
    calls = calls[:1] if name == "llama3" else calls
    template, offered = TEMPLATES[name], (LIGHT, TIME)
    fitted, reader = tools.fit(Request("m", tuple(ASKED), tools=offered), artifact(template))
    reader = Thoughts(reader, begun=False) if name == "qwen3" else reader  # whose turns begin with an empty thought
    asked = chat.render(template, fitted.messages, special=SPECIAL, tools=fitted.tools)
    again, _ = tools.fit(Request("m", (*ASKED, called(*calls)), tools=offered), artifact(template))
    answer = chat.render(template, again.messages, special=SPECIAL, tools=again.tools, add_generation_prompt=False)
    for end in ("</s>", "<|end|>", "<|im_end|>\n", "<|eot_id|>"):
        asked, answer = asked.removesuffix(end), answer.removesuffix(end)
    assert answer.startswith(asked)
    answer = answer.removeprefix(asked)
    if name == "mistral-nemo" and data.draw(st.booleans()):
        answer = answer.removeprefix("[TOOL_CALLS]")  # an engine that leaves special tokens out of its text
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(answer) - 1)), max_size=8)))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    text, found, reason = read(reader, pieces)
    assert text.strip() == "" and reason == "tool_calls"
    assert [(one, json.loads(held)) for one, held in found] == calls


def reader_of(name: str, **changes: Any) -> Any:
    return tools.fit(Request("m", tuple(ASKED), tools=(LIGHT, TIME), **changes), artifact(TEMPLATES[name]))[1]


def letters(text: str) -> list[str]:
    return list(text)


def test_text_before_a_call_is_text_and_what_is_no_call_too() -> None:
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    for pieces in ([f"Let me look.\n{call}"], letters(f"Let me look.\n{call}")):
        assert read(reader_of("qwen2.5"), pieces) == ("Let me look.", [("get_time", "{}")], "tool_calls")
    for text in (
        "a < b, and <tool_call is nothing",
        "<tool_call>\nno JSON\n</tool_call>",
        '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": ["get_time"]}\n</tool_call>',
        '<tool_call>\n{"name": "get_ti',
        "  two spaces  ",
    ):
        for pieces in ([text], letters(text)):
            assert read(reader_of("qwen2.5"), pieces) == (text, [], "stop"), text
    for text in ('{"answer": 42} it is', "[1, 2]", "{", '{"name": "Ann", "parameters": {}}', "no JSON"):
        for name in ("llama3", "mistral-nemo", "phi4"):
            assert read(reader_of(name), letters(text)) == (text, [], "stop"), (name, text)
    text = 'It is: {"name": "get_time", "parameters": {}}'
    assert read(reader_of("llama3"), letters(text)) == (text, [], "stop")  # such a call is the whole answer


def test_odd_forms_of_calls() -> None:
    for written, expected in (
        ('{"arguments": {"room": "a"}, "name": "set_light"}', '{"room": "a"}'),
        ('{"name": "set_light", "arguments": "{\\"room\\": \\"a\\"}"}', '{"room": "a"}'),
        ('{"name": "set_light"}', "{}"),
        ('{"name": "set_light", "arguments": null}', "{}"),
        (
            '{"type": "function", "name": "set_light", "parameters": {"a": {"name": "get_time"}}}',
            '{"a": {"name": "get_time"}}',
        ),
    ):
        for pieces in ([f"<tool_call>{written}</tool_call>"], letters(f"<tool_call>{written}")):
            assert read(reader_of("qwen2.5"), pieces) == ("", [("set_light", expected)], "tool_calls"), written
    tagged = '<|python_tag|>{"name": "get_time", "parameters": {}}; {"name": "get_time", "parameters": {"a": 1}}'
    assert read(reader_of("llama3"), letters(tagged))[1] == [("get_time", "{}"), ("get_time", '{"a": 1}')]
    cut = read(reader_of("llama3"), letters('{"name": "set_light", "parameters": {"room": "kit'), "length")
    assert cut == ("", [("set_light", '{"room": "kit')], "length")


def test_one_call_where_one_is_asked_for() -> None:
    two = '[{"name": "get_time", "arguments": {}}, {"name": "set_light", "arguments": {}}]'
    assert len(read(reader_of("mistral-nemo"), letters(two))[1]) == 2
    assert read(reader_of("mistral-nemo", parallel_calls=False), letters(two))[1] == [("get_time", "{}")]
    reader = reader_of("mistral-nemo", parallel_calls=False)
    told = [(reader.take(Piece(one)), reader.enough)[1] for one in ('[{"name": "get_time", "argu', 'ments": {}', "}, {")]
    assert told == [False, False, True]


def test_a_call_that_must_come_is_held_to_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    defined = {"$defs": {"Room": {"enum": ["kitchen"]}}, "type": "object", "properties": {"room": {"$ref": "#/$defs/Room"}}}
    nested = {"type": "function", "function": {"name": "dim", "parameters": {**defined, "required": ["room"]}}}
    for name in FAMILIES:
        request = Request("m", tuple(ASKED), tools=(nested, TIME), tool_choice="required")
        fitted, reader = tools.fit(request, artifact(TEMPLATES[name]))
        constraint = fitted.sampling.constraint
        assert constraint is not None and constraint.kind == "json_schema"
        module = tools.notation_of(TEMPLATES[name], tuple(SPECIAL.items())).module
        check = jsonschema.Draft202012Validator(json.loads(constraint.text))
        for room, fits in (("kitchen", True), ("cellar", False)):
            call: Any = {"name": "dim", module.ARGUMENTS: {"room": room}}
            assert check.is_valid([call] if module.LIST else call) is fits
        assert not check.is_valid({"name": "other", module.ARGUMENTS: {}})
        assert fitted.opening == module.OPENS
        written = json.dumps([call] if module.LIST else call)
        assert read(reader, letters(written))[1] == [("dim", '{"room": "cellar"}')]
    deep: Any = {}
    for _ in range(100):
        deep = {"properties": {"a": deep}}
    for wrong, said in (
        (deep, "nested"),
        ({"items": {"maxLength": 1 << 30}}, "maxLength"),
        ({"anyOf": [{"minItems": 5000}]}, "minItems"),
    ):
        with pytest.raises(UsageError, match=said):
            tools.check(wrong)
    with pytest.raises(UsageError, match=r"refers to 'https://x\.y/z'"):
        bad = {"type": "function", "function": {"name": "f", "parameters": {"$ref": "https://x.y/z"}}}
        _schema.calls([bad], tools.notation_of(CHATML, ()).module, True)


def test_what_cannot_be_done_is_said() -> None:
    request = Request("m", tuple(ASKED), tools=(TIME,))
    with pytest.raises(Unsupported, match="takes no functions"):
        tools.fit(request, artifact(CHATML))
    with pytest.raises(UsageError, match="no chat template"):
        tools.fit(request, artifact(None))
    with pytest.raises(UsageError, match="one name"):
        tools.fit(Request("m", tuple(ASKED), tools=(TIME, TIME)), artifact(CHATML))
    held = Request("m", tuple(ASKED), tools=(TIME,), sampling=Sampling(constraint=Constraint("json")))
    with pytest.raises(Unsupported, match="held to a form"):
        tools.fit(held, artifact(TEMPLATES["qwen2.5"]))
    none, reader = tools.fit(Request("m", tuple(ASKED), tools=(TIME,), tool_choice="none"), artifact(CHATML))
    assert reader is None and none.tools == ()
    with pytest.raises(UsageError, match="answers a call that no message"):
        tools.answered([{"role": "tool", "tool_call_id": "x", "content": ""}])
    for wrong in ("{", "[]", "1", "[" * 100_000, '{"a":' * 100 + "1" + "}" * 100):
        with pytest.raises(UsageError, match="not a JSON object"):
            tools.call("x", "f", wrong)
