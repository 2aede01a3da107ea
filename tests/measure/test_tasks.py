"""Cases, and scorers held against the implementations that others use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from needs import needs
from slmops import compile as compiler
from slmops import run
from slmops.core import plugins
from slmops.core.errors import CorruptInput, Unsupported, UsageError
from slmops.engines import Options
from slmops.measure import scorers, tasks
from slmops.measure.scorers import _bounded
from slmops.source import load

TEXTS = [
    "", "The cat sat on the mat.", "A cat sat on a mat!", "the mat, a cat; sat", "42", "café Straße 3.5 x_y",
    "turn the kitchen light to thirty percent", "Turn kitchen lights to 30 %, please", "light light light the",
]  # fmt: skip


def mark(name: str, answer: Any, **keys: Any) -> dict[str, float]:
    return dict(scorers.make(name, keys)(answer))


@pytest.mark.parametrize("name", plugins.names(scorers.ROOM))
def test_every_scorer_says_what_it_takes(name: str) -> None:
    module = plugins.load(scorers.ROOM, name)
    assert module.METRICS and not set(module.KEYS) & set(module.OPTIONAL)
    assert not (set(module.KEYS) | set(module.OPTIONAL)) & (set(tasks.COMMON) | set(tasks.QUESTIONS))
    with pytest.raises(ValueError, match="takes no 'nonsense'"):
        scorers.make(name, {**dict.fromkeys(module.KEYS, "x"), "nonsense": 1})


def test_exact_and_contains() -> None:
    assert mark("exact", " yes\n", expected=["no", "yes"]) == {"exact": 1.0}
    assert mark("exact", "Yes", expected="yes") == {"exact": 0.0}
    assert mark("contains", "it is Paris.", expected=["Rome", "Paris"]) == {"contains": 1.0}
    assert mark("contains", "Paris or Rome", expected="Paris", forbidden="Rome") == {"contains": 0.0}


@pytest.mark.parametrize(
    "answer, keys, right",
    [
        ("first 3, then 1,234.5 in all", {"expected": 1234.5}, 1.0),
        ("-2e3", {"expected": -2000}, 1.0),
        (".5", {"expected": 0.5}, 1.0),
        ("10-20", {"expected": 20}, 1.0),
        ("minus: -20", {"expected": 20}, 0.0),
        ("1e999", {"expected": 20, "tolerance": 1e300}, 0.0),
        ("about 99.", {"expected": 100, "tolerance": 1}, 1.0),
        ("98.9", {"expected": 100, "tolerance": 1}, 0.0),
        ("98", {"expected": 100, "relative": 0.02}, 1.0),
        ("none at all", {"expected": 0, "tolerance": 1e9}, 0.0),
    ],
)
def test_numeric(answer: str, keys: dict[str, Any], right: float) -> None:
    assert mark("numeric", answer, **keys) == {"numeric": right}


def test_json() -> None:
    assert mark("json", ' {"b": [1, true], "a": 1.0}', expected={"a": 1, "b": [1, True]}) == {"json": 1.0, "valid": 1.0}
    assert mark("json", "[1]", expected=[True]) == {"json": 0.0, "valid": 1.0}
    assert mark("json", "null", expected=None)["json"] == 1 and mark("json", "1", expected=None)["json"] == 0
    for broken in (
        "",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a": 1} and more',
        "[" * 100_000,
        "[" * 800 + "]" * 800 + "x",
    ):
        assert mark("json", broken) == {"json": 0.0, "valid": 0.0}


def test_a_nest_too_deep_to_look_through_is_no_crash() -> None:
    nest = "[" * 980 + "]" * 980
    assert mark("json", nest, expected=1)["json"] == 0


@pytest.mark.slow
@needs("jsonschema")
def test_json_schema() -> None:
    schema = {
        "type": "object", "required": ["level"], "additionalProperties": False,
        "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 100}},
    }  # fmt: skip
    for answer, valid in (('{"level": 30}', 1.0), ('{"level": 101}', 0.0), ('{"level": 1, "x": 2}', 0.0), ("3", 0.0)):
        assert mark("json", answer, schema=schema) == {"json": valid, "valid": valid}
    patterned = {"patternProperties": {"^[a-z]+$": {"type": "string", "pattern": "^x+$"}}, "additionalProperties": False}
    assert mark("json", '{"a": "xx"}', schema=patterned)["valid"] == 1
    assert (
        mark("json", '{"a": "xy"}', schema=patterned)["valid"] == mark("json", '{"A": "x"}', schema=patterned)["valid"] == 0
    )
    for bad in ({"type": "nothing"}, {"$ref": "https://example.org/schema.json"}, {"$ref": "#/$defs/absent"}, 3):
        with pytest.raises(ValueError, match="schema"):
            scorers.make("json", {"schema": bad})


def test_regex_and_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mark("regex", "level: 30%", pattern=r"\b\d+\s*%") == {"regex": 1.0}
    assert mark("regex", "level: 30%", pattern=r"^\d+$") == {"regex": 0.0}
    with pytest.raises(ValueError, match="no regular expression"):
        scorers.make("regex", {"pattern": "("})
    monkeypatch.setattr(_bounded, "SECONDS", 0.5)
    with pytest.raises(UsageError, match="took more than"):
        mark("regex", "a" * 40 + "!", pattern="^(a+)+$")


@pytest.mark.slow
@needs("rouge_score")
@pytest.mark.parametrize("answer", TEXTS)
def test_rouge_l_is_googles(answer: str) -> None:
    from rouge_score import rouge_scorer

    theirs = rouge_scorer.RougeScorer(["rougeL"])
    for reference in TEXTS:
        assert mark("rouge_l", answer, expected=reference)["rouge_l"] == pytest.approx(
            theirs.score(reference, answer)["rougeL"].fmeasure
        )


def test_rouge_l_of_lins_example() -> None:
    """Lin (2004), 3.1: of the reference "police killed the gunman", S2 has ROUGE-L 3/4 and S3 2/4."""
    for answer, wanted in (("police kill the gunman", 0.75), ("the gunman kill police", 0.5)):
        assert mark("rouge_l", answer, expected="police killed the gunman") == {"rouge_l": wanted}


@pytest.mark.slow
@needs("lm_eval")
@pytest.mark.parametrize("answer", TEXTS)
def test_token_f1_is_squads(answer: str) -> None:
    """lm-evaluation-harness has SQuAD's own functions, for QASPER."""
    from lm_eval.tasks.qasper import metrics as squad

    for reference in TEXTS[1:]:
        found = mark("token_f1", answer, expected=["never this", reference])
        assert found["token_f1"] == pytest.approx(squad.f1_abstractive([answer], [reference]))
        assert found["exact_normalized"] == (squad.normalize_answer(answer) == squad.normalize_answer(reference))


def test_token_f1_by_hand() -> None:
    """Two words of three are shared with a reference of four: precision 2/3, recall 2/4."""
    found = mark("token_f1", "The Denver Broncos won!", expected="Denver Broncos of Colorado")
    assert found == {"token_f1": pytest.approx(4 / 7), "exact_normalized": 0.0}
    assert mark("token_f1", "a Norman.", expected="the norman")["exact_normalized"] == 1


def test_choice_by_lm_evals_rule() -> None:
    keys = {"choices": ["no", "certainly not"], "expected": "certainly not"}
    assert mark("choice", [-2.0, -6.5], **keys) == {"acc": 0.0, "acc_norm": 1.0}
    for bad in ({"choices": ["a"], "expected": 0}, {"choices": ["a", "b"], "expected": 2}, {"choices": "ab", "expected": 0}):
        with pytest.raises(ValueError):
            scorers.make("choice", bad)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_defaults_of_a_file(tmp_path: Path) -> None:
    defaults = {"defaults": {"scorer": "token_f1", "least": 0.5, "split": "all of it"}}
    rows = [{"prompt": "a", "expected": "b"}, {"raw": "c", "expected": "d", "scorer": "exact", "note": {"any": "thing"}}]
    one, two = tasks.read_cases(write(tmp_path / "cases.jsonl", defaults, *rows))
    assert (one.scorer, one.metric, one.least, one.split) == ("token_f1", "token_f1", 0.5, "all of it")
    assert one.messages == ({"role": "user", "content": "a"},) and (two.raw, two.scorer, two.messages) == ("c", "exact", ())


@pytest.mark.parametrize(
    "row, said",
    [
        ({"prompt": "a", "expected": "b", "expectde": "c"}, "takes no 'expectde'"),
        ({"prompt": "a"}, "needs 'expected'"),
        ({"prompt": "a", "raw": "b", "expected": "c"}, "has prompt and raw"),
        ({"expected": "c"}, "has none"),
        ({"prompt": "a", "scorer": "magic", "expected": "c"}, "no scorer called 'magic'"),
        ({"prompt": "a", "scorer": "regex", "pattern": "("}, "no regular expression"),
        ({"prompt": "a", "expected": "b", "metric": "acc"}, "gives no 'acc'"),
        ({"prompt": "a", "expected": "b", "least": True}, "'least' cannot be True"),
        ({"prompt": "a", "expected": "b", "least": 2}, "at most 1"),
        ({"messages": ["x"], "expected": "b"}, "list of messages"),
        (["x"], ""),
    ],
)
def test_a_bad_case_names_its_line(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(CorruptInput, match="line 2") as caught:
        tasks.read_cases(write(tmp_path / "cases.jsonl", {"prompt": "a", "expected": "b"}, row))
    assert said in str(caught.value)


def test_the_samples_cases_are_read(sample: Path) -> None:
    assert len(tasks.read_cases(sample / "eval" / "tools.jsonl")) == 893


@pytest.mark.slow
def test_choices_are_weighed_by_the_engines_own_logits(toy: Callable[..., Path], tmp_path: Path) -> None:
    """The sums are those of transformers' logits of the same checkpoint in f32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = toy("qwen3")
    made = compiler.convert(load(folder), ["gguf", "onnx"], "f32", tmp_path / "made", verify=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    choices = [" the light", " a", " percent now"]
    row = {"raw": "turn the kitchen ", "scorer": "choice", "choices": choices, "expected": 1}
    for one in made:
        artifact = run.Artifact.open(one.folder)
        with run.open_worker(artifact, options=Options(context=128)) as worker:
            for choice in choices:
                context, rest = tasks.pair(worker, artifact, row["raw"], choice)
                assert context == worker.encode(["turn the kitchen"])[0]
                with torch.no_grad():
                    logs = model(torch.tensor([[*context, *rest]])).logits[0].double().log_softmax(-1)
                wanted = [float(logs[len(context) + i - 1, token]) for i, token in enumerate(rest)]
                ((found, greedy),) = worker.likelihoods([(context, rest)])
                assert found == pytest.approx(math.fsum(wanted), rel=1e-3)  # a KV cache of 16 bits
                greedily = [int(logs[len(context) + i - 1].argmax()) for i in range(len(rest))]
                assert greedy == (greedily == rest)
            answers = tasks.answer(worker, artifact, [tasks.case(row)])
            assert set(answers.marks[0]) == {"acc", "acc_norm"} == set(answers.figures())
            with pytest.raises(UsageError):
                worker.likelihoods([([], [1])])


def test_an_engine_without_logits_is_not_asked_to_choose() -> None:
    with pytest.raises(Unsupported, match="llamaserver gives no logits"):
        tasks.needs_logits("llamaserver", "the scorer choice")


def test_figures() -> None:
    answers = tasks.Answers((True, False), ("", ""), ({"exact": 1.0}, {"token_f1": 0.25, "exact": 0.0}))
    found = answers.figures()
    assert found["exact"].value == 0.5 and found["exact"].low == pytest.approx(tasks.Score(1, 2).interval[0])
    assert found["token_f1"].value == 0.25 and np.isinf(found["token_f1"].high)
