"""slmops models search, against catalogues in threads: what is asked, what is kept, what is said when it goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakecatalogues import Catalogue, on_foundry, on_hub, serve
from slmops import catalogues
from slmops.catalogues import Wanted, foundry
from slmops.core.errors import CorruptInput, SourceNotFound, Unreachable, UsageError

B = 10**9


@pytest.fixture
def hub() -> Iterator[Catalogue]:
    entries = [
        on_hub("Qwen/Qwen3-0.6B", 751_632_384, "apache-2.0", 900),
        on_hub("Qwen/Qwen3-4B", 4_022_468_096, "apache-2.0", 700),
        on_hub("Qwen/Qwen3-32B", 32 * B, "apache-2.0", 800),
        on_hub("meta-llama/Llama-3.2-1B", 1_235_814_400, "llama3.2", 600),
        on_hub("someone/qwen3-gguf", None, "apache-2.0", 500),
        on_hub("../../etc/passwd", 1 * B, "apache-2.0", 400),
        on_hub("org/qwen3-embedding", 600_000_000, "apache-2.0", 950, task="feature-extraction"),
    ]
    with serve(entries) as catalogue:
        yield catalogue


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    entries = [
        on_foundry("Phi-4-mini-instruct-generic-cpu", 4_294_967_296, contextLength="131072"),
        on_foundry("qwen2.5-0.5b-instruct-generic-cpu", 527_000_000, "apache-2.0"),
        on_foundry("qwen2.5-1.5b-instruct-cuda-gpu", 1_300_000_000, "apache-2.0", device="gpu"),
        on_foundry("whisper-tiny", 100_000_000, task="automatic-speech-recognition"),
        {"entityId": "no-asset-id", "properties": {"name": "bad-model", "version": 1, "variantInfo": {"parents": []}}},
        {"assetId": 3, "properties": {"name": ["x"]}},
        on_foundry("deepseek-r1-distill-qwen-7b", -5),
    ]
    with serve(entries) as catalogue:
        monkeypatch.setenv("SLMOPS_FOUNDRY", catalogue.url)
        yield catalogue


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps what an endpoint told it: nothing of these may stay in the user's own cache."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


IMPATIENT = "import sys, time; time.sleep = lambda _: None; from slmops import cli; sys.exit(cli.main())"
"""huggingface_hub waits longer and longer before it asks again; nobody's test needs to."""


def search(hub: str, *words: str, code: int = 0, **environment: str) -> Any:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    own = {**os.environ, "HF_ENDPOINT": hub, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "models", "search", *words],
        env=own | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else json.loads(done.stdout) if "--json" in words else done.stdout


def test_the_hub_is_asked_for_what_is_wanted(hub: Catalogue) -> None:
    found = search(hub.url, "qwen3", "--size", "0.5B-4.1B", "--licence", "apache-2.0", "--limit", "5", "--json")
    assert [(one["name"], one["parameters"]) for one in found["models"]] == [
        ("Qwen/Qwen3-0.6B", 751_632_384),
        ("Qwen/Qwen3-4B", 4_022_468_096),
    ]
    assert found["models"][0]["downloads"] == 900 and found["models"][0]["licence"] == "apache-2.0"
    asked = hub.asked[0]
    assert asked["search"] == ["qwen3"] and asked["filter"] == ["license:apache-2.0"] and asked["sort"] == ["downloads"]
    assert asked["pipeline_tag"] == ["text-generation"] and len(hub.asked) == 2
    assert asked.get("num_parameters", ["min:500000000,max:4100000000"]) == ["min:500000000,max:4100000000"]


@pytest.mark.slow
def test_the_answer_has_no_more_than_is_asked_for(hub: Catalogue) -> None:
    said = search(hub.url, "--limit", "2", "--sort", "likes", "--task", "any")
    assert "qwen3-embedding" in said and "Qwen/Qwen3-0.6B" in said and "Qwen3-32B" not in said
    assert hub.asked[0]["limit"] == ["2"] and "pipeline_tag" not in hub.asked[0]
    everything = search(hub.url, "--size", "micro", "--json")["models"]
    assert [one["name"] for one in everything] == ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B"]  # no name that is none
    assert "nothing of that kind" in search(hub.url, "qwen9")


@pytest.mark.slow
def test_a_hub_that_cannot_be_asked(hub: Catalogue) -> None:
    assert "HF_HUB_OFFLINE is set" in search(hub.url, code=3, HF_HUB_OFFLINE="1")
    hub.status = 403
    assert "the Hub answered 403" in search(hub.url, code=3)
    hub.status, hub.body = 200, b"<html>"
    assert "makes no sense" in search(hub.url, code=4)
    hub.body = b'[{"no": "id"}]'
    assert "makes no sense" in search(hub.url, code=4)


@pytest.mark.slow
def test_a_hub_that_is_not_there_or_never_answers(hub: Catalogue) -> None:
    began = time.monotonic()
    hub.status = 503  # which the client asks again, five times
    assert "the Hub answered 503" in search(hub.url, code=16)
    hub.status = 200
    assert "the Hub cannot be reached" in search("http://127.0.0.1:9", code=16)
    script = "from slmops.formats import _hub; _hub.SECONDS = 2.0; from slmops import cli; cli.main(['models', 'search'])"
    own = {**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    hub.wait = 30
    done = subprocess.run([sys.executable, "-c", script], env=own, capture_output=True, text=True, timeout=60)
    assert "did not answer in 2 s" in done.stderr and time.monotonic() - began < 100


def test_foundry_is_asked_as_its_own_client_asks(azure: Catalogue) -> None:
    """RequestFormatMatchesKnownGood and FollowsPagination of azure_catalog_client_test.cc."""
    found = foundry.search(Wanted(task="text-generation", limit=50))
    assert [one.name for one in found] == [
        "Phi-4-mini-instruct-generic-cpu", "deepseek-r1-distill-qwen-7b", "qwen2.5-0.5b-instruct-generic-cpu",
        "qwen2.5-1.5b-instruct-cuda-gpu",
    ]  # fmt: skip
    first, second = azure.asked[0], azure.asked[1]
    assert first["path"] == "/entities/crossRegion" and first["agent"] == "AzureAiStudio"
    assert first["resourceIds"] == [{"resourceId": "azureml", "entityContainerType": "Registry"}]
    asked = first["indexEntitiesRequest"]
    assert asked["pageSize"] == 50 and asked["skip"] is None and asked["continuationToken"] is None
    assert asked["filters"] == [
        {"field": "type", "operator": "eq", "values": ["models"]},
        {"field": "kind", "operator": "eq", "values": ["Versioned"]},
        {"field": "labels", "operator": "eq", "values": ["latest"]},
        {"field": "annotations/tags/foundryLocal", "operator": "eq", "values": [""]},
    ]
    assert (second["indexEntitiesRequest"]["skip"], second["indexEntitiesRequest"]["continuationToken"]) == (2, "token2")
    assert len(azure.asked) == 4
    phi, deepseek = found[0], found[1]
    assert (phi.parameters, phi.bytes, phi.context, phi.licence, phi.device) == (None, 4_294_967_296, 131072, "MIT", "cpu")
    assert deepseek.parameters == 7 * B and deepseek.bytes is None


def test_what_is_wanted_of_foundry(azure: Catalogue) -> None:
    def names(wanted: Wanted) -> list[str]:
        return [one.name for one in foundry.search(wanted)]

    assert names(Wanted(text="QWEN", least=B, most=2 * B)) == ["qwen2.5-1.5b-instruct-cuda-gpu"]
    assert names(Wanted(licence="mit", sort="size", limit=1)) == ["whisper-tiny"]
    assert names(Wanted(task="automatic-speech-recognition")) == ["whisper-tiny"]


@pytest.mark.parametrize(
    "changes, kind, said",
    [
        ({"status": 400}, SourceNotFound, "answered 400"),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:9/"}}, SourceNotFound, "answered 302"),
        ({"body": b"<html>"}, CorruptInput, "no JSON"),
        ({"body": b"[" * 100_000}, CorruptInput, "no JSON"),
        ({"body": b'{"indexEntitiesResponse": {"value": 3}}'}, CorruptInput, "is not one"),
        ({"body": b"[]"}, CorruptInput, "is not one"),
        ({"body": b" " * (17 << 20)}, CorruptInput, "too long"),
    ],
)
def test_a_foundry_that_misbehaves(azure: Catalogue, changes: dict[str, Any], kind: type, said: str) -> None:
    for name, value in changes.items():
        setattr(azure, name, value)
    with pytest.raises(kind, match=said):
        foundry.search(Wanted())


def test_a_foundry_that_goes_on_for_ever_or_is_not_there(azure: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"value": [on_foundry("x", 1)], "nextSkip": 7, "continuationToken": "again"}
    azure.body = json.dumps({"indexEntitiesResponse": one}).encode()
    assert len(foundry.search(Wanted())) == 1 and len(azure.asked) == 2
    monkeypatch.setattr(foundry, "TIMEOUT", 0.3)
    azure.wait = 2
    with pytest.raises(Unreachable, match="cannot be reached"):
        foundry.search(Wanted())
    for url, kind, said in [
        ("http://127.0.0.1:9", Unreachable, "cannot be reached"),
        ("file:///etc", UsageError, "no endpoint"),
        ("http://x", UsageError, "no endpoint"),
    ]:
        monkeypatch.setenv("SLMOPS_FOUNDRY", url)
        with pytest.raises(kind, match=said):
            foundry.search(Wanted())


def test_sizes() -> None:
    assert catalogues.sizes("0.5B-4B") == (500_000_000, 4 * B) and catalogues.sizes("-300M") == (0, 300_000_000)
    assert catalogues.sizes("7b-") == (7 * B, None) and catalogues.sizes("micro") == (100_000_000, 1_400_000_000)
    for text in ("", "-", "big", "4B-1B", "1e99B-", "0.5.5B-"):
        with pytest.raises(UsageError):
            catalogues.sizes(text)


def test_words_that_make_no_sense(tmp_path: Path) -> None:
    assert "--limit 0" in search("", "--limit", "0", code=2)
    assert "no catalogue called 'moon'" in search("", "--source", "moon", code=2)
    assert "foundry has no order by 'likes'" in search("", "--source", "foundry", "--sort", "likes", code=2)
