"""Files that are pipelines, and files that are not: what is wrong is named with its line and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from slmops.core import plugins, yaml12
from slmops.core.errors import CorruptInput, SourceNotFound, UsageError
from slmops.pipeline import desk, document, schema, steps

DOCS = Path(__file__).resolve().parents[2] / "docs"
GOOD = """
pipeline: good
parameters:
  model: {type: model, default: samples/home}
  formats: {type: list, default: [gguf, onnx]}
  least: {type: number, default: 0.5, choices: [0.5, 0.9]}
  unset: {type: string}
steps:
  - name: source
    acquire: {model: "${parameters.model}"}
  - name: made
    convert: {model: "${steps.source.model}", to: "${parameters.formats}", quantize: "${parameters.unset}"}
  - name: taken
    measure: {artifact: "${steps.made.artifacts.onnx}", against: "${steps.source.model}", text: "${steps.source.path}/x.txt"}
  - name: held
    gate: {measured: "${steps.taken.measured}", min_quality: "${parameters.least}"}
  - name: named
    tag: {artifact: "${steps.made.artifacts.gguf}", name: "home:${steps.made.scheme}-x"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def steps_of(*lines: str) -> str:
    return "pipeline: p\nsteps:\n" + "\n".join(lines)


def test_a_good_one(tmp_path: Path) -> None:
    found = document.read(write(tmp_path, GOOD), ["least=0.9", f"model={tmp_path}"])
    assert [step.kind for step in found.steps] == ["acquire", "convert", "measure", "gate", "tag"]
    assert found.unset == ("unset",) and found.parameters["least"] == 0.9 and found.parameters["model"] == str(tmp_path)
    assert found.steps[1].keys["to"] == ["gguf", "onnx"] and found.steps[3].keys["min_quality"] == 0.9
    assert found.steps[2].needs == ["made", "source"] and found.steps[2].line == 13
    # What it says is what tells it from another, not how it is written.
    spaced = write(tmp_path, "# a comment\n" + GOOD.replace("name: held", "name:   held"))
    assert document.read(spaced).digest == found.digest
    assert document.read(write(tmp_path, GOOD.replace("pipeline: good", "pipeline: other"))).digest != found.digest


SOURCE = "  - {name: source, acquire: {model: a/b}}"


@pytest.mark.parametrize(
    "text, line, column, said, cure",
    [
        ("- a", 1, 1, "a pipeline is a mapping", ""),
        ("", 1, 1, "a pipeline is a mapping", ""),
        ("pipeline: p", 1, 1, "lacks 'steps'", "in order"),
        ("pipeline: p\nsteps: []", 2, 1, "must have at least 1", ""),
        ("pipeline: P\nsteps: [{name: a, acquire: {model: b}}]", 1, 1, "lower-case", ""),
        ("pipelin: p\nsteps: [{name: a, acquire: {model: b}}]", 1, 1, "unknown key 'pipelin'", "did you mean 'pipeline'?"),
        (steps_of("  - {name: a, aquire: {model: b}}"), 3, 15, "no step of the kind 'aquire'", "did you mean 'acquire'?"),
        (steps_of("  - {name: a, serve: {}}"), 3, 15, "this version has no step of the kind 'serve'", "it has: acquire"),
        (steps_of("  - {name: a}"), 3, 5, "a step is a name and one kind", "acquire, approve, choose"),
        (steps_of("  - {name: a, acquire: {model: b}, plan: {model: b}}"), 3, 5, "a step is a name and one kind", ""),
        (steps_of("  - {acquire: {model: b}}"), 3, 5, "lacks 'name'", ""),
        (steps_of("  - {name: a, acquire: {modle: b}}"), 3, 25, "unknown key 'modle'", "did you mean 'model'?"),
        (steps_of("  - {name: a, acquire: {}}"), 3, 15, "lacks 'model'", "org/name"),
        (steps_of("  - {name: a, acquire: {model: 3}}"), 3, 25, "is 3, and must be a text", "org/name"),
        (steps_of("  - {name: a, acquire: {model: b, licences: mit}}"), 3, 35, "must be a list", "those that are allowed"),
        (steps_of("  - {name: a, acquire: {model: b, licences: [mit, 3]}}"), 3, 51, "must be a text", ""),
        (steps_of(SOURCE, SOURCE), 4, 6, "two steps have the name 'source'", ""),
        (steps_of(SOURCE, "  - {name: b, plan: {model: '${steps.sorce.model}'}}"), 4, 22, "no step 'sorce'", "'source'?"),
        (steps_of("  - {name: b, plan: {model: '${steps.b.model}'}}"), 3, 22, "step 'b' stands below", ""),
        (
            steps_of(SOURCE, "  - {name: b, plan: {model: '${steps.source.modle}'}}"),
            4,
            22,
            "no output 'modle'",
            "model, path",
        ),
        (
            steps_of(SOURCE, "  - {name: b, plan: {model: '${steps.source.licence}'}}"),
            4,
            22,
            "is a text, and this takes",
            "",
        ),
        (steps_of("  - {name: b, plan: {model: '${parameters.x}'}}"), 3, 22, "no parameter 'x'", "parameters: none"),
        (steps_of("  - {name: b, plan: {model: '${model}'}}"), 3, 22, "'${model}' is no reference", "no expressions"),
        (steps_of("  - {name: b, plan: {model: '${parameters.x'}}"), 3, 22, "is no reference", ""),
        (steps_of('  - {name: b, plan: {model: "a\\0b"}}'), 3, 22, "a NUL", ""),
        (steps_of("  - {name: b, plan: {model: 'a/${steps.x.y.z.w}'}}"), 3, 22, "is no reference", ""),
        (steps_of("  - {name: b, gate: {measured: a, steady: true}}"), 3, 22, "must be a reference to a measurement", ""),
        (steps_of("  - {name: b, convert: {model: m, to: [ggfu]}}"), 3, 15, "'ggfu' is not a format", "gguf"),
        (steps_of("  - {name: b, convert: {model: m, to: [gguf], quantize: q5}}"), 3, 15, "no scheme called 'q5'", ""),
        (steps_of("  - {name: b, prune: {model: m, text: t}}"), 3, 15, "nothing is to be pruned", ""),
        (steps_of("  - {name: b, tag: {artifact: a, name: ../x}}"), 3, 15, "no name for an artifact", ""),
        (steps_of("  - {name: b, measure: {artifact: a, runs: 0}}"), 3, 38, "must be at least 1", "of the speed"),
        (steps_of("  - {name: b, measure: {artifact: a, kv: q4}}"), 3, 38, "must be one of: auto, f32", ""),
        (steps_of("  - {name: b, optimize: {model: m, text: t, budget: soon}}"), 3, 15, "'soon' is not a time", ""),
        ("parameters: {n: {type: integer, default: 1.5}}\n" + steps_of(SOURCE), 1, 33, "cannot be '1.5'", "type integer"),
        ("parameters: {n: {type: whole}}\n" + steps_of(SOURCE), 1, 18, "must be one of: string, integer", ""),
        ("parameters: {n: {type: string, default: '${parameters.n}'}}\n" + steps_of(SOURCE), 1, 32, "holds a reference", ""),
        ("parameters: {N: {type: string}}\n" + steps_of(SOURCE), 1, 1, "is 'N': lower-case", ""),
        (
            "parameters: {n: {type: string, default: x}}\n"
            + steps_of("  - {name: b, measure: {artifact: a, runs: '${parameters.n}'}}"),
            4,
            38,
            "is 'x', and must be a whole number",
            "of the speed",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, text: str, line: int, column: int, said: str, cure: str
) -> None:
    pipeline, faults = document.examine(write(tmp_path, text))
    assert pipeline is None
    assert any(said in one.said and cure in one.cure and (one.line, one.column) == (line, column) for one in faults), faults
    with pytest.raises(CorruptInput, match=rf"p\.yaml:{faults[0].line}:{faults[0].column}: "):
        document.read(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    "text, said",
    [
        ("pipeline: p\npipeline: q", "line 2, column 1: the key 'pipeline' stands twice"),
        ("a: &x [1]\nb: *x", "anchors and aliases are not taken"),
        ("a: !!python/object/apply:os.system [true]", "tags are not taken"),
        ("a: !!binary aGk=", "tags are not taken"),
        ("a: " + "[" * 70, "too deeply nested"),
        ("a: [1", "line"),
        ("a: \x01", "no YAML"),
        ("x: " + "9" * 5000, "no YAML"),
        ("#" * (1 << 20) + "\n", "has more than"),
    ],
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CorruptInput, match=said):
        document.examine(write(tmp_path, text))


def test_parameters_that_make_no_sense(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for text, said in {
        "leest=1": "no parameter 'leest'",
        "least": "sets nothing",
        "least=x": "cannot be 'x'",
        "least=0.7": "cannot be '0.7'",
        "least=nan": "cannot be 'nan'",
        "unset=${parameters.least}": "holds a reference",
    }.items():
        with pytest.raises(UsageError, match=said):
            document.examine(path, [text])
    with pytest.raises(SourceNotFound):
        document.read(tmp_path / "nowhere.yaml")
    # A format that is not made is none that a later step can refer to.
    assert "no output 'artifacts.onnx'" in document.examine(path, ["formats=gguf"])[1][0].said


def test_places_of_everything(tmp_path: Path) -> None:
    """Against PyYAML's own marks, read from the text by hand."""
    value, places = yaml12.located(write(tmp_path, "a:\n  - b: 1\n    c: [2, 3]\n"), "")
    assert value == {"a": [{"b": 1, "c": [2, 3]}]}
    assert places["a",] == (1, 1) and places["a", 0, "c"] == (3, 5) and places["a", 0, "c", 1] == (3, 12)
    assert places.of(("a", 0, "x", "y")) == (2, 5) and places.of(()) == (1, 1)


def test_the_schema_that_is_published_is_the_one_that_is_used() -> None:
    published: dict[str, Any] = json.loads((DOCS / "pipeline.schema.json").read_text(encoding="utf-8"))
    assert published == schema.whole(), "slmops pipeline schema > docs/pipeline.schema.json"
    jsonschema.Draft7Validator.check_schema(published)


@pytest.mark.parametrize("kind", plugins.names(steps.ROOM))
def test_every_kind_is_complete(kind: str) -> None:
    module = plugins.load(steps.ROOM, kind)
    properties = module.SCHEMA["properties"]
    jsonschema.Draft7Validator.check_schema({"type": "object", **module.SCHEMA})
    assert module.HELP and all(one["description"] for one in properties.values())
    assert set(module.SCHEMA["required"]) <= set(properties) and set(module.INPUTS) <= set(properties)
    assert set(module.INPUTS.values()) <= set(desk.INPUTS) and isinstance(module.CODE, str)
    assert not (module.ACTS and module.REMEMBERED), "what acts on names is done each time"
    kinds = [*module.outputs({}).values()]
    flat = [leaf for one in kinds for leaf in (one.values() if isinstance(one, dict) else [one])]
    assert set(flat) <= set(steps.TYPES)
    assert f"| `{kind}` |" in (DOCS / "pipelines.md").read_text(encoding="utf-8")
