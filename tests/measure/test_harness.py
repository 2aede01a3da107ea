"""lm-evaluation-harness with our engines, against lm-evaluation-harness with its own Hugging Face model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from slmops import cli, run
from slmops import compile as compiler
from slmops.core.errors import SourceNotFound, UsageError
from slmops.engines import Options
from slmops.source import load

pytestmark = [pytest.mark.slow, needs("lm_eval", "torch", "transformers")]
DATA = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
"""
TASKS = {
    "home_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "home_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "home_answer": """
output_type: generate_until
doc_to_text: "{{chat}}"
doc_to_target: "{{expected}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 64}
metric_list: [{metric: exact_match}]
""",
    "home_beam": """
output_type: generate_until
doc_to_text: "{{chat}}"
doc_to_target: "{{expected}}"
generation_kwargs: {num_beams: 4, max_gen_toks: 8}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its facts of the machine have pip list all that is installed; its bootstrap forks."""
    from lm_eval import evaluator

    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.fixture(scope="module")
def tasks(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files over 12 of the sample's own cases."""
    folder = tmp_path_factory.mktemp("tasks")
    cases = [json.loads(line) for line in (sample / "eval" / "tools.jsonl").read_text(encoding="utf-8").splitlines()[::75]]
    rows = []
    for number, case in enumerate(cases):
        said = case["messages"][0]["content"]
        choices = sorted({case["expected"], *(cases[number - 1 - back]["expected"] for back in range(3))})
        rows.append({
            "question": f"{said}\n" if number % 2 else said, "choices": choices, "answer": choices.index(case["expected"]),
            "text": f"{said}\n{case['expected']}\n\n" * (1 + number),
            "chat": f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n", "expected": case["expected"],
        })  # fmt: skip
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(DATA.format(name=name, data=folder / "data.jsonl") + text)
    return folder


def weighed(found: dict[str, Any], task: str) -> list[Any]:
    """What the model gave for each document, in order."""
    return [one["resps"] for one in sorted(found["samples"][task], key=lambda one: one["doc_id"])]


def test_the_same_scores_as_its_own_model(sample: Path, tasks: Path, tmp_path: Path) -> None:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from slmops.measure import harness, statistics

    names = ["home_choice", "home_rolling", "home_answer"]
    # Its cache takes two windows of the same tokens for one, wherever the part that is weighed begins in them.
    theirs = HFLM(pretrained=str(sample), dtype="float32", device="cpu", batch_size=4, max_length=256, logits_cache=False)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    expected = evaluator.simple_evaluate(theirs, tasks=names, task_manager=manager, bootstrap_iters=statistics.RESAMPLES)
    for made in compiler.convert(load(sample), ["onnx", "gguf"], "f32", tmp_path / "made", verify=False):
        artifact = run.Artifact.open(made.folder)
        with run.open_worker(artifact, options=Options(context=256)) as worker:
            model = harness.Model(worker, artifact, 256)
            assert (model.eot_token_id, model.prefix_token_id) == (theirs.eot_token_id, theirs.prefix_token_id)
            found = harness.evaluate(model, names, folder=tasks)
        # llama.cpp keeps its cache in 16 bits.
        near = 1e-4 if made.format == "onnx" else 3e-3
        for ours, known in zip(weighed(found, "home_choice"), weighed(expected, "home_choice"), strict=True):
            assert [one[0][0] for one in ours] == pytest.approx([one[0][0] for one in known], rel=near, abs=near)
            assert [one[0][1] for one in ours] == [one[0][1] for one in known]
        for ours, known in zip(weighed(found, "home_rolling"), weighed(expected, "home_rolling"), strict=True):
            assert ours[0][0] == pytest.approx(known[0][0], rel=near)
        assert weighed(found, "home_answer") == weighed(expected, "home_answer")
        for name in names:
            kept = {key: value for key, value in expected["results"][name].items() if isinstance(value, float)}
            assert len(kept) >= 2 and {key: found["results"][name][key] for key in kept} == pytest.approx(kept, rel=near)
        assert found["results"]["home_answer"]["exact_match,none"] > 0.5


def test_on_the_command_line(sample: Path, tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (made,) = compiler.convert(load(sample), ["gguf"], "q8", tmp_path / "made", verify=False)
    words = ["harness", str(made.folder), "home_choice", "--include", str(tasks), "--limit", "3", "--context", "256"]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert 0 <= found["results"]["home_choice"]["acc,none"] <= 1 and found["n-samples"]["home_choice"]["effective"] == 3
    assert cli.main(words) == 0
    assert "acc_norm" in capfd.readouterr().out
    assert cli.main([*words[:2], "no_such_task"]) == SourceNotFound.exit_code
    assert cli.main([*words[:2], "home_beam", *words[3:]]) == UsageError.exit_code
    said = capfd.readouterr().err
    assert "no task 'no_such_task'" in said and "num_beams" in said
