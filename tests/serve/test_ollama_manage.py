"""Models managed by Ollama's own client: pulled from a Hub, made from Modelfiles' fields, copied, removed."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ociregistry
from conftest import SAMPLE
from fakehub import Hub
from fakehub import serve as serve_hub
from needs import needs
from serve.serving import ANSWER, ASKED, serving

pytestmark = [pytest.mark.slow, needs("ollama", "starlette", "uvicorn", "xllamacpp")]
GREEDY = {"temperature": 0}
TAKEN = (".json", ".safetensors", ".jinja", ".model")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve_hub({"Org/Home-5M": Path(SAMPLE)}) as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    from slmops.registry import Registry, references

    home = tmp_path_factory.mktemp("registry")
    with Registry.open(home) as registry:
        registry.add(made / "gguf", references.named("home:q8"))
    return home


@pytest.fixture(scope="module")
def server(hub: Hub, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMOPS_HOME", str(home))
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        with serving("--context", "256") as (url, _):
            yield url


@pytest.fixture
def client(server: str) -> Any:
    import ollama

    return ollama.Client(server)


def answer(client: Any, model: str, **more: Any) -> Any:
    return json.loads(client.chat(model, ASKED, options=GREEDY, **more).message.content)


def names(client: Any) -> set[str]:
    return {one.model for one in client.list().models}


def test_pulled_compiled_and_served(client: Any, hub: Hub) -> None:
    lines = list(client.pull("hf.co/Org/Home-5M", stream=True))
    assert lines[-1].status == "success" and any(line.total and line.completed for line in lines)
    assert {"org/home-5m:latest", "org/home-5m:source"} <= names(client)
    assert answer(client, "org/home-5m") == ANSWER
    asked = len(hub.asked)
    assert client.pull("Org/Home-5M").status == "success" and client.pull("home:q8").status == "success"
    assert len(hub.asked) == asked


def test_what_cannot_be_pulled(client: Any, made: Path) -> None:
    import ollama

    refused = {"llama3.2": 404, str(made / "gguf"): 400, "file:/etc/passwd": 400, "https://evil.example/x.gguf": 400}
    for name, status in refused.items():
        with pytest.raises(ollama.ResponseError) as caught:
            client.pull(name)
        assert caught.value.status_code == status, name
    with pytest.raises(ollama.ResponseError, match="None"):
        list(client.pull("Org/None", stream=True))


def test_copied_shown_and_removed(client: Any) -> None:
    import ollama

    assert client.copy("home:q8", "copy").status == "success"
    assert answer(client, "copy") == ANSWER and "copy:latest" in names(client)
    listed = {one.model: one for one in client.list().models}
    assert listed["copy:latest"].digest == listed["home:q8"].digest and len(listed["copy:latest"].digest) == 64
    assert listed["copy:latest"].details.quantization_level == "Q8_0"
    assert client.delete("copy").status == "success" and "copy:latest" not in names(client)
    for missing in (lambda: client.delete("copy"), lambda: client.copy("copy", "other"), lambda: client.show("copy")):
        with pytest.raises(ollama.ResponseError) as caught:
            missing()
        assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="no name"):
        client.copy("home:q8", "../../etc/passwd")


@ociregistry.needs_registry
@ociregistry.needs_skopeo
def test_pushed_to_a_real_registry(client: Any, tmp_path: Path) -> None:
    import ollama

    with ociregistry.serve(tmp_path) as running:
        there = f"{running.host}/edge/home:q8"
        assert client.copy("home:q8", there).status == "success"
        lines = list(client.push(there, insecure=True, stream=True))
        assert lines[-1].status == "success" and any(line.total and line.completed for line in lines)
        assert client.push(there, insecure=True).status == "success"  # what is there is not sent again
        raw = ociregistry.skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{there}")
        sizes = sum(one["size"] for one in json.loads(raw)["layers"])
        assert {one.model: one for one in client.list().models}["127.0.0.1/edge/home:q8"].size <= sizes
        # And back from there, under that name.
        for place in (there, f"oci:{there}"):
            client.delete("127.0.0.1/edge/home:q8")
            assert client.pull(place, insecure=True).status == "success"
            assert answer(client, "127.0.0.1/edge/home:q8") == ANSWER
        with pytest.raises(ollama.ResponseError, match=r"home\.invalid"):
            client.push("home.invalid/edge/home:q8")
    for name, said in (("home:q8", "names no registry"), (f"{running.host}/edge/none", "no artifact|not found")):
        with pytest.raises(ollama.ResponseError, match=said) as caught:
            client.push(name, insecure=True)
        assert caught.value.status_code in (400, 404)


def test_created_with_defaults_of_its_own(client: Any, home: Path) -> None:
    before = sum(one.stat().st_size for one in (home / "blobs" / "sha256").iterdir())
    made = client.create(
        "butler",
        from_="home:q8",
        system="You control a house.",
        parameters={"temperature": 0, "stop": ['"arguments"']},
        messages=[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"}],
        license="Of the house.",
    )
    assert made.status == "success"
    whole = client.chat("butler", ASKED)
    assert whole.message.content == '{"tool": "set_light", '  # its stop string, at its temperature
    plain = client.chat("home:q8", ASKED, options=GREEDY)
    assert whole.prompt_eval_count > plain.prompt_eval_count and json.loads(plain.message.content) == ANSWER
    assert json.loads(client.chat("butler", ASKED, options={"stop": []}).message.content) == ANSWER
    shown = client.show("butler")
    assert 'SYSTEM """You control a house."""' in shown.modelfile and "temperature" in shown.parameters
    assert 'MESSAGE user """hello"""' in shown.modelfile
    after = sum(one.stat().st_size for one in (home / "blobs" / "sha256").iterdir())
    assert after - before < 1 << 20  # the weights are there once
    # What is made from it has what it says, but for what is said anew.
    client.create("maid", from_="butler", parameters={"stop": []})
    assert json.loads(client.chat("maid", ASKED).message.content) == ANSWER
    assert "You control a house." in client.show("maid").modelfile
    # And what was made before stays what it was.
    assert json.loads(client.chat("home:q8", ASKED, options=GREEDY).message.content) == ANSWER


def test_created_with_a_template_of_ollamas(client: Any) -> None:
    import ollama

    template = client.show("home:q8").template
    go = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    client.create("templated", from_="home:q8", template=go)
    assert answer(client, "templated") == ANSWER and client.show("templated").template != template
    with pytest.raises(ollama.ResponseError, match=r"Tools.*leave TEMPLATE out"):
        client.create("refused", from_="home:q8", template="{{ range .Messages }}{{ end }}{{ range .Tools }}{{ end }}")
    assert "refused:latest" not in names(client)


def test_created_from_blobs_and_quantized(client: Any, made: Path, tmp_path: Path) -> None:
    import ollama

    file = made / "gguf" / "model.gguf"
    digest = client.create_blob(file)
    assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    client.create("mine", files={"home.gguf": digest})
    assert answer(client, "mine") == ANSWER
    # A checkpoint, whose weights are quantized as it is made.
    folder = tmp_path / "checkpoint"
    shutil.copytree(SAMPLE, folder)
    files = {path.name: client.create_blob(path) for path in folder.iterdir() if path.suffix in TAKEN}
    lines = list(client.create("small", files=files, quantize="q4_K_M", stream=True))
    assert lines[-1].status == "success"
    assert answer(client, "small") == ANSWER
    small = {one.model: one for one in client.list().models}["small:latest"]
    assert small.details.quantization_level == "Q4_K_M" and small.size < file.stat().st_size
    missing: dict[str, object] = {"files": {"x.gguf": "sha256:" + "0" * 64}}
    for wrong in (missing, {"quantize": "q9_z"}, {"files": {"../x": digest}}, {"from_": "none"}):
        with pytest.raises(ollama.ResponseError):
            client.create("wrong", **{"from_": None if "files" in wrong else "home:q8", **wrong})
    assert "wrong:latest" not in names(client)


def test_blobs_are_what_they_claim(server: str, home: Path) -> None:
    def sent(method: str, digest: str, body: bytes | None = None) -> int:
        request = urllib.request.Request(f"{server}/api/blobs/{digest}", body, method=method)
        try:
            return int(urllib.request.urlopen(request, timeout=60).status)
        except urllib.error.HTTPError as error:
            return error.code

    body = b"x" * (3 << 20)
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert sent("HEAD", digest) == 404
    assert sent("POST", digest, body[:-1]) == 400 and sent("HEAD", digest) == 404
    assert sent("POST", digest, body) == 201 and sent("HEAD", digest) == 200 and sent("POST", digest, body) == 200
    for wrong in ("sha256:..%2F..%2Fx", "sha256:" + "0" * 63, "SHA256:" + "0" * 64, "md5:" + "0" * 32, digest.upper()):
        assert sent("POST", wrong, b"x") in (400, 404), wrong
    assert not list((home / "scratch").iterdir())


def test_without_a_registry_nothing_is_managed(made: Path) -> None:
    import ollama

    with serving(f"home={made / 'gguf'}") as (url, _):
        client = ollama.Client(url)
        for ask in (lambda: client.pull("Org/Home-5M"), lambda: client.delete("home"), lambda: client.copy("home", "x")):
            with pytest.raises(ollama.ResponseError, match="--registry") as caught:
                ask()
            assert caught.value.status_code == 403
