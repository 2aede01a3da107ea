"""Which models are loaded when: names and aliases that move, memory, keep-alive, pins, faults; on real engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from needs import needs
from serve.serving import ANSWER, ASKED
from slmops.core.errors import Busy, CorruptInput, EngineFailed, SlmopsError, SourceNotFound, Unsupported, UsageError
from slmops.engines import Options, Sampling

pytestmark = needs("starlette", "xllamacpp", "onnxruntime_genai")

SMALL = Options(context=256)


@pytest.fixture(scope="module")
def home(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the sample in three formats: home:gguf, home:onnx and home:openvino."""
    from slmops.registry import Registry
    from slmops.registry.references import Reference

    root = tmp_path_factory.mktemp("registry")
    with Registry.open(root) as registry:
        for form in ("gguf", "onnx", "openvino"):
            registry.add(made / form, Reference("home", form))
    return root


def tag(root: Path, name: str, new: str) -> None:
    from slmops.registry import Registry, references

    with Registry.open(root) as registry:
        registry.tag(name, references.named(new), replace=True)


@contextlib.contextmanager
def models(names: Any, budget: int | None = None, **more: bool) -> Iterator[Any]:
    from slmops.serve.models import Models

    found = Models(names, budget, **more)
    try:
        yield found
    finally:
        found.close()


def entry(name: str, source: Path | str = "", **more: Any) -> Any:
    from slmops.serve.names import Entry

    return replace(Entry(name, source or name, None, SMALL, 8), **more)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A server's loop, on a thread of its own: models belong to one."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def ask(loop: asyncio.AbstractEventLoop) -> Callable[..., tuple[str, Any]]:
    """Text of the answer, and the outcome. Raises what the request raised."""
    from slmops.serve.desk import Desk
    from slmops.serve.request import Caller, Ended, Piece, Request

    async def asked(found: Any, name: str, most: int) -> tuple[str, Any]:
        request = Request(name, tuple(ASKED), None, Sampling(max_tokens=most))
        answer = await Desk(found).ask(request, Caller())
        text = ""
        while not isinstance(event := await answer.next(60), Ended):
            assert event is not None
            text += event.text if isinstance(event, Piece) else ""
        return text, answer.outcome

    def waited(found: Any, name: str, most: int = 64) -> tuple[str, Any]:
        return asyncio.run_coroutine_threadsafe(asked(found, name, most), loop).result(120)

    return waited


Ask = Callable[..., tuple[str, Any]]


OTHERS: list[psutil.Process] = []
"""Workers that other tests of this process keep for themselves."""


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a native llama-server taken, where there is one: these tests name the engine that they expect."""
    from slmops.engines import llamaserver

    monkeypatch.setattr(llamaserver, "installed", lambda: None)
    OTHERS.clear()
    OTHERS.extend(workers())


def workers() -> list[psutil.Process]:
    """Those that the test started."""
    found = [one for one in psutil.Process().children(recursive=True) if "_worker" in " ".join(one.cmdline())]
    return [one for one in found if one not in OTHERS]


def within(seconds: float, true: Callable[[], Any]) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_names_lead_where_the_registry_says_now(home: Path) -> None:
    from slmops.serve.names import Names

    aliases = {"production": "mine", "canary": "home:gguf"}
    names = Names([entry("mine", "home:onnx")], aliases, entry(""), home)
    try:
        assert names.find("mine").digest == names.find("home:onnx").digest == names.find("production").digest
        assert names.find("production").name == "production" and names.find("production").release == "stable"
        assert names.find("canary").release == "canary" and names.find("mine:latest") == names.find("mine")
        digest = names.find("home:gguf").digest
        assert names.find(digest[:19]).digest == names.find(digest).digest == digest
        assert names.find(digest[:25]).name == names.find(digest).name  # one name for all ways to write it
        assert names.known("home:gguf") == names.find("home:gguf") and names.known("never asked") is None
        tag(home, "home:gguf", "moving:live")
        assert names.known("home:gguf") is None  # something has changed: looked up again
        assert names.find("moving").digest == digest and names.find("moving").name == "moving:live"
        tag(home, "home:onnx", "moving:live")
        assert names.find("moving").digest == names.find("home:onnx").digest
        assert set(names.listed()) == {
            "mine",
            "production",
            "canary",
            "home:gguf",
            "home:onnx",
            "home:openvino",
            "moving:live",
        }
        for hostile in (
            "none",
            "home:none",
            "home",
            "../home",
            "home:gguf\n",
            "sha256:",
            "sha256:" + "0" * 64,
            "A" * 300,
            "",
            "%2e",
        ):
            with pytest.raises(SourceNotFound, match="is served here"):
                names.find(hostile)
    finally:
        names.close()
    with pytest.raises(UsageError, match="two things"):
        Names([entry("a"), entry("a")], root=home)
    with pytest.raises(UsageError, match="alias of b"):
        Names([entry("a")], {"x": "b"}, root=home)
    only = Names([entry("home:onnx")], root=home)
    with pytest.raises(SourceNotFound, match="home:gguf"):
        only.find("home:gguf")
    only.close()


@pytest.mark.slow
def test_memory_is_made_by_the_least_recently_used_never_by_one_at_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    from slmops.serve import models as room_of
    from slmops.serve.names import Names

    names = Names([], {}, entry(""), home)
    forms = ("gguf", "onnx", "openvino")
    with models(names, 1 << 40) as found:
        for form in forms:
            found.get(f"home:{form}")
        needs = {one.target.name.split(":")[1]: one.need.total for one in found._held.values()}
    budget = sum(needs.values()) - min(needs.values()) // 2
    # All three are never in memory together, whatever they were measured to take: any two are.
    names = Names([], {}, entry(""), home)
    monkeypatch.setattr(room_of, "WAIT", 1.0)
    with models(names, budget) as found:
        for form in ("gguf", "onnx"):
            assert json.loads(ask(found, f"home:{form}")[0]) == ANSWER
        held = {one.name: one for one in found.states() if one.loaded}
        assert set(held) == {"home:gguf", "home:onnx"}
        for one in held.values():
            assert 0.5 < one.expected / needs[one.format] < 2 and one.memory > 30e6
        found.budget = sum(one.expected for one in held.values()) + needs["openvino"] - 1
        assert json.loads(ask(found, "home:openvino")[0]) == ANSWER
        assert {one.name for one in found.states() if one.loaded} == {"home:onnx", "home:openvino"}
        assert found.counted["evictions", "home:gguf", "memory"] == 1
        assert len(workers()) == 2
        found.budget = sum(one.expected for one in found.states()) + (1 << 20)
        # Both at work: who comes waits, then is told to come again; nobody's answer is cut.
        ended: list[str] = []
        for one in workers():
            one.suspend()
        asking = [
            threading.Thread(target=lambda name=name: ended.append(ask(found, name)[0]), daemon=True)
            for name in ("home:onnx", "home:openvino")
        ]
        for one in asking:
            one.start()
        assert within(10, lambda: all(one.running for one in found.states() if one.loaded))
        with pytest.raises(Busy, match="at work or pinned") as caught:
            ask(found, "home:gguf")
        assert caught.value.cause == "memory"
        for one in workers():
            one.resume()
        for one in asking:
            one.join(60)
            assert not one.is_alive()
        assert [json.loads(str(one)) for one in ended] == [ANSWER, ANSWER]
        time.sleep(0.6)  # what waited beside the one that was told is told the same
        assert json.loads(ask(found, "home:gguf")[0]) == ANSWER
        found.budget = 10 << 20
        with pytest.raises(Unsupported, match=r"needs .* \(weights .*, KV cache .*, engine .*models may take 10.5 MB"):
            loaded = {one.name for one in found.states() if one.loaded}
            ask(found, "home:onnx" if "home:onnx" not in loaded else "home:openvino")
    assert within(5, lambda: not workers())


@pytest.mark.slow
def test_a_tag_moves_without_a_dropped_request(home: Path, ask: Ask) -> None:
    """Requests all the while; each is answered, by the old version until the new one is loaded, then by the new one."""
    from slmops.serve.names import Names

    tag(home, "home:gguf", "live:now")
    names = Names([entry("live:now", pin=True), entry("other", "home:gguf")], {"prod": "live:now"}, root=home)
    with models(names) as found:
        found.start()
        assert found.missing() and within(20, lambda: not found.missing())
        assert ask(found, "prod")[1].served.engine == "llamacpp"
        assert len(workers()) == 1  # three names, one worker
        seen, going = list[tuple[str, float]](), threading.Event()  # (engine, when it answered)

        def stream() -> None:
            while not going.is_set():
                text, outcome = ask(found, "prod")
                assert json.loads(text) == ANSWER
                seen.append((outcome.served.engine, time.time()))

        asking = [threading.Thread(target=stream, daemon=True) for _ in range(3)]
        for one in asking:
            one.start()
        time.sleep(0.3)
        moved = time.time()
        tag(home, "home:onnx", "live:now")
        assert within(20, lambda: [engine for engine, _ in seen[-4:]] == ["onnxruntime"] * 4)
        going.set()
        for one in asking:
            one.join(60)
            assert not one.is_alive()
        engines = [engine for engine, _ in seen]
        # Each of the three may have had one in flight on the old one when the first came of the new.
        first = engines.index("onnxruntime")
        assert "llamacpp" in engines[:first] and engines[first:].count("llamacpp") <= 3
        assert ask(found, "prod")[1].served.engine == "onnxruntime"
        # The new one was loaded beside the old one, which answered meanwhile: nobody waited for it.
        ready = next(one.since for one in found.states() if one.engine == "onnxruntime")
        assert any(moved < at < ready for engine, at in seen if engine == "llamacpp")
        assert within(10, lambda: [one.engine for one in found.states() if one.pinned] == ["onnxruntime"])


@pytest.mark.slow
def test_keep_alive_unload_and_what_is_loaded_is_not_collected(home: Path, ask: Ask) -> None:
    from slmops.registry import Registry, gc
    from slmops.registry.references import Reference
    from slmops.serve.names import Names

    with Registry.open(home) as registry:
        digest = registry.tag("home:openvino", Reference("leaving", "it"))
        registry.remove("home:openvino")
    names = Names([entry("leaving", keep_alive=None), entry("home:gguf", keep_alive=0.5)], root=home)
    with models(names) as found:
        assert json.loads(ask(found, "leaving")[0]) == ANSWER
        folder = found.get("leaving").artifact.folder
        with Registry.open(home) as registry:
            registry.remove("leaving:it")
            assert digest in gc.sweep(registry, 0.0).leased and folder.exists()
        assert within(5, lambda: not list(folder.glob("gone"))) and len(workers()) == 1
        with pytest.raises(SourceNotFound):
            found.get("leaving")  # no name leads there any more; the worker goes with its keep-alive
        ask(found, "home:gguf", most=2)
        assert within(8, lambda: "home:gguf" not in {one.name for one in found.states()})
        assert found.load("home:gguf") and not found.load("home:gguf")
        found.keep("home:gguf", None)
        time.sleep(2)
        assert [one.expires for one in found.states() if one.name == "home:gguf" and one.loaded] == [None]
        assert found.unload("home:gguf") and not found.unload("home:gguf")
        found.load("home:gguf")
        found.keep("home:gguf", 0)
        assert within(5, lambda: not any(one.name == "home:gguf" for one in found.states()))
    with Registry.open(home) as registry:
        registry.add(folder, Reference("home", "openvino"))


@pytest.mark.slow
def test_a_fault_is_its_own_requests_and_is_not_tried_at_each(made: Path, tmp_path: Path, ask: Ask) -> None:
    from slmops.serve.names import Names

    broken = tmp_path / "broken"
    broken.mkdir()
    for one in (made / "gguf").iterdir():
        whole = one.read_bytes()
        (broken / one.name).write_bytes(whole[: len(whole) // 2] if one.suffix == ".gguf" else whole)
    names = Names([entry("broken", broken), entry("home", made / "gguf")])
    with models(names, warm=True) as found:
        assert json.loads(ask(found, "home")[0]) == ANSWER
        for _ in range(5):
            with pytest.raises((EngineFailed, CorruptInput, SlmopsError)):
                ask(found, "broken")
        assert [one.failures for one in found.states() if one.name == "broken"] == [1]
        assert [bool(one.fault) for one in found.states()] == [False, True] or [one.fault for one in found.states()]
        assert json.loads(ask(found, "home")[0]) == ANSWER
    assert within(5, lambda: not workers())


@pytest.mark.slow
def test_a_slow_template_holds_up_the_loop_once(made: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template is the model's: what it does to a short conversation is not for everybody else to wait for."""
    from slmops import run
    from slmops.serve import model
    from slmops.serve.names import Names

    real, seconds, places = run.Artifact.prompt, 0.0, list[bool]()

    def prompt(self: Any, *words: Any) -> str:
        places.append(threading.current_thread().name.startswith("asyncio"))  # of to_thread
        time.sleep(seconds)
        return real(self, *words)

    monkeypatch.setattr(run.Artifact, "prompt", prompt)
    monkeypatch.setattr(model, "SLOW", 0.8)  # a busy machine is not a slow template
    with models(Names([entry("home", made / "gguf")])) as found:
        for seconds in (1.0, 0.0, 0.0, 1.0, 1.0, 0.0):  # noqa: B007
            assert json.loads(ask(found, "home")[0]) == ANSWER
    # In a thread while the model is loaded, which takes long in any case; then on the loop, until it was slow there.
    assert places == [True, False, False, False, True, True]
