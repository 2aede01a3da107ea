"""A session with a llama-server, native or xllamacpp's own: tokens cross as ids both ways, text comes with the stream."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.core.errors import EngineCrashed, EngineFailed
from slmops.core.tensor import Floats
from slmops.engines import Constraint, Options, Sampling, _gguf, _regex, _words
from slmops.engines._guidance import guided
from slmops.engines._llamaserver_flow import Flow
from slmops.engines._llamaserver_process import Process, Start

CAN = frozenset({"generate", "encode", "render", "parallel", "embed", "adapt"})
SAMPLES = frozenset({"min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "logprobs"})
CONSTRAINTS = frozenset({"json", "json_schema", "regex", "grammar"})
BLOCK = 4
"""Tokens of a request when sampling. The stream leaves out ids of tokens that end within a character, and a draw cannot be
repeated to learn them; answers that come whole have them all."""


class Session:
    """A running server. See engines.Session."""

    def __init__(self, file: Path, options: Options, command: Callable[[Start, int], list[str]], version: str) -> None:
        """command: the program with its arguments, to listen on a port."""
        found = _gguf.selected(file, "")
        self._normalizer = _gguf.text(found, _gguf.NORMALIZER)
        self._templated = "tokenizer.chat_template" in found
        self._prefixes = _gguf.flag(found, "tokenizer.ggml.add_space_prefix")
        self._pools = not any(key.endswith(".pooling_type") for key in found)
        types = _gguf.body(found, "tokenizer.ggml.token_type")[12:]
        kinds = struct.unpack(f"<{len(types) // 4}i", types)
        self._vocab = len(kinds)
        self._hidden = frozenset(number for number, kind in enumerate(kinds) if kind in _gguf.HIDDEN)
        self._limit = min(options.context, _trained(found) or options.context)
        kv = "" if options.kv == "auto" else _gguf.TYPES[options.kv]
        threads = options.threads or os.cpu_count() or 4
        self._start = Start(
            str(file), self._limit, options.parallel, threads, options.device, kv, options.reuse, tuple(options.adapters)
        )
        self._command, self._server = command, Process(command, self._start)
        self._embedder: Process | None = None
        self.effective: Mapping[str, str] = {
            "version": version,
            "device": "cpu" if options.device == "cpu" else "as llama-server chose",
            "threads": str(threads),
            "activations": "llama.cpp's default",
            "kv": kv or "f16",
            "context": str(self._limit),
            **({"tokenizer": f"llama.cpp's, after {self._normalizer} by slmops"} if self._normalizer else {}),
        }
        self._server.wait()

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._server.pid

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        raise EngineFailed("llama-server gives no logits", "use the engine llamacpp")

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """See engines.Session. The server also ends at tokens that llama.cpp knows as ends, unless `stop_ids` is empty."""
        _words.check(ids, None, self._vocab, self._limit)
        made: list[int] = []
        stops = frozenset(sampling.stop_ids)
        while (left := min(sampling.max_tokens, self._limit - len(ids)) - len(made)) > 0:
            options = {**self._options([*ids, *made], sampling, bool(made)), "seed": (sampling.seed + len(made)) % (1 << 32)}
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
        server, reuse = self._server, self._start.reuse
        return Flow(server.port, server.key, lambda ids, how: self._options(ids, how, reuse), self._prefixes, server.lost)

    def _options(self, prompt: Sequence[int], sampling: Sampling, reuse: bool) -> dict[str, Any]:
        """A /completion request. The scale of every adapter is said each time: where none is, the server goes by its own
        list, and keeps what a slot computed through another (server-context.cpp: launch_slot_with_task)."""
        asked = _options(prompt, sampling, reuse)
        if count := len(self._start.adapters):
            asked["lora"] = [{"id": number, "scale": float(number == sampling.adapter)} for number in range(count)]
        return asked

    def embed(self, ids: Sequence[int]) -> list[float]:
        """By a server of its own, started when it is first asked: one that embeds writes no texts."""
        _words.check(ids, None, self._vocab, self._limit)
        if self._embedder is None:
            start = dataclasses.replace(self._start, parallel=1, embeds=True, pools=self._pools, adapters=())
            embedder = Process(self._command, start)
            embedder.wait()
            self._embedder = embedder
        try:
            answer = self._embedder.ask("/v1/embeddings", {"input": list(ids)})
        except EngineCrashed:
            self._embedder.close()
            self._embedder = None  # the next text finds a new one
            raise
        vector: list[float] = answer["data"][0]["embedding"]
        return vector

    def _stream(self, options: dict[str, Any], count: int) -> Iterator[int | None]:
        """Greedy tokens as they come; None at the end. Where the stream left some out, it ends early after fetching them."""
        received: list[int] = []
        waiting: list[int] = []
        missing = 0
        with self._server.post("/completion", {**options, "n_predict": count, "stream": True}) as answer:
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
            raise self._server.lost(ConnectionError("the stream ended early"))
        yield from waiting
        again = {**options, "prompt": options["prompt"] + received, "cache_prompt": True}
        yield from self._block(again, missing)

    def _block(self, options: dict[str, Any], count: int) -> Iterator[int | None]:
        """`count` tokens in one answer; None after them where the server ended the text."""
        fields = ["tokens", "stop_type"]
        answer = self._server.ask("/completion", {**options, "n_predict": count, "stream": False, "response_fields": fields})
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
        return [int(number) for number in self._server.ask("/tokenize", body)["tokens"]]

    def decode(self, ids: Sequence[int]) -> str:
        shown = [number for number in ids if number not in self._hidden]
        if not shown:
            return ""
        text = str(self._server.ask("/detokenize", {"tokens": shown})["content"])
        return text.removeprefix(" ") if self._prefixes else text

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        if not self._templated:
            return None
        return str(self._server.ask("/apply-template", {"messages": [dict(message) for message in messages]})["prompt"])

    def close(self) -> None:
        for one in (self._embedder, self._server):
            if one is not None:
                one.close()


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
        # Without it llama.cpp sorts the whole vocabulary to find the greatest: a fifth of a token's time, of 151,936.
        "top_k": sampling.top_k if sampling.temperature > 0 else 1,
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
            options["json_schema"] = guided('{"type": "object"}')
        case Constraint("json_schema", text):
            options["json_schema"] = guided(text)
        case Constraint("regex", text):
            options["grammar"] = _regex.grammar(text)
        case Constraint("grammar", text):
            options["grammar"] = text
    return options
