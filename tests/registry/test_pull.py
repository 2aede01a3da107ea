"""models pull: a Hub in a thread that the real huggingface_hub talks to; kills, cuts, lies, two at once, gc meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import write_toy
from fakehub import COMMIT, TOKEN, Hub, serve
from faultserver import Asked, Reply
from faultserver import serve as serve_http
from filed import artifact
from slmops import compile as compiler
from slmops import load
from slmops.registry import Registry, archive, fsck, manifest
from slmops.registry.references import named

Toy = Callable[..., Path]
WIDE = {"vocab_size": 20_000}
"""Weights of some megabytes, so that there is time to break something."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as repositories are: with code, pickles and another copy beside it."""
    folder = write_toy("qwen3", tmp_path_factory.mktemp("plain") / "Tiny-0.5B", **WIDE)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "modeling_tiny.py").write_text("import os\n")
    (folder / "pytorch_model.bin").write_bytes(b"pickle" * 1000)
    (folder / "consolidated.safetensors").write_bytes(b"another copy")
    (folder / "trainer_state.json").write_text("{}")
    (folder / ".gitattributes").write_text("*.bin lfs\n")
    return folder


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of GGUF files: two kinds, one of them once more in several files, cut by ggml's own library."""
    out = tmp_path_factory.mktemp("quantized")
    model = load(write_toy("qwen3", out / "toy"))
    folder = out / "Tiny-GGUF"
    folder.mkdir()
    for scheme, kind in (("q4", "Q4_0"), ("q8", "Q8_0")):
        (made,) = compiler.convert(model, ["gguf"], scheme, out / scheme, verify=False)
        shutil.copyfile(made.folder / "model.gguf", folder / f"tiny-{kind}.gguf")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "mmproj-F16.gguf").write_bytes(b"GGUF, of pictures")
    return folder


@pytest.fixture
def hub(plain: Path, quantized: Path, tmp_path: Path) -> Iterator[Hub]:
    with serve({"org/Tiny-0.5B": plain, "org/Tiny-GGUF": quantized}) as hub:
        yield hub


def start(hub: Hub | None, home: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "SLMOPS"))}
    own |= {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "SLMOPS_HOME": str(home)}
    own |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "slmops", "models", *map(str, words)]
    return subprocess.Popen(command, env=own | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ask(hub: Hub | None, home: Path, *words: object, code: int = 0, **environment: str) -> dict[str, Any]:
    """What a sub-verb says as JSON; of an error, what it says to people."""
    child = start(hub, home, *words, "--json", **environment)
    out, error = child.communicate(timeout=120)
    assert child.returncode == code and "Traceback" not in error, error
    found: dict[str, Any] = json.loads(out) if out else {"error": error}
    return found


def resolved(hub: Hub) -> list[str]:
    """Files that were downloaded, by name."""
    return [path.rpartition("/")[2] for method, path, _, _ in hub.asked if method == "GET" and "/resolve/" in path]


def sound(home: Path) -> None:
    checked = fsck.check(home)
    assert not checked.problems, checked.problems
    left = list((home / "partial").glob("*")) if (home / "partial").exists() else []
    assert not left


def held(home: Path, name: str) -> dict[str, str]:
    """File -> sha256 of its content."""
    with Registry.open(home) as registry:
        folder = registry.place(registry.resolve(name))
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }


def test_a_checkpoint_comes_with_what_belongs_to_it_and_comes_once(hub: Hub, plain: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = ask(hub, home, "pull", "org/Tiny-0.5B")
    assert found["names"] == ["tiny-0.5b:huggingface-bf16"]
    assert "modeling_tiny.py" in found["notes"][0] and "pytorch_model.bin" in found["notes"][0]
    files = held(home, "tiny-0.5b")
    assert set(files) == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert all(hashlib.sha256((plain / name).read_bytes()).hexdigest() == digest for name, digest in files.items())
    assert set(resolved(hub)) == set(files)
    with Registry.open(home) as registry:
        about = registry.manifest(registry.resolve("tiny-0.5b"))
        config = registry.document(about.config)
        ((_, origin),) = registry.attached("origin")
    assert origin["source"] == f"hf:org/Tiny-0.5B@{COMMIT}"
    assert config["descriptor"]["licenses"] == ["Apache-2.0"] and config["descriptor"]["revision"] == COMMIT
    assert (config["config"]["format"], config["config"]["precision"]) == ("huggingface", "bfloat16")
    before = len(resolved(hub))
    again = ask(hub, home, "pull", "hf:org/Tiny-0.5B@main", "--name", "other:v1")
    assert again["artifacts"] == found["artifacts"] and again["new"] == 0 and len(resolved(hub)) == before
    sound(home)


@pytest.mark.slow
def test_weights_of_a_repository_of_many_are_chosen_by_variant(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    said = ask(hub, home, "pull", "org/Tiny-GGUF", code=2)["error"]
    assert "Q4_0" in said and "Q8_0" in said and "kB" in said and "--variant" in said and "mmproj" not in said
    assert not resolved(hub)
    found = ask(hub, home, "pull", "org/Tiny-GGUF", "--variant", "q8_0")
    assert found["names"] == ["tiny:gguf-q8-0"] and set(held(home, "tiny")) == {"tiny-Q8_0.gguf", "README.md"}
    ask(hub, home, "pull", "org/Tiny-GGUF", "--include", "*Q4_0*", "--name", "four")
    assert "tiny-Q4_0.gguf" in held(home, "four")
    before = len(resolved(hub))
    assert "four:latest is" in ask(hub, home, "pull", "org/Tiny-0.5B", "--name", "four", code=12)["error"]
    assert len(resolved(hub)) == before
    assert "no q2_k" in ask(hub, home, "pull", "org/Tiny-GGUF", "--variant", "q2_k", code=2)["error"].lower()
    assert "match" in ask(hub, home, "pull", "org/Tiny-GGUF", "--include", "*.onnx", code=3)["error"]


@pytest.mark.slow
def test_a_killed_pull_goes_on_where_it_was(hub: Hub, plain: Path, tmp_path: Path) -> None:
    home, size = tmp_path / "home", (plain / "model.safetensors").stat().st_size
    hub.slow = 0.02
    child = start(hub, home, "pull", "org/Tiny-0.5B")
    partial = home / "partial" / f"sha256-{hashlib.sha256((plain / 'model.safetensors').read_bytes()).hexdigest()}"
    wait(lambda: partial.exists() and partial.stat().st_size > size // 4)
    child.kill()
    child.communicate(timeout=60)
    came = partial.stat().st_size
    assert fsck.check(home).sound
    with Registry.open(home) as registry:
        assert not registry.rows()
    hub.slow = 0
    hub.asked.clear()
    found = ask(hub, home, "pull", "org/Tiny-0.5B")
    assert found["artifacts"]
    ranges = [asked for _, path, asked, _ in hub.asked if path.endswith("model.safetensors")]
    assert ranges == [f"bytes={came}-"]
    assert set(resolved(hub)) == {"model.safetensors"}  # the small files were blobs already
    ask(None, home, "gc")
    sound(home)


@pytest.mark.slow
def test_cuts_and_a_busy_server_are_outlived(hub: Hub, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = 300_000
    hub.fails = {"model.safetensors": [503, 429], "config.json": [500]}
    assert ask(hub, tmp_path / "home", "pull", "org/Tiny-0.5B")["artifacts"]
    ranges = [asked for method, path, asked, _ in hub.asked if method == "GET" and path.endswith("model.safetensors")]
    assert ranges[-1] == "bytes=300000-"
    sound(tmp_path / "home")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_bytes_that_are_not_what_the_tree_says_get_no_name(file: str, hub: Hub, tmp_path: Path) -> None:
    hub.wrong.add(file)
    home = tmp_path / "home"
    assert "not what they claim" in ask(hub, home, "pull", "org/Tiny-0.5B", code=4)["error"]
    with Registry.open(home) as registry:
        assert not registry.rows()
    hub.wrong.clear()
    assert ask(hub, home, "pull", "org/Tiny-0.5B")["artifacts"]
    sound(home)


@pytest.mark.slow
def test_a_partial_that_was_spoilt_is_fetched_anew(hub: Hub, plain: Path, tmp_path: Path) -> None:
    content = (plain / "model.safetensors").read_bytes()
    partial = tmp_path / "home" / "partial" / f"sha256-{hashlib.sha256(content).hexdigest()}"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(100_000))
    assert ask(hub, tmp_path / "home", "pull", "org/Tiny-0.5B")["artifacts"]
    sound(tmp_path / "home")


@pytest.mark.slow
def test_the_token_goes_to_the_hub_and_to_nobody_else(hub: Hub, plain: Path, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(200, {}, (plain / asked.path.rpartition("/")[2]).read_bytes())

    with serve_http(answer) as elsewhere:
        hub.elsewhere = elsewhere.url.replace("127.0.0.1", "localhost")
        hub.private.add("org/Tiny-0.5B")
        refused = ask(hub, tmp_path / "home", "pull", "org/Tiny-0.5B", code=3)["error"]
        assert "hf auth login" in refused
        assert ask(hub, tmp_path / "home", "pull", "org/Tiny-0.5B", HF_TOKEN=TOKEN)["artifacts"]
        assert elsewhere.asked and not any("authorization" in one.headers for one in elsewhere.asked)


@pytest.mark.slow
def test_what_is_said_where_nothing_comes(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hub.gated.add("org/Tiny-0.5B")
    assert "gated" in ask(hub, home, "pull", "org/Tiny-0.5B", code=3)["error"]
    assert not resolved(hub)
    assert ask(hub, home, "pull", "org/Tiny-GGUF", "--variant", "Q4_0")["artifacts"]
    offline = ask(hub, home, "pull", "org/Tiny-GGUF", code=3, HF_HUB_OFFLINE="1")["error"]
    assert "HF_HUB_OFFLINE" in offline and "tiny:gguf-q4-0" in offline
    assert "cannot be reached" in ask(None, home, "pull", "org/other", code=16)["error"]
    assert "no revision" in ask(hub, home, "pull", "org/Tiny-GGUF", "--revision", "v9", code=3)["error"]
    assert "leave the option out" in ask(hub, home, "pull", "org/Tiny-GGUF", "--unverified", code=2)["error"]
    assert "cannot be pulled" in ask(hub, home, "pull", "s3://bucket/x", code=2)["error"]
    (home / "policy.yaml").write_text("sources: ['hf:good/*']\n")
    before = len(hub.asked)
    assert "nothing may come from" in ask(hub, home, "pull", "org/Tiny-GGUF", code=15)["error"]
    (home / "policy.yaml").write_text("most_bytes: 1kB\n")
    assert "allowed" in ask(hub, home, "pull", "org/Tiny-GGUF", "--variant", "Q8_0", code=15)["error"]
    assert "tiny-Q8_0.gguf" not in resolved(hub) and len(hub.asked) > before


@pytest.mark.slow
def test_a_policy_is_asked_before_weights_come(hub: Hub, plain: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    policy = home / "policy.yaml"
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", home / "ec.pem"], check=True, timeout=60
    )
    subprocess.run(["openssl", "ec", "-in", home / "ec.pem", "-pubout", "-out", home / "ec.pub"], check=True, timeout=60)
    policy.write_text("require_signature: [{sources: ['hf:*', 'file:*'], keys: [ec.pub]}]\n")
    assert "no signature" in ask(hub, home, "pull", "org/Tiny-0.5B", code=15)["error"]
    assert "no signature" in ask(hub, home, "pull", plain, code=15)["error"]
    policy.write_text("licences: {deny: [Apache-2.0]}\n")
    assert "licences.deny" in ask(hub, home, "pull", "org/Tiny-0.5B", code=15)["error"]
    policy.write_text(f"most_bytes: {(plain / 'model.safetensors').stat().st_size - 1}\n")
    assert "most_bytes" in ask(hub, home, "pull", "org/Tiny-0.5B", code=15)["error"]
    assert "model.safetensors" not in resolved(hub)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_hugging_faces_cache_is_used_where_it_is_sound(damaged: bool, hub: Hub, plain: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    fetch = "from huggingface_hub import hf_hub_download as get; print(get('org/Tiny-0.5B', 'model.safetensors'))"
    own = {**os.environ, "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    cached = Path(
        subprocess.run(
            [sys.executable, "-c", fetch], env=own, capture_output=True, text=True, check=True, timeout=60
        ).stdout[:-1]
    )
    if damaged:
        content = bytearray(cached.read_bytes())
        content[-1] ^= 1
        cached.resolve().write_bytes(content)
    hub.asked.clear()
    ask(hub, home, "pull", "org/Tiny-0.5B")
    assert ("model.safetensors" in resolved(hub)) == damaged
    assert (
        held(home, "tiny-0.5b")["model.safetensors"]
        == hashlib.sha256((plain / "model.safetensors").read_bytes()).hexdigest()
    )


@pytest.mark.slow
def test_what_cannot_be_read_is_refused_before_its_weights_come(hub: Hub, plain: Path, tmp_path: Path) -> None:
    for name, config in (
        ("foreign", {"model_type": "t5"}),
        ("coded", {"auto_map": {"AutoModel": "modeling_tiny.TinyModel"}}),
    ):
        folder = tmp_path / name
        shutil.copytree(plain, folder)
        (folder / "config.json").write_text(json.dumps(json.loads((plain / "config.json").read_text()) | config))
        hub.repos[f"org/{name}"] = folder
    ask(hub, tmp_path / "home", "pull", "org/foreign", code=5)
    assert "remote code" in ask(hub, tmp_path / "home", "pull", "org/coded", code=6)["error"]
    pickled = tmp_path / "pickled"
    shutil.copytree(plain, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    hub.repos["org/pickled"] = pickled
    assert "pickle" in ask(hub, tmp_path / "home", "pull", "org/pickled", code=6)["error"]
    assert "model.safetensors" not in resolved(hub) and "pytorch_model.bin" not in resolved(hub)


@pytest.mark.slow
def test_two_pull_the_same_at_once(hub: Hub, plain: Path, tmp_path: Path) -> None:
    home, size = tmp_path / "home", (plain / "model.safetensors").stat().st_size
    hub.slow = 0.01
    both = [start(hub, home, "pull", "org/Tiny-0.5B", "--json") for _ in range(2)]
    said = [child.communicate(timeout=120) for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    assert json.loads(said[0][0])["artifacts"] == json.loads(said[1][0])["artifacts"]
    assert hub.sent("model.safetensors") == size
    sound(home)


@pytest.mark.slow
def test_gc_spares_a_pull_in_progress_and_sweeps_what_a_dead_one_left(hub: Hub, plain: Path, tmp_path: Path) -> None:
    home, size = tmp_path / "home", (plain / "model.safetensors").stat().st_size
    hub.slow = 0.02
    child = start(hub, home, "pull", "org/Tiny-0.5B")
    partial = home / "partial" / f"sha256-{hashlib.sha256((plain / 'model.safetensors').read_bytes()).hexdigest()}"
    wait(lambda: partial.exists() and partial.stat().st_size > size // 10)
    while child.poll() is None:
        assert ask(None, home, "gc", "--grace", "0s")["blobs"] == 0
    assert child.wait(60) == 0, child.communicate(timeout=60)
    sound(home)
    hub.repos["org/again"] = plain
    ask(None, home, "rm", "tiny-0.5b")
    ask(None, home, "gc", "--grace", "0s")
    child = start(hub, home, "pull", "org/again")
    wait(lambda: partial.exists() and partial.stat().st_size > size // 10)
    child.kill()
    child.communicate(timeout=60)
    ask(None, home, "gc")
    assert partial.exists()
    ask(None, home, "gc", "--grace", "0s")
    sound(home)


def wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until, "it did not come so far"
        time.sleep(0.01)


@pytest.mark.slow
def test_repair_fetches_again_what_can_be(hub: Hub, plain: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    ask(hub, home, "pull", "org/Tiny-0.5B")
    with Registry.open(home) as registry:
        registry.add(artifact(tmp_path / "ours"), named("ours"))
        places = {
            layer.path: registry.blobs.path(layer.blob.digest)
            for name in ("ours", "tiny-0.5b")
            for layer in registry.manifest(registry.resolve(name)).layers
        }
    places["tokenizer_config.json"].unlink()
    for name in ("model.safetensors", "model.gguf"):
        places[name].chmod(0o644)
        content = bytearray(places[name].read_bytes())
        content[len(content) // 2] ^= 1
        places[name].write_bytes(content)
    said = ask(hub, home, "fsck", "--repair", code=4)
    repaired = {one["lost"]: one["repaired"] for one in said["problems"] if one["lost"]}
    assert repaired == {
        f"sha256:{places['model.safetensors'].name}": True,
        f"sha256:{places['tokenizer_config.json'].name}": True,
        f"sha256:{places['model.gguf'].name}": False,
    }
    assert any("nothing tells where" in one["said"] for one in said["problems"])
    assert held(home, "tiny-0.5b")["model.safetensors"] == places["model.safetensors"].name
    with Registry.open(home) as registry:
        registry.add(tmp_path / "ours", named("ours"))
    assert fsck.check(home).sound


# The web, and this machine


def site(folder: Path) -> Callable[[Asked], Reply]:
    def answer(asked: Asked) -> Reply:
        path = folder / asked.path.lstrip("/")
        if not path.is_file():
            return Reply(404)
        content, begin = path.read_bytes(), 0
        if (wanted := asked.headers.get("range", "")).startswith("bytes="):
            begin = int(wanted[6:].rstrip("-"))
            headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
            return Reply(206, headers, content[begin:])
        return Reply(200, {}, content)

    return answer


@pytest.mark.slow
def test_folders_and_files_of_a_web_server(plain: Path, quantized: Path, tmp_path: Path) -> None:
    web, home = tmp_path / "web", tmp_path / "home"
    shutil.copytree(plain, web / "tiny")
    sums = subprocess.run(
        "sha256sum *", shell=True, cwd=web / "tiny", capture_output=True, text=True, check=True, timeout=60
    ).stdout
    (web / "tiny" / "SHA256SUMS").write_text(sums)
    shutil.copyfile(quantized / "tiny-Q4_0.gguf", web / "q4.gguf")
    digest = hashlib.sha256((web / "q4.gguf").read_bytes()).hexdigest()
    with Registry.open(tmp_path / "other") as registry:
        made = registry.add(artifact(tmp_path / "made"), named("made:v1"))
        archive.send(registry, [made], web / "layout")
    with serve_http(site(web)) as server:
        assert ask(None, home, "pull", f"{server.url}/tiny/")["names"] == ["tiny:huggingface-bf16"]
        assert set(held(home, "tiny")) & {"modeling_tiny.py", "pytorch_model.bin"} == set()
        assert ask(None, home, "pull", f"{server.url}/layout/")["artifacts"] == [made]
        assert "--unverified" in ask(None, home, "pull", f"{server.url}/q4.gguf", code=2)["error"]
        wrong = f"{server.url}/q4.gguf#sha256={'0' * 64}"
        assert "not what they claim" in ask(None, home, "pull", wrong, code=4)["error"]
        pinned = ask(None, home, "pull", f"{server.url}/q4.gguf#sha256={digest}", "--name", "q4")
        taken = ask(None, home, "pull", f"{server.url}/q4.gguf", "--unverified", "--name", "q4")
        assert taken["artifacts"] == pinned["artifacts"]
        assert "neither" in ask(None, home, "pull", f"{server.url}/", code=3)["error"]
        assert "slash" in ask(None, home, "pull", f"{server.url}/tiny", code=6)["error"]
        with Registry.open(home) as registry:
            lost = [registry.manifest(registry.resolve(name)).layers for name in ("q4", "tiny", "made:v1")]
            for layers in lost:
                registry.blobs.path(layers[-1].blob.digest).unlink()
        assert len([one for one in ask(None, home, "fsck", "--repair")["problems"] if one["lost"]]) == 3
        (web / "tiny" / "SHA256SUMS").write_text(sums.replace(sums[:64], "0" * 64, 1))
        ask(None, home, "pull", f"{server.url}/tiny/", "--name", "x", code=4)
        (web / "tiny" / "SHA256SUMS").write_text(f"{'0' * 64}  ../../etc/passwd.json\n" + sums)
        ask(None, home, "pull", f"{server.url}/tiny/", "--name", "x")
        assert not any(".." in one.path for one in server.asked)
    assert "not encrypted" in ask(None, home, "pull", "http://192.0.2.1/tiny/", code=2)["error"]
    sound(home)


@pytest.mark.slow
def test_what_is_on_this_machine(plain: Path, quantized: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Registry.open(tmp_path / "other") as registry:
        made = registry.add(artifact(tmp_path / "made"), named("made:v1"))
        archive.send(registry, [made], tmp_path / "made.tar")
    assert ask(None, home, "pull", tmp_path / "made.tar")["names"] == ["made:v1"]
    assert ask(None, home, "pull", tmp_path / "other", "--name", "again")["artifacts"] == [made]
    assert ask(None, home, "pull", plain)["names"] == ["tiny-0.5b:huggingface-bf16"]
    assert ask(None, home, "pull", quantized / "tiny-Q8_0.gguf", "--name", "q8")["new"] > 0
    assert ask(None, home, "add", quantized / "tiny-Q8_0.gguf", "--name", "q8")["notes"] == []
    assert "2 models" in ask(None, home, "add", quantized, code=2)["error"]
    sound(home)


def test_a_manifest_of_what_others_made(plain: Path, quantized: Path, tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        digest = registry.add(quantized / "tiny-Q4_0.gguf", named("q4"))
        found = registry.manifest(digest)
        config = registry.document(found.config)
        assert [layer.path for layer in found.layers] == ["tiny-Q4_0.gguf"] and found.ours("verified") != "true"
        assert config["config"]["quantization"] == "q4_0" and config["config"]["format"] == "gguf"
        assert registry.add(quantized / "tiny-Q4_0.gguf", named("q4")) == digest
        assert manifest.inputs(found) == []
