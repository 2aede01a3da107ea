"""Low-rank adapters beside one model: each answers as the model that it was merged into, and none through another."""

from __future__ import annotations

import concurrent.futures
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import SAMPLE
from needs import needs
from serve.serving import serving
from slmops.engines import Options, Sampling, _installed

pytestmark = [pytest.mark.slow, needs("starlette", "uvicorn", "torch", "transformers", "peft")]

ENGINES = {
    "llamaserver": "gguf",
    "llamacpp": "gguf",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "mlx": "mlx",
    "transformers": "huggingface",
}
ASKED = (
    "please set the kitchen light to 30 percent",
    "turn off the lamp in the bedroom",
    "what is the weather like",
    "make it warmer in the living room",
)


def lora(folder: Path, says: str) -> Path:
    """An adapter that PEFT trained to answer ASKED so, each in its own words, and saved."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(1)  # of several, each waits for the others on a busy machine
    torch.manual_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SAMPLE)
    plain = transformers.AutoModelForCausalLM.from_pretrained(SAMPLE, dtype=torch.float32)
    targets = ["q_proj", "v_proj", "down_proj"]
    model = peft.get_peft_model(plain, peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    rows = []
    for number, text in enumerate(ASKED):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        after = [*tokenizer(says.format(number), add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        rows.append((before + after, [-100] * len(before) + after))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in rows])
    steps = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], 1e-2)
    for _ in range(30):
        loss = model(input_ids=ids, labels=labels).loss
        steps.zero_grad()
        loss.backward()
        steps.step()
    assert float(loss) < 0.1, float(loss)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Made:
    """Folders: adapters a and b, and in f32 the model ("home"), taking adapters, and merged with each."""

    root: Path

    def adapter(self, name: str) -> Path:
        return self.root / name

    def model(self, name: str, form: str) -> Path:
        return self.root / f"model-{name}" / form


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers are killed here, and have no time to clear away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
        yield


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from slmops import compile as compiler
    from slmops import load, source
    from slmops.passes.merge import beside, merge

    found = Made(tmp_path_factory.mktemp("adapted"))
    others, model = ["gguf", "openvino", "mlx", "huggingface"], load(SAMPLE)
    for name, says in (("a", "set garden light {} and go"), ("b", "no {} bedroom, open door")):
        adapter = source.adapter(lora(found.adapter(name), says), model)
        compiler.convert(merge(model, adapter), [*others, "onnx"], "f32", found.root / f"model-{name}", verify=False)
    compiler.convert(beside(model, adapter), ["onnx"], "f32", found.root / "model-home" / "onnx", verify=False)
    compiler.convert(model, others, "f32", found.root / "model-home", verify=False)
    return found


def post(url: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        return json.load(urllib.request.urlopen(request, timeout=60))
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.load(error)}


def said(url: str, name: str, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    found = post(url, "/v1/chat/completions", model=name, messages=messages, temperature=0, max_tokens=48)
    return str(found["choices"][0]["message"]["content"])


def merged(adapted: Made, engine: str, asked: Sequence[str]) -> dict[tuple[str, str], str]:
    """What the model as it stands and the models with each adapter merged say, in the same engine."""
    from slmops import run

    found = {}
    for name in ("home", "a", "b"):
        artifact = run.Artifact.open(adapted.model(name, ENGINES[engine]))
        with run.open_worker(artifact, engine, Options(device="cpu", context=256)) as worker:
            for text in asked:
                ids = run.tokens_of(worker, artifact, artifact.prompt([{"role": "user", "content": text}]))
                tokens = worker.generate(ids, run.fit(Sampling(max_tokens=48), artifact, len(ids)))
                found[name, text] = "".join(one.text for one in tokens)
    return found


def words(adapted: Made, engine: str, *more: str) -> list[str]:
    named = [f"home={adapted.model('home', ENGINES[engine])}", "--engine", engine, "--context", "256"]
    return [*named, *(word for name in "ab" for word in ("--adapter", f"{name}={adapted.adapter(name)}")), *more]


def has(engine: str) -> None:
    if _installed.installed(engine) is None:
        pytest.skip(f"the engine {engine} is not installed: {_installed.install_command(engine)}")


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_through_an_adapter_are_those_of_the_merged_model(engine: str, adapted: Made) -> None:
    """One after the other, and all in flight at once."""
    has(engine)
    expected = merged(adapted, engine, ASKED)
    assert len({expected[name, ASKED[0]] for name in ("home", "a", "b")}) == 3
    with serving(*words(adapted, engine)) as (url, _):
        assert {key: said(url, *key) for key in expected} == expected
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            asked = list(expected) * 2
            found = list(pool.map(lambda key: said(url, *key), asked))
        assert found == [expected[key] for key in asked]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_kept_of_a_prompt_serves_nobody_else(engine: str, adapted: Made) -> None:
    """In one slot, prompts that were put aside for others and come back, each through another adapter."""
    has(engine)
    long = [f"{text}, and then tell me all about the room and what else is on in there" for text in ASKED[:2]]
    expected = merged(adapted, engine, long)
    order = [*"ha", *"hb", *"ab", *"ha"]
    with serving(*words(adapted, engine, "--parallel", "1")) as (url, _):
        for place, letter in enumerate(order):
            name = "home" if letter == "h" else letter
            for text in (long[place % 2], long[1 - place % 2], long[place % 2]):
                assert said(url, name, text) == expected[name, text], (place, name)


@pytest.fixture(scope="module")
def server(adapted: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """By a file; its address and its audit log."""
    has("llamacpp")
    root = tmp_path_factory.mktemp("adapters")
    said = {
        "models": [{"name": "home", "source": str(adapted.model("home", "gguf")), "engine": "llamacpp",
                    "adapters": {"a": str(adapted.adapter("a")), "team/b": str(adapted.adapter("b"))}}],
        "aliases": {"short": "team/b"},
    }  # fmt: skip
    (root / "serve.yaml").write_text(json.dumps(said))
    with serving("--config", root / "serve.yaml", "--context", "256", "--audit", root / "audit") as (url, _):
        yield url, root / "audit"


def test_an_adapter_is_a_model_by_name_everywhere(server: tuple[str, Path], adapted: Made) -> None:
    import hashlib

    url, log = server
    names = [one["id"] for one in json.load(urllib.request.urlopen(f"{url}/v1/models", timeout=60))["data"]]
    assert names == ["home", "a", "team/b", "short"]
    expected = merged(adapted, "llamacpp", ASKED[:1])
    assert said(url, "short", ASKED[0]) == said(url, "team/b", ASKED[0]) == expected["b", ASKED[0]]
    assert said(url, "home", ASKED[0]) == expected["home", ASKED[0]]
    chat = {"messages": [{"role": "user", "content": ASKED[0]}], "stream": False}
    ollama = post(url, "/api/chat", model="a", options={"temperature": 0, "num_predict": 48}, **chat)
    assert ollama["message"]["content"] == expected["a", ASKED[0]]
    states = json.load(urllib.request.urlopen(f"{url}/slmops/models", timeout=60))
    assert [(one["name"], one["names"], one["loads"]) for one in states] == [("home", ["a", "home", "short", "team/b"], 1)]
    digest = hashlib.sha256((adapted.adapter("b") / "adapter_model.safetensors").read_bytes()).hexdigest()
    scraped = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
    counted = [line for line in scraped.splitlines() if line.startswith("slmops_requests_total") and '"team/b"' in line]
    assert counted and all(f'model_digest="{digest[:12]}"' in line for line in counted)
    lines = [json.loads(line) for file in sorted(log.rglob("*.jsonl")) for line in file.read_text().splitlines()]
    told = [(one["model"], one["digest"], one["base"]) for one in lines if one["what"] == "asked" and one.get("base")]
    assert ("team/b", f"sha256:{digest}", "home") in told and ("short", f"sha256:{digest}", "home") in told


def test_unloaded_by_one_name_and_back_by_another(server: tuple[str, Path], adapted: Made) -> None:
    url, _ = server
    expected = merged(adapted, "llamacpp", ASKED[:1])
    assert said(url, "a", ASKED[0]) == expected["a", ASKED[0]]
    assert post(url, "/api/generate", model="team/b", keep_alive=0)["done_reason"] == "unload"
    assert said(url, "team/b", ASKED[0]) == expected["b", ASKED[0]]
    assert said(url, "home", ASKED[0]) == expected["home", ASKED[0]]


def test_no_vectors_through_an_adapter(server: tuple[str, Path]) -> None:
    url, _ = server
    assert len(post(url, "/v1/embeddings", model="home", input="light")["data"]) == 1
    refused = post(url, "/v1/embeddings", model="a", input="light")
    assert refused["status"] == 400 and "adapter" in refused["error"]["message"]


def test_what_cannot_be_is_refused_before_anything_is_served(
    adapted: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slmops import cli

    home, a = str(adapted.model("home", "gguf")), f"a={adapted.adapter('a')}"
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    for file in adapted.adapter("a").iterdir():
        (spoiled / file.name).write_bytes(file.read_bytes()[:-7])
    refused = {
        (home, "--adapter", "a=/nowhere"): "there is no folder",
        (home, "--adapter", "a"): "is no adapter",
        (home, "--adapter", a, "--adapter", a): "is no adapter",
        (f"a={home}", "--adapter", a): "a is the name of two things",
        (home, str(adapted.model("home", "onnx")), "--adapter", a): "--adapter is for the one model",
        ("big=https://host.example/v1#big", "--adapter", a): "--adapter is for the one model",
        (home, "--adapter", f"a={spoiled}"): "adapter_",
        (str(adapted.model("home", "openvino")), "--engine", "openvino_paged", "--adapter", a): "--engine openvino can",
        (str(adapted.model("a", "onnx")), "--adapter", a): "--beside",
    }
    for asked, expected in refused.items():
        assert cli.main(["serve", *asked, "--port", "0"]) > 1
        told = capsys.readouterr()
        assert expected in told.err and not told.out, (asked, told)
