"""A native `llama-server` on PATH: built for this very processor, it is faster than the wheel, but gives no logits.

One server a session, on a free loopback port with a key of its own. Every request is a new connection: the server closes
kept-alive ones after a stream. Tokens cross as ids both ways.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.core.errors import EngineCrashed, EngineFailed, EngineMissing, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Constraint, Footprint, Options, Sampling, _gguf, _regex, _words
from slmops.engines._llamaserver_flow import Flow

FORMATS = ("gguf",)
MODULES = ()
PACKAGE = "llama.cpp"
EXTRA = "llamacpp"
INSTALL = "build or download llama.cpp and put llama-server on PATH"
CAN = frozenset({"generate", "encode", "render", "parallel"})
SAMPLES = frozenset({"min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "logprobs"})
CONSTRAINTS = frozenset({"json", "json_schema", "regex", "grammar"})
DEVICES = ("cpu", "gpu")
KV = _gguf.KV
FOOTPRINT = Footprint(base=60_000_000, reserved=True, chunk=512, rows=64, efficiency=1.0)
PREFERENCE = 1

PROGRAM = "llama-server"
KEEPER = Path(__file__).with_name("_keeper.py")
START_SECONDS = 600
BLOCK = 4
"""Tokens of a request when sampling. The stream leaves out ids of tokens that end within a character, and a draw cannot be
repeated to learn them; answers that come whole have them all."""


@functools.cache
def installed() -> str | None:
    """The version of the llama-server on PATH, or None without one."""
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version:")]
    return lines[0].removeprefix("version:").strip() if lines else None


def open(folder: Path, options: Options) -> Session:
    """Start a server with the folder's GGUF and wait until it answers."""
    if options.device not in ("auto", *DEVICES):
        raise UsageError(f"llama-server has no device {options.device!r}", f"one of: auto, {', '.join(DEVICES)}")
    if options.proof:
        raise UsageError("llama-server gives no logits, so there is nothing to prove with it", "use the engine llamacpp")
    return Session(_gguf.locate(folder), options)


class Session:
    """A running server. See engines.Session."""

    def __init__(self, file: Path, options: Options) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise EngineMissing(f"there is no {PROGRAM} on PATH", INSTALL)
        found = _gguf.selected(file, "")
        self._normalizer = _gguf.text(found, _gguf.NORMALIZER)
        self._templated = "tokenizer.chat_template" in found
        self._prefixes = _gguf.flag(found, "tokenizer.ggml.add_space_prefix")
        types = _gguf.body(found, "tokenizer.ggml.token_type")[12:]
        kinds = struct.unpack(f"<{len(types) // 4}i", types)
        self._vocab = len(kinds)
        self._hidden = frozenset(number for number, kind in enumerate(kinds) if kind in _gguf.HIDDEN)
        self._limit = min(options.context, _trained(found) or options.context)
        self._reuse = options.reuse
        self._key = secrets.token_hex(16)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        command = [program, "--model", str(file), "--host", "127.0.0.1", "--port", str(self._port)]
        # The server divides its context among the requests in flight.
        command += ["--ctx-size", str(self._limit * options.parallel), "--parallel", str(options.parallel)]
        threads = options.threads or os.cpu_count() or 4
        command += ["--threads", str(threads), "--no-webui", "--jinja"]
        if options.kv != "auto":
            command += ["--cache-type-k", _gguf.TYPES[options.kv], "--cache-type-v", _gguf.TYPES[options.kv]]
            command += (
                ["--flash-attn", "on"] if options.kv == "q8" else []
            )  # values with scales are for flash attention alone
        # The server would take a leading bos out of what the template writes, trusting that the tokenizer adds it.
        command += ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false"]
        if options.device == "cpu":
            command += ["--device", "none"]
        environment = {**os.environ, "LLAMA_API_KEY": self._key}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(KEEPER), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
        )
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline() or 0)
        self.effective: Mapping[str, str] = {
            "version": f"llama.cpp {installed() or 'of unknown version'}",
            "device": "cpu" if options.device == "cpu" else "as llama-server chose",
            "threads": str(threads),
            "activations": "llama.cpp's default",
            "kv": _gguf.TYPES.get(options.kv, "f16"),
            "context": str(self._limit),
            **({"tokenizer": f"llama.cpp's, after {self._normalizer} by slmops"} if self._normalizer else {}),
        }
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise EngineFailed(f"llama-server cannot open the model{self._words()}", "try the engine llamacpp")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/health", headers={"Connection": "close"})
                status = connection.getresponse().status
                connection.close()
                if status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise EngineFailed(f"llama-server does not answer after {START_SECONDS} s{self._words()}")

    def _words(self) -> str:
        """The end of what the server printed."""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 1500))
        words = self._said.read().decode("utf-8", "replace").strip()
        return f"; its last words:\n{words}" if words else ""

    @contextlib.contextmanager
    def _post(self, path: str, body: Mapping[str, Any]) -> Iterator[http.client.HTTPResponse]:
        """A request on a connection of its own, closed on leaving: that also cancels a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}", "Connection": "close"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise EngineFailed(f"llama-server answers {path} with {answer.status}: {answer.read(500)!r}")
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None
        finally:
            connection.close()

    def _lost(self, error: BaseException) -> EngineCrashed | EngineFailed:
        """What a broken connection means."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return EngineCrashed(
                f"llama-server ended with code {code}{self._words()}", "run it again; it may have run out of memory"
            )
        return EngineFailed(f"llama-server broke the connection: {error!r}")

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._post(path, body) as answer:
            result: dict[str, Any] = json.load(answer)
        return result

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        raise EngineFailed("llama-server gives no logits", "use the engine llamacpp")

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """See engines.Session. The server also ends at tokens that llama.cpp knows as ends, unless `stop_ids` is empty."""
        _words.check(ids, None, self._vocab, self._limit)
        made: list[int] = []
        stops = frozenset(sampling.stop_ids)
        while (left := min(sampling.max_tokens, self._limit - len(ids)) - len(made)) > 0:
            options = {**_options([*ids, *made], sampling, bool(made)), "seed": (sampling.seed + len(made)) % (1 << 32)}
            source = self._stream(options, left) if sampling.temperature <= 0 else self._block(options, min(BLOCK, left))
            for token in source:
                if token is None or token in stops:
                    return
                made.append(token)
                yield token
                if len(made) >= sampling.max_tokens:
                    return

    def flow(self) -> Flow:
        """See engines. What one request left in a slot serves another that begins alike, where that is asked for."""
        return Flow(self._port, self._key, lambda ids, how: _options(ids, how, self._reuse), self._prefixes, self._lost)

    def _stream(self, options: dict[str, Any], count: int) -> Iterator[int | None]:
        """Greedy tokens as they come; None at the end. Where the stream left some out, it ends early after fetching them."""
        received: list[int] = []
        waiting: list[int] = []
        missing = 0
        with self._post("/completion", {**options, "n_predict": count, "stream": True}) as answer:
            for line in answer:
                if not line.startswith(b"data: "):
                    if line.startswith(b"error: "):
                        raise EngineFailed(f"llama-server stopped: {line[7:300]!r}")
                    continue
                event = json.loads(line[6:])
                tokens = event.get("tokens") or []
                missing = event.get("tokens_predicted", 0) - len(received) - len(tokens)
                if missing > 0:
                    missing += len(tokens)
                    break
                if event.get("stop"):
                    # A token without text was the one that ended it; anything else was a plain token.
                    if event.get("stop_type") != "eos":
                        yield from waiting
                        waiting = []
                    yield None
                    return
                yield from waiting
                received += tokens
                waiting = tokens
                if event.get("content"):
                    yield from waiting
                    waiting = []
        if missing <= 0:
            raise self._lost(ConnectionError("the stream ended early"))
        yield from waiting
        again = {**options, "prompt": options["prompt"] + received, "cache_prompt": True}
        yield from self._block(again, missing)

    def _block(self, options: dict[str, Any], count: int) -> Iterator[int | None]:
        """`count` tokens in one answer; None after them where the server ended the text."""
        fields = ["tokens", "stop_type"]
        answer = self._ask("/completion", {**options, "n_predict": count, "stream": False, "response_fields": fields})
        tokens: list[int] = answer["tokens"]
        if answer.get("stop_type") == "eos":
            yield from tokens[:-1]
            yield None
        else:
            yield from tokens
            if len(tokens) < count:
                yield None

    def encode(self, text: str) -> list[int]:
        body = {"content": _gguf.compose(text, self._normalizer), "add_special": False, "parse_special": True}
        return [int(number) for number in self._ask("/tokenize", body)["tokens"]]

    def decode(self, ids: Sequence[int]) -> str:
        shown = [number for number in ids if number not in self._hidden]
        if not shown:
            return ""
        text = str(self._ask("/detokenize", {"tokens": shown})["content"])
        return text.removeprefix(" ") if self._prefixes else text

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        if not self._templated:
            return None
        return str(self._ask("/apply-template", {"messages": [dict(message) for message in messages]})["prompt"])

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()


def _trained(found: Mapping[str, bytes]) -> int | None:
    """The context that the model was trained with."""
    for key in found:
        if key.endswith(".context_length") and len(value := _gguf.body(found, key)) == 4:
            return int(struct.unpack("<I", value)[0])
    return None


def _options(prompt: Sequence[int], sampling: Sampling, reuse: bool) -> dict[str, Any]:
    """A /completion request. Where generation is measured, only a continued one reuses the cache: the first token's time
    counts the prompt."""
    options = {
        "prompt": list(prompt),
        "temperature": max(0.0, sampling.temperature),
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
        "seed": sampling.seed % (1 << 32),
        "cache_prompt": reuse,
        "return_tokens": True,
        "ignore_eos": not sampling.stop_ids,
    }
    if sampling.logprobs is not None:
        options["n_probs"] = max(1, sampling.logprobs)
    match sampling.constraint:
        case Constraint("json"):
            options["json_schema"] = {"type": "object"}
        case Constraint("json_schema", text):
            options["json_schema"] = json.loads(text)
        case Constraint("regex", text):
            options["grammar"] = _regex.grammar(text)
        case Constraint("grammar", text):
            options["grammar"] = text
    return options
