"""A server at mixed load for a while: workers killed, clients that leave, models evicted, an alias that moves. Every
answer is held against what the very version that was asked says greedily when it is alone.

Two versions differ by their chat template alone: the second makes every kitchen a bedroom, and answers so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import children

PROMPTS = (
    *(f"please set the kitchen light to {level} percent" for level in range(5, 100, 5)),
    "turn off the kitchen light", "kitchen lamp on please", "dim the kitchen lights to 20 percent", "kitchen blinds to 40%",
)  # fmt: skip
ALIAS = "home:live"
RETRYABLE = frozenset({429, 503})
LINGERS = 15.0
"""Seconds that a name's old version may answer after it moved: until the new one is loaded."""
LINGERS_AFTER_KILLS = 60.0
"""Where the new one was killed while it was loading, which is tried again after as much as 30 s, or the machine is busy."""
MOST = 40


@dataclass
class Version:
    """A model by its fixed name, and what it says to each prompt."""

    name: str
    says: dict[str, str]


@dataclass
class Soak:
    """What was seen."""

    seconds: float = 0.0
    answered: int = 0
    late: int = 0
    """Of these, how many came from a version that the name had left for longer than LINGERS."""
    left: int = 0
    """Streams that the client left on purpose."""
    refused: Counter[str] = field(default_factory=Counter)
    """Well-formed errors that may be tried again, by status or word."""
    wrong: list[str] = field(default_factory=list)
    """Answers that no version that was asked would give."""
    malformed: list[str] = field(default_factory=list)
    """Failures that are not a well-formed retryable error."""
    kills: int = 0
    moves: int = 0
    evictions: int = 0
    restarts: int = 0
    busy: int = -1
    """Requests that are in flight when all has ended."""
    slope: float = 0.0
    """Bytes a minute that the server's memory grows by, after the first third."""
    spread: float = 0.0
    """Standard error of it."""
    memory: list[tuple[float, int]] = field(default_factory=list)
    started: set[psutil.Process] = field(default_factory=set)
    """Every process that was seen under the server."""
    orphans: int = 0
    """Of these, how many live on when it has ended."""
    files: tuple[int, int] = (0, 0)
    """Open at a third of the time and at the end."""

    @property
    def well(self) -> bool:
        return not self.wrong and not self.malformed and not self.orphans and self.busy == 0 and self.answered > 0


def prepare(root: Path, sample: Path) -> list[Version]:
    """A registry with the versions, and what each says when it is asked alone, by its engine itself."""
    from slmops import compile as compiler
    from slmops import run
    from slmops.engines import Options, Sampling
    from slmops.registry import Registry
    from slmops.registry.references import Reference
    from slmops.source import load

    other = root / "other"
    shutil.copytree(sample, other, ignore=shutil.ignore_patterns("eval", "*.py"))
    config = json.loads((other / "tokenizer_config.json").read_text())
    template = config["chat_template"]
    config["chat_template"] = template.replace("message['content']", "message['content'].replace('kitchen', 'bedroom')")
    assert config["chat_template"] != template
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    compiler.convert(load(sample), ["gguf", "onnx"], "q8", root / "a", verify=False)
    compiler.convert(load(other), ["gguf"], "q8", root / "b", verify=False)
    found: list[Version] = []
    with Registry.open(root / "registry") as registry:
        for name, folder in (("a", root / "a" / "gguf"), ("b", root / "b"), ("onnx", root / "a" / "onnx")):
            registry.add(folder, Reference("home", name))
            artifact, says = run.Artifact.open(folder), {}
            with run.open_worker(artifact, None, Options(context=256)) as worker:
                for prompt in PROMPTS:
                    ids = run.tokens_of(worker, artifact, artifact.prompt([{"role": "user", "content": prompt}]))
                    sampling = run.stopping(Sampling(max_tokens=MOST), artifact)
                    says[prompt] = "".join(token.text for token in worker.generate(ids, sampling))
            found.append(Version(f"home:{name}", says))
        registry.tag("home:a", Reference("home", "live"))
    apart = [prompt for prompt in PROMPTS if found[0].says[prompt] != found[1].says[prompt]]
    assert len(apart) > 10, "the two versions say the same"
    return found


@contextlib.contextmanager
def server(root: Path, memory: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    words = [sys.executable, "-m", "slmops", "serve", "--registry", "--json", "--port", "0", "--memory", memory]
    words += ["--context", "256", "--keep-alive", "3s", "--queue", "16", "--log-format", "json"]
    environment = {**os.environ, "SLMOPS_HOME": str(root / "registry")}
    with (
        log.open("w") as told,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=told, text=True, env=environment) as process,
    ):
        try:
            line = children.line(process)
            assert line, log.read_text()
            yield json.loads(line)["url"], process
        finally:
            process.kill()


class Load:
    """Requests of all kinds, until it is told to end."""

    def __init__(self, url: str, versions: list[Version], seen: Soak, draw: random.Random) -> None:
        import openai

        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        self._versions, self._seen, self._draw = versions, seen, draw
        self.moved: list[tuple[float, Version]] = [(0.0, versions[0])]
        """When the alias went where."""
        self.ending = False

    async def ask(self) -> None:
        while not self.ending:
            await self._one()
            await asyncio.sleep(self._draw.random() * 0.05)

    async def _one(self) -> None:
        import openai

        prompt, began = self._draw.choice(PROMPTS), time.monotonic()
        fixed = self._draw.choice([*[None] * 12, *self._versions])  # each other one has to be loaded first
        name, stream = (fixed.name if fixed is not None else ALIAS), self._draw.random() < 0.6
        leave = self._draw.randint(0, 6) if stream and self._draw.random() < 0.2 else None
        try:
            text = await self._text(name, prompt, stream, leave)
        except openai.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            told = {"message", "type", "code"} <= body.keys() and "retry-after" in error.response.headers
            if error.status_code in RETRYABLE and told:
                self._seen.refused[f"{error.status_code} {body['code']}"] += 1
            else:
                self._seen.malformed.append(f"{error.status_code}: {error.body}"[:300])
            return
        except openai.APIError as error:  # an event of a stream
            if error.code == "engine_crashed" and error.message:
                self._seen.refused["stream engine_crashed"] += 1
            else:
                self._seen.malformed.append(f"in a stream: {error!r} {error.body}"[:300])
            return
        if text is None:
            self._seen.left += 1
            return
        asked = [fixed] if fixed is not None else self._live(began - LINGERS_AFTER_KILLS)
        if text in {one.says[prompt] for one in asked}:
            self._seen.answered += 1
            if fixed is None and text not in {one.says[prompt] for one in self._live(began - LINGERS)}:
                self._seen.late += 1
        else:
            self._seen.wrong.append(f"{name}: {prompt!r} -> {text!r}, not {[one.says[prompt] for one in asked]}")

    async def _text(self, name: str, prompt: str, stream: bool, leave: int | None) -> str | None:
        asked: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        if not stream:
            whole = await self._client.chat.completions.create(**asked, max_tokens=MOST)
            return str(whole.choices[0].message.content)
        pieces: list[str] = []
        async with await self._client.chat.completions.create(**asked, max_tokens=MOST, stream=True) as events:
            async for one in events:
                if leave is not None and len(pieces) >= leave:
                    return None
                pieces.append(one.choices[0].delta.content or "" if one.choices else "")
        return "".join(pieces)

    def _live(self, since: float) -> list[Version]:
        """What the alias may have led to since then."""
        spans = zip(self.moved, [*(at for at, _ in self.moved[1:]), float("inf")], strict=True)
        return [version for (_, version), until in spans if until > since]

    async def close(self) -> None:
        await self._client.close()


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(process.pid).children(recursive=True)
    return []


async def _trouble(load: Load, root: Path, process: subprocess.Popen[str], every: float, draw: random.Random) -> None:
    """Kills, and moves of the alias."""
    from slmops.registry import Registry, references

    while not load.ending:
        await asyncio.sleep(every * (0.5 + draw.random()))
        if draw.random() < 0.5 and (found := workers(process)):
            load._seen.started.update(found)
            with contextlib.suppress(psutil.Error):
                draw.choice(found).kill()
                load._seen.kills += 1
        else:
            version = draw.choice([one for one in load._versions if one is not load.moved[-1][1]])
            load.moved.append((time.monotonic(), version))  # before it is: a request may be answered by it from then on
            with Registry.open(root / "registry") as registry:
                registry.tag(version.name, references.named(ALIAS), replace=True)
            load._seen.moves += 1


async def _watch(load: Load, process: subprocess.Popen[str], seen: Soak, seconds: float) -> None:
    own, began, first = psutil.Process(process.pid), time.monotonic(), 0
    while not load.ending:
        await asyncio.sleep(min(1.0, seconds / 40))
        now = time.monotonic() - began
        seen.memory.append((now, own.memory_info().rss))
        seen.started.update(workers(process))
        first = first or (own.num_fds() if now > seconds / 3 else 0)
    seen.files = (first, own.num_fds())


async def _run(
    root: Path, url: str, process: subprocess.Popen[str], versions: list[Version], soak: Soak, **how: Any
) -> None:
    draw, seconds = random.Random(how["seed"]), how["seconds"]
    load = Load(url, versions, soak, draw)
    tasks = [asyncio.create_task(load.ask()) for _ in range(how["at_once"])]
    tasks += [asyncio.create_task(_trouble(load, root, process, how["every"], draw))]
    tasks += [asyncio.create_task(_watch(load, process, soak, seconds))]
    began = time.monotonic()
    while time.monotonic() - began < seconds and process.poll() is None:
        if (broken := [task for task in tasks if task.done()]) and not load.ending:
            broken[0].result()
        await asyncio.sleep(0.2)
    load.ending = True
    await asyncio.wait_for(asyncio.gather(*tasks), 150)
    await load.close()
    soak.seconds = time.monotonic() - began


def soak(root: Path, sample: Path, seconds: float, *, at_once: int = 8, every: float = 1.0, seed: int = 0) -> Soak:
    """All of it, in the folder `root`. every: mean seconds between kills and moves. The server's log stays there."""
    versions, seen = prepare(root, sample), Soak()
    with server(root, "200MB", root / "log") as (url, process):
        asyncio.run(_run(root, url, process, versions, seen, seconds=seconds, at_once=at_once, every=every, seed=seed))
        time.sleep(0.5)
        states = json.loads(urllib.request.urlopen(f"{url}/slmops/models", timeout=60).read())
        seen.busy = sum(one["running"] + one["waiting"] for one in states)
        for line in urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode().splitlines():
            if line.startswith("slmops_model_evictions_total{"):
                seen.evictions += int(float(line.rpartition(" ")[2]))
            if line.startswith("slmops_worker_restarts_total{"):
                seen.restarts += int(float(line.rpartition(" ")[2]))
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            seen.malformed.append(f"the server ended with {process.returncode}")
    # Not psutil.wait_procs: it stumbles over a process that ends while it is looked at.
    alive, until = list(seen.started), time.monotonic() + 10
    while alive and time.monotonic() < until:
        alive = [one for one in alive if one.is_running()]  # in an hour numbers of processes come again
        time.sleep(0.1)
    seen.orphans = len(alive)
    for one in alive:
        with contextlib.suppress(psutil.Error):
            one.kill()
    later = [(at / 60, size) for at, size in seen.memory if at > seconds / 3]
    if len(later) > 4:
        (seen.slope, _), covariance = np.polyfit(*zip(*later, strict=True), 1, cov=True)
        seen.spread = float(np.sqrt(covariance[0, 0]))
    return seen
