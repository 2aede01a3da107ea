"""What a model's own parameters say holds in every format and on the command line; what a request says wins."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED, serving

pytestmark = [pytest.mark.slow, needs("openai", "anthropic", "ollama", "starlette", "uvicorn", "xllamacpp")]
SAID = ASKED[0]["content"]
OWN = {"temperature": 0, "stop": ['"arguments"'], "num_predict": 40}
SYSTEM = "You control a house."
CUT = '{"tool": "set_light", '
PROMPT = f"<|im_start|>user\n{SAID}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def butler(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says by itself how it is asked."""
    from slmops.core.defaults import NAME, Defaults

    folder = tmp_path_factory.mktemp("own") / "butler"
    shutil.copytree(made / "gguf", folder)
    (folder / NAME).write_text(Defaults(SYSTEM, parameters=OWN).written())
    return folder


@pytest.fixture(scope="module")
def server(butler: Path) -> Iterator[str]:
    with serving(f"home={butler}", "--context", "256") as (url, _):
        yield url


def asked(server: str, form: str, *, stop: list[str] | None = None, most: int | None = None) -> str:
    """The answer, by the format's own client, with nothing said but these."""
    import anthropic
    import ollama
    import openai

    client = openai.OpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0)
    more: dict[str, Any] = {} if stop is None else {"stop": stop}
    capped: dict[str, Any] = {} if most is None else {"max_tokens": most}
    talked: Any = ASKED
    match form:
        case "chat":
            return str(
                client.chat.completions.create(model="home", messages=talked, **more, **capped).choices[0].message.content
            )
        case "completions":
            return client.completions.create(model="home", prompt=PROMPT, **more, **capped).choices[0].text
        case "responses":
            given: Any = {} if most is None else {"max_output_tokens": most}
            return client.responses.create(model="home", input=SAID, **given).output_text
        case "messages":
            theirs = anthropic.Anthropic(base_url=server, api_key="x", max_retries=0)
            ends: Any = {} if stop is None else {"stop_sequences": stop}
            (block,) = theirs.messages.create(model="home", messages=talked, max_tokens=most or 60, **ends).content
            return str(getattr(block, "text", ""))
    options = {**more, **({} if most is None else {"num_predict": most})}
    return str(ollama.Client(server).chat("home", ASKED, options=options).message.content)


@pytest.mark.parametrize("form", ["chat", "completions", "responses", "messages", "ollama"])
def test_they_hold_and_what_is_said_wins(server: str, form: str) -> None:
    assert {asked(server, form) for _ in range(3)} == {CUT}  # its stop string, at its temperature
    assert CUT.startswith(short := asked(server, form, most=3)) and len(short) < len(CUT)
    if form != "responses":  # which has no stop
        whole = asked(server, form, stop=["<never>"])
        assert json.loads(whole) == ANSWER  # within its own num_predict: completions' 16 would have cut it off


def test_the_system_prompt_holds_in_every_format(server: str, butler: Path) -> None:
    """Said by the request, the same words make the same prompt."""
    import anthropic
    import ollama
    import openai

    client = openai.OpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0)
    theirs = anthropic.Anthropic(base_url=server, api_key="x", max_retries=0)
    told: Any = [{"role": "system", "content": SYSTEM}, *ASKED]
    plain: Any = ASKED
    read = set[int]()
    for messages in (plain, told):
        usage = client.chat.completions.create(model="home", messages=messages, max_tokens=1).usage
        read |= {usage.prompt_tokens if usage else 0, ollama.Client(server).chat("home", messages).prompt_eval_count or 0}
    for more in ({}, {"system": SYSTEM}):
        held: Any = more
        read.add(theirs.messages.count_tokens(model="home", messages=plain, **held).input_tokens)
        found = client.responses.create(model="home", input=SAID, instructions=held.get("system"), max_output_tokens=1)
        read.add(found.usage.input_tokens if found.usage else 0)
    command = [sys.executable, "-m", "slmops", "run", str(butler), SAID, "--json", "--max-tokens", "1"]
    read.add(json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout)["prompt_tokens"])
    assert len(read) == 1 and read.pop() > 20


def test_several_answers_are_not_one_many_times(made: Path, tmp_path: Path) -> None:
    """A seed of the model's own is for one answer."""
    import openai

    from slmops.core.defaults import NAME, Defaults

    shutil.copytree(made / "gguf", tmp_path / "seeded")
    drawn = Defaults(parameters={"seed": 7, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "num_predict": 12})
    (tmp_path / "seeded" / NAME).write_text(drawn.written())
    with serving(f"home={tmp_path / 'seeded'}", "--context", "256") as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        ask: Any = lambda **more: [  # noqa: E731
            one.text for one in client.completions.create(model="home", prompt="the", **more).choices
        ]
        assert ask() == ask() and len(set(ask(n=4))) > 1
        assert ask(temperature=0) != ask() and ask(temperature=0) == ask(temperature=0)


def test_on_the_command_line(butler: Path, server: str) -> None:
    def said(*words: object, line: str = "") -> str:
        command = [sys.executable, "-m", "slmops", *map(str, words)]
        done = subprocess.run(command, input=line, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    assert said("run", butler, SAID) == CUT
    assert len(said("run", butler, SAID, "--max-tokens", 2)) < len(CUT)
    assert said("chat", butler, line=SAID) == CUT == said("chat", server, line=SAID)

    import slmops
    from slmops.engines import Sampling

    assert "".join(slmops.generate(butler, SAID)) == CUT
    assert len("".join(slmops.generate(butler, SAID, sampling=Sampling(max_tokens=2)))) < len(CUT)


@pytest.mark.parametrize(
    "own", [{"temperature": "hot"}, {"temperature": -1}, {"top_k": 1 << 40}, {"colour": 1}, {"stop": [""]}, {"seed": True}]
)
def test_what_no_engine_should_be_given_is_refused_when_it_is_opened(butler: Path, tmp_path: Path, own: Any) -> None:
    from slmops.core import defaults
    from slmops.core.errors import CorruptInput

    (tmp_path / defaults.NAME).write_text(json.dumps({"parameters": own}))
    with pytest.raises(CorruptInput, match="create"):
        try:
            defaults.read(tmp_path)
        except CorruptInput as fault:
            raise CorruptInput(f"{fault} {fault.cure}") from None
