"""Requests that come and go, on every engine that is installed, with a trained model."""

from __future__ import annotations

import json
import queue
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from conftest import SAMPLE
from slmops import run
from slmops.core import plugins
from slmops.core.errors import Unsupported
from slmops.engines import Constraint, Options, Sampling, _installed

pytestmark = pytest.mark.slow

FORMS = {
    "llamacpp": "gguf",
    "llamaserver": "gguf",
    "openvino": "openvino",
    "openvino_paged": "openvino",
    "onnxruntime": "onnx",
    "mlx": "mlx",
    "transformers": "huggingface",
}
ASKED = (
    "please set the kitchen light to 30 percent",
    "turn off the lamp in the bedroom",
    "what is the weather like",
    "make it warmer in the living room",
)


@dataclass
class Said:
    """All that came of a request."""

    text: str = ""
    tokens: int = 0
    prompt: int = 0
    cached: int | None = None
    end: str = ""
    error: Mapping[str, str] | None = None
    logprobs: tuple[Any, ...] = ()

    @property
    def over(self) -> bool:
        return bool(self.end or self.error)


class Talk:
    """A worker's flow, as its owner sees it."""

    def __init__(self, name: str, folder: Path, options: Options) -> None:
        self.name, self.artifact = name, run.Artifact.open(folder)
        self.worker = run.open_worker(self.artifact, name, options)
        self.lines: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self.worker.flow(self.lines.put)
        self.said: dict[int, Said] = {}

    def add(self, text: str, sampling: Sampling) -> int:
        which = len(self.said)
        self.said[which] = Said()
        self.worker.add(which, run.stopping(sampling, self.artifact), text=text, bos=self.artifact.begin)
        return which

    def prompt(self, *said: str) -> str:
        roles = ("user", "assistant")
        return self.artifact.prompt([{"role": roles[place % 2], "content": text} for place, text in enumerate(said)])

    def wait(self, *these: int) -> list[Said]:
        """Until these are over."""
        while not all(self.said[which].over for which in these):
            self.look(60)
        return [self.said[which] for which in these]

    def look(self, seconds: float) -> None:
        lines = self.lines.get(timeout=seconds)
        assert lines, "the worker ended"
        for line in lines:
            for one in json.loads(line)["news"]:
                own = self.said[one["which"]]
                assert not own.over, "news of what is over"
                if "cached" in one:
                    assert own.cached is None and not own.text
                    own.prompt, own.cached = one["prompt"], one["cached"]
                own.text += one.get("text", "")
                own.tokens += one.get("tokens", 0)
                own.logprobs += tuple(one.get("logprobs", ()))
                own.end, own.error = one.get("end", ""), one.get("error")

    def ask(self, *texts: str, sampling: Sampling | None = None) -> list[Said]:
        return self.wait(*[self.add(text, sampling or Sampling(max_tokens=48)) for text in texts])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slmops import compile as compiler
    from slmops.source import load

    out = tmp_path_factory.mktemp("flow")
    compiler.convert(load(SAMPLE), ["gguf", "onnx", "openvino", "mlx"], "q8", out, verify=False)
    (out / "huggingface").symlink_to(SAMPLE)
    return out


@pytest.fixture(scope="module", params=sorted(FORMS))
def talk(request: pytest.FixtureRequest, made: Path) -> Iterator[Talk]:
    name = request.param
    if _installed.installed(name) is None:
        pytest.skip(f"the engine {name} is not installed: {_installed.install_command(name)}")
    options = Options(device="cpu", context=512, parallel=_installed.at_once(name, 8), reuse=True)
    found = Talk(name, made / FORMS[name], options)
    yield found
    found.worker.close()


def test_answers_together_are_those_of_run(talk: Talk) -> None:
    """Eight in flight, of several lengths; by the engine's other way to generate where it has one (slmops run's)."""
    prompts = [talk.prompt(text) for text in ASKED]
    with run.open_worker(talk.artifact, talk.name, Options(device="cpu", context=512)) as alone:
        expected = []
        for prompt in prompts:
            ids = run.tokens_of(alone, talk.artifact, prompt)
            pieces = list(alone.generate(ids, run.fit(Sampling(max_tokens=48), talk.artifact, len(ids))))
            expected.append(("".join(one.text for one in pieces), sum(one.id is not None for one in pieces), len(ids)))
    assert len({text for text, _, _ in expected}) > 2
    for asked in (prompts[:1], prompts * 2):
        found = talk.ask(*asked)
        assert [(one.text, one.tokens, one.prompt) for one in found] == expected[: len(asked)] * (len(asked) // 4 or 1)
        assert all(one.end == "stop" and one.cached is not None for one in found)
    (short,) = talk.ask(prompts[0], sampling=Sampling(max_tokens=3))
    assert short.end == "length" and short.tokens == 3 and expected[0][0].startswith(short.text)


def test_who_leaves_makes_room_and_faults_are_their_own(talk: Talk) -> None:
    """Endless answers are cancelled; a prompt that does not fit fails alone."""
    endless = Sampling(max_tokens=400, temperature=1.5, seed=3)
    talk.artifact, artifact = replace(talk.artifact, eos=()), talk.artifact
    try:
        flying = [talk.add(talk.prompt(text), endless) for text in ASKED]
    finally:
        talk.artifact = artifact
    while not all(talk.said[which].tokens for which in flying[:1]):
        talk.look(60)
    wrong = talk.add("light " * 600, Sampling())
    for which in flying:
        talk.worker.drop(which)
    began = time.monotonic()
    (good,) = talk.ask(talk.prompt(ASKED[0]))
    assert json.loads(good.text)["tool"] == "set_light" and time.monotonic() - began < 10
    assert (fault := talk.said[wrong].error) and fault["kind"] == "UsageError" and "context 512" in fault["fault"]
    assert not any(talk.said[which].end for which in flying)
    talk.worker.drop(10_000)  # nothing of that number


def test_the_second_turn_computes_only_what_is_new(talk: Talk) -> None:
    if talk.name.startswith("openvino"):
        pytest.skip(f"{talk.name} does not tell how much of a prompt it had, or keeps nothing")
    first = talk.ask(talk.prompt("set the hall light to 70 percent"))[0]
    assert first.cached is not None and first.cached < first.prompt
    second = talk.ask(talk.prompt("set the hall light to 70 percent", first.text, "and now to 20 percent"))[0]
    assert second.cached is not None and second.prompt > second.cached >= first.prompt - 2


def test_prompts_that_begin_alike_do_not_meet(talk: Talk) -> None:
    """Whole blocks of a paged cache, one more and one less, many at once and again: nobody reads what is another's."""
    if _installed.at_once(talk.name, 2) == 1:
        pytest.skip(f"{talk.name} shares nothing between requests")
    (base,) = talk.worker.encode([talk.prompt("please " + "set the kitchen light to 30 percent and " * 12)])
    prompts = [base[-length:] for length in (32, 63, 64, 65, 95, 96)] + [base[:64] + base[-20:]]
    with run.open_worker(talk.artifact, talk.name, Options(device="cpu", context=512)) as alone:
        sampling = run.stopping(Sampling(max_tokens=12), talk.artifact)
        expected = ["".join(one.text for one in alone.generate(ids, sampling)) for ids in prompts]
    for turn in range(6 if "parallel" in plugins.load("engines", talk.name).CAN else 2):
        asked = [(turn + place // 4) % len(prompts) for place in range(8)]
        first = len(talk.said)
        for which, number in enumerate(asked, first):
            talk.said[which] = Said()
            talk.worker.add(which, sampling, ids=prompts[number])
        found = talk.wait(*range(first, first + 8))
        assert [one.text for one in found] == [expected[number] for number in asked]


SCHEMA = {
    "type": "object",
    "properties": {
        "tool": {"enum": ["open_door", "close_door"]},
        "arguments": {
            "type": "object",
            "properties": {"room": {"enum": ["garden", "attic"]}, "level": {"enum": [1, 2, 3]}, "on": {"type": "boolean"}},
            "required": ["room", "level", "on"],
            "additionalProperties": False,
        },
    },
    "required": ["tool", "arguments"],
    "additionalProperties": False,
}
"""Near to what the model was trained on, and never what it says."""
GRAMMAR = 'root ::= ("yes" | "no") " " [0-9]{2,4}\n'


def constrained(talk: Talk, kind: str, text: str = "") -> list[str]:
    constraint = Constraint(kind, text)  # type: ignore[arg-type]
    samplings = [Sampling(max_tokens=240, temperature=heat, seed=5, constraint=constraint) for heat in (0.0, 0.7)]
    found = talk.wait(*[talk.add(talk.prompt(ASKED[place]), one) for place, one in enumerate(samplings)])
    assert all(one.error is None for one in found), found
    assert all(one.end == "stop" for one in found), found
    return [one.text for one in found]


def test_constraints_are_kept_to(talk: Talk) -> None:
    """Under a model that would say something else: greedy, and drawn."""
    kinds = plugins.load("engines", talk.name).CONSTRAINTS
    for kind in ("json", "json_schema", "regex", "grammar"):
        if kind not in kinds:
            with pytest.raises(Unsupported, match=f"{talk.name} cannot do this: constraint {kind}"):
                _installed.check_sampling(talk.name, FORMS[talk.name], Sampling(constraint=Constraint(kind)))  # type: ignore[arg-type]
    if "json_schema" in kinds:
        for text in constrained(talk, "json_schema", json.dumps(SCHEMA)):
            jsonschema.validate(json.loads(text), SCHEMA)
    if "json" in kinds:
        assert isinstance(json.loads(constrained(talk, "json")[0]), dict)
    if "regex" in kinds:
        for pattern in (r"(red|green|blue)-[0-9]{3}", r"\d{4}-\d\d?: [A-F]+(x|y?z){2}\.", r'"[^"\\]{3,8}"'):
            for text in constrained(talk, "regex", pattern):
                assert re.fullmatch(pattern, text), (pattern, text)
    if "grammar" in kinds:
        for text in constrained(talk, "grammar", GRAMMAR):
            assert re.fullmatch(r"(yes|no) [0-9]{2,4}", text), text


def test_what_is_no_constraint_fails_alone(talk: Talk) -> None:
    kinds = plugins.load("engines", talk.name).CONSTRAINTS
    wrong = [("json_schema", "{"), ("json_schema", '{"type": "nonsense"}'), ("regex", "(a"), ("grammar", "root ::= (")]
    asked = [Constraint(kind, text) for kind, text in wrong if kind in kinds]  # type: ignore[arg-type]
    (alone,) = talk.ask(talk.prompt(ASKED[1]))
    going = [talk.add(talk.prompt(ASKED[1]), Sampling(max_tokens=48)) for _ in range(3)]
    while not talk.said[going[0]].tokens:
        talk.look(60)
    found = [talk.wait(talk.add(talk.prompt(ASKED[0]), Sampling(max_tokens=9, constraint=one)))[0] for one in asked]
    # llguidance takes a type that it does not know for any.
    faults = [one.error["kind"] if one.error else one.end for one in found]
    assert faults[:1] + faults[2:] == ["UsageError"] * (len(asked) - 1) or not asked, found
    assert [one.text for one in talk.wait(*going)] == [alone.text] * 3


def test_log_probabilities_are_those_of_the_logits(talk: Talk) -> None:
    if "logprobs" not in plugins.load("engines", talk.name).SAMPLES:
        with pytest.raises(Unsupported, match="cannot do this: logprobs"):
            _installed.check_sampling(talk.name, FORMS[talk.name], Sampling(logprobs=2))
        return
    (said,) = talk.ask(talk.prompt(ASKED[0]), sampling=Sampling(max_tokens=8, logprobs=3))
    assert said.tokens == 8 == len(said.logprobs) and "".join(text for text, _, _ in said.logprobs) == said.text
    # llama-server gives no logits: the wheel's are of the same file.
    judge = "llamacpp" if talk.name == "llamaserver" else talk.name
    with run.open_worker(talk.artifact, judge, Options(device="cpu", context=512)) as alone:
        ids = run.tokens_of(alone, talk.artifact, talk.prompt(ASKED[0]))
        made_ids = [one.id for one in alone.generate(ids, Sampling(max_tokens=8)) if one.id is not None]
        logits = alone.logits([*ids, *made_ids], [len(ids) + len(made_ids)])[len(ids) - 1 : -1].astype(np.float64)
    expected = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    for place, (_, value, top) in enumerate(said.logprobs):
        assert value == pytest.approx(expected[place, made_ids[place]], abs=0.1)
        if top:
            assert [other for _, other in top] == pytest.approx(sorted(expected[place])[::-1][:3], abs=0.3)
            assert top[0][1] == pytest.approx(value)


def test_penalties_change_what_is_said(talk: Talk) -> None:
    """An answer that goes on after its end comes to repeat itself, unless that is made dear."""
    samples = plugins.load("engines", talk.name).SAMPLES
    talk.artifact, artifact = replace(talk.artifact, eos=()), talk.artifact
    try:
        endless = talk.ask(talk.prompt(ASKED[0]))[0].text
        for field, value in (("repeat_penalty", 5.0), ("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
            if field in samples:
                other = talk.ask(talk.prompt(ASKED[0]), sampling=replace(Sampling(max_tokens=48), **{field: value}))[0]
                assert other.error is None and other.text != endless, field
    finally:
        talk.artifact = artifact
    if "min_p" in samples:
        plain = talk.ask(talk.prompt(ASKED[0]))[0].text
        # Nothing less likely than the likeliest: as greedy, at any temperature.
        drawn = talk.ask(
            talk.prompt(ASKED[0]), sampling=Sampling(max_tokens=48, temperature=0.5, top_k=0, min_p=1.0, seed=9)
        )[0]
        assert drawn.text == plain


def near(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.dot(one, other))


def test_vectors_of_texts(talk: Talk, made: Path) -> None:
    if "embed" not in plugins.load("engines", talk.name).CAN:
        with pytest.raises(Unsupported, match=f"{talk.name} cannot embed"):
            _installed.check_can(talk.name, FORMS[talk.name], "embed")
        return
    found = [talk.worker.embed(text, talk.artifact.begin) for text in (ASKED[0], ASKED[0].replace("30", "40"), ASKED[2])]
    vectors = [vector for vector, _ in found]
    assert all(near(one, one) == pytest.approx(1) for one in vectors) and {len(one) for one in vectors} == {256}
    assert near(vectors[0], vectors[1]) > near(vectors[0], vectors[2])
    assert found[0][1] == len(talk.worker.encode([ASKED[0]])[0])
    if talk.name == "llamacpp" and _installed.installed("transformers") is not None:
        other = Talk("transformers", made / FORMS["transformers"], Options(device="cpu", context=512))
        vector, count = other.worker.embed(ASKED[0], other.artifact.begin)
        other.worker.close()
        assert near(vector, vectors[0]) > 0.99 and count == found[0][1]
