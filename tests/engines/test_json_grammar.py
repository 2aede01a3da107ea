"""Schemas as grammars, by the engine that reads them and by jsonschema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from conftest import SAMPLE
from needs import needs
from slmops.core.errors import UsageError
from slmops.engines import Constraint, Options, Sampling, _json_grammar
from slmops.engines._host import Worker

END = 1535
"""What an answer of the sample ends with."""
NODE = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
    "required": ["on", "next"],
}
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "object", "properties": {"room": {"enum": ["attic", 'a"b\\c', "\u00fcber\n"]}, "level": {"type": "integer"}},
     "required": ["room", "level"], "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": ["number", "null"]}, "c": {"const": "x"}},
     "required": ["b"]},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}, "c": {"type": "null"}}},
    {"type": "object", "title": "Chain", "properties": {"all": {"type": "array", "items": {"$ref": "#/$defs/node"},
     "minItems": 1, "maxItems": 2}}, "required": ["all"], "$defs": {"node": NODE}},
    {"type": "array", "items": {"enum": [1, 2.5, None, True, {"a": ["b"]}]}, "minItems": 3, "maxItems": 3},
    {"type": "object", "properties": {"none": {"type": "array", "items": True, "maxItems": 0}}, "required": ["none"]},
    {"type": "object", "properties": {}},
)  # fmt: skip


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    from slmops import compile as compiler
    from slmops.source import load

    out = tmp_path_factory.mktemp("grammar")
    (made,) = compiler.convert(load(SAMPLE), ["openvino"], "q8", out, verify=False)
    with Worker("openvino", made.folder, Options(device="cpu", context=512)) as found:
        yield found


@pytest.mark.slow
@needs("openvino_genai")
@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_answers_are_of_the_schema_with_no_blanks_of_their_own(schema: dict[str, Any], worker: Worker) -> None:
    """Of a model that would say something else; drawn hotly, so that whatever is allowed comes."""
    text = json.dumps(schema)
    assert _json_grammar.grammar(text) is not None
    (ids,) = worker.encode(["please set the kitchen light to 30 percent"])
    for seed in range(6):
        held = Constraint("json_schema", text)
        how = Sampling(max_tokens=400, temperature=2.0 * (seed > 0), seed=seed, stop_ids=(END,), constraint=held)
        said = "".join(token.text for token in worker.generate(ids, how))
        value = json.loads(said)
        jsonschema.validate(value, schema)
        between = re.sub(r'"(\\.|[^"\\])*"', '""', said)
        assert not re.search(r"\s\s|[^ \S]|\s[,:}\]]|[{\[]\s", between), said


def test_an_object_of_which_nothing_is_said_is_any() -> None:
    for schema, root in (({}, "object"), ({"required": []}, "object"), ({"properties": {}}, '"{}"')):
        found = _json_grammar.grammar(json.dumps({"type": "object", **schema}))
        assert found is not None and found.endswith(f"root ::= {root}\n"), schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 3},
        {"type": ["string", "null"], "pattern": "a"},
        {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "null"}}}},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {}}, "required": ["b"]},
        {"type": "object", "properties": [1]},
        {"type": "object", "required": 5, "properties": {"a": {}}},
        {"type": "array", "minItems": 3, "maxItems": 2},
        {"type": "array", "maxItems": 1 << 40},
        {"type": "any"},
        {"type": "integer", "enum": [1, True]},
        {"enum": []},
        {"enum": ["\ud800"]},
        {"anyOf": [{"type": "null"}], "type": "string"},
        {"allOf": [{"type": "null"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}},
        },
        {"$ref": "https://example.org/schema"},
        {"properties": {"a": False}, "type": "object"},
        {"anyOf": [{"const": number} for number in range(3000)], "type": "object"},
        {"type": "object", "properties": {f"p{number}": True for number in range(3000)}},
    ],
    ids=str,
)
def test_what_says_more_is_left_to_the_engine(schema: dict[str, Any]) -> None:
    """Nothing of it is left out in silence, and nothing goes on for ever."""
    assert _json_grammar.grammar(json.dumps(schema)) is None


@pytest.mark.parametrize("text", ["{", "[]", "1", "[" * 100_000])
def test_what_is_no_schema_is_an_error(text: str) -> None:
    with pytest.raises(UsageError):
        _json_grammar.grammar(text)
