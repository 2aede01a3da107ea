"""llama.cpp through the xllamacpp wheel: logits, generation and tokens by its C functions, in this process.

Proof mode wants the f32 twin of the artifact (formats/gguf.py: twin), keeps the KV cache in f32 and switches flash
attention off; otherwise everything is llama.cpp's default, so codes are multiplied with 8-bit activations.
"""

from __future__ import annotations

import ctypes as c
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Footprint, Options, Sampling, _gguf, _llamacpp_library, _llamacpp_render, _llamaserver, _words
from slmops.engines._llamacpp_library import Library
from slmops.engines._llamaserver_process import Start
from slmops.engines._pick import pick

FORMATS = ("gguf",)
MODULES = ("xllamacpp",)
PACKAGE = "xllamacpp"
EXTRA = "llamacpp"
CAN = _llamaserver.CAN | {"logits"}
"""The server can what it can with `parallel`, `reuse` or `adapters`, and the Session below gives logits without."""
SAMPLES, CONSTRAINTS = _llamaserver.SAMPLES, _llamaserver.CONSTRAINTS
DEVICES = ("cpu", "gpu")
KV = _gguf.KV
FOOTPRINT = Footprint(base=60_000_000, reserved=True, chunk=512, rows=64, efficiency=1.0)
ROUGH = {"gelu_tanh": 5e-3}
"""Activations that ggml looks up in a table of f16, in f32 mode too (GGML_GELU_FP16): bound of the proof's error."""

BATCH = 512
"""Tokens of a prompt that are fed at once."""
OUTPUTS = 64
"""Positions whose logits are asked for at once; llama.cpp keeps room for as many rows of the vocabulary."""
FILE_TYPES = {0: "f32", 1: "f16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 32: "bf16"}
KV_TYPES = {"f32": _llamacpp_library.F32, "f16": _llamacpp_library.F16, "q8_0": _llamacpp_library.Q8_0}
CODED = ("Q4_0", "Q4_1", "Q8_0")


def open(folder: Path, options: Options) -> Session | _llamaserver.Session:
    """Load the folder's GGUF, or have the wheel's own llama-server do so for requests that are computed together. Raises
    EngineFailed with what llama.cpp said."""
    if options.device not in ("auto", *DEVICES):
        raise UsageError(f"llama.cpp has no device {options.device!r}", f"one of: auto, {', '.join(DEVICES)}")
    if options.parallel > 1 or options.reuse or options.adapters:
        version = f"xllamacpp {_llamacpp_library.version()}"
        return _llamaserver.Session(_gguf.locate(folder), options, _served, version)
    return Session(_llamacpp_library.load(), _gguf.locate(folder), options)


def _served(start: Start, port: int) -> list[str]:
    settings = {**dataclasses.asdict(start), "port": port, "cache_mib": start.cache_mib}
    return [sys.executable, "-P", str(Path(__file__).with_name("_llamacpp_serve.py")), json.dumps(settings)]


class Session:
    """One model with one context. See engines.Session."""

    def __init__(self, library: Library, file: Path, options: Options) -> None:
        self._library, self._file = library, file
        self._renderer: _llamacpp_render.Renderer | None = None
        self._model = self._context = None
        offload = bool(library.supports_gpu_offload()) and options.device != "cpu"
        params = library.model_default_params()
        self._no_devices = (c.c_void_p * 1)(None)
        if not offload:
            params.n_gpu_layers = 0
            # An empty list: even a build with a GPU keeps away from it.
            params.devices = c.cast(self._no_devices, c.c_void_p)
        self._file_type = FILE_TYPES.get(_gguf.number(file, "general.file_type") or 0, "unknown")
        if self._file_type in CODED and not options.proof and not offload:
            # Codes are re-packed for the processor while loading; mapped, the file's pages would stay beside them
            # (582 against 817 MB resident for 0.6 billion weights in Q4_0).
            params.load_mode = _llamacpp_library.LOAD_READ
        self._model = library.model_load_from_file(os.fsencode(file), params)
        if not self._model:
            raise EngineFailed(f"llama.cpp cannot load {file.name}{library.said()}", "convert the model again")
        self._vocabulary = library.model_get_vocab(self._model)
        self._vocab: int = library.vocab_n_tokens(self._vocabulary)
        self._limit = min(options.context, library.model_n_ctx_train(self._model))
        settings = library.context_default_params()
        settings.n_ctx, settings.n_batch = self._limit, min(BATCH, self._limit)
        settings.n_ubatch = settings.n_batch
        settings.n_outputs_max, settings.n_outputs_max_per_seq = min(OUTPUTS, settings.n_batch), 0
        settings.n_threads = settings.n_threads_batch = options.threads or os.cpu_count() or 4
        self._kv = "f32" if options.proof else _gguf.TYPES.get(options.kv, "f16")
        settings.type_k = settings.type_v = KV_TYPES[self._kv]
        if options.proof:
            settings.flash_attn_type = _llamacpp_library.FLASH_OFF
        elif options.kv == "q8":  # values with scales are for flash attention alone
            settings.flash_attn_type = _llamacpp_library.FLASH_ON
        self._context = library.init_from_model(self._model, settings)
        if not self._context:
            if options.kv == "q8":
                raise EngineFailed(f"llama.cpp gives no KV cache of q8 here{library.said()}", "leave --kv out")
            raise EngineFailed(f"llama.cpp has no room for a context of {self._limit}{library.said()}", "give a smaller one")
        self._memory = library.get_memory(self._context)
        self._batch = library.batch_init(settings.n_batch, 0, 1)
        self._room: int = settings.n_batch
        for i in range(self._room):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        self._tokens = np.ctypeslib.as_array(self._batch.token, (self._room,))
        self._positions = np.ctypeslib.as_array(self._batch.pos, (self._room,))
        self._wanted = np.ctypeslib.as_array(self._batch.logits, (self._room,))
        self.effective = self._describe(options, offload, settings.n_threads)

    def _describe(self, options: Options, offload: bool, threads: int) -> Mapping[str, str]:
        library = self._library
        bits = 8 * library.model_size(self._model) / max(1, library.model_n_params(self._model))
        # A twin says of itself what it is a twin of.
        weights = "f32" if bits > 31 else self._file_type
        described = {
            "version": f"xllamacpp {_llamacpp_library.version()}, llama.cpp {library.version().decode()}",
            "device": "gpu" if offload else "cpu",
            "threads": str(threads),
            "weights": weights,
            "activations": "blocks of 8 bits" if weights in CODED else weights,
            "kv": self._kv,
            "attention": "plain" if options.proof else "flash" if self._kv == "q8_0" else "flash where it can",
            "context": str(self._limit),
        }
        if normalizer := self._meta(_gguf.NORMALIZER):
            described["tokenizer"] = f"llama.cpp's, after {normalizer} by slmops"
        if options.device == "gpu" and not offload:
            described["fallback"] = "this llama.cpp was built without a GPU: the CPU is used"
        return described

    def _meta(self, key: str) -> str | None:
        buffer = c.create_string_buffer(256)
        length = self._library.model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def _feed(self, ids: Sequence[int], first: int, every: bool) -> None:
        """Decode up to BATCH tokens from position `first`; logits of every one, or of the last."""
        count = len(ids)
        self._tokens[:count] = ids
        self._positions[:count] = np.arange(first, first + count)
        self._wanted[:count] = every
        self._wanted[count - 1] = 1
        self._batch.n_tokens = count
        self._library.errors.clear()
        status = self._library.decode(self._context, self._batch)
        if status:
            why = "the context is full" if status == 1 else f"status {status}"
            raise EngineFailed(f"llama.cpp cannot compute at position {first} ({why}){self._library.said()}")

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        _words.check(ids, chunks, self._vocab, self._limit)
        self._library.memory_clear(self._memory, True)
        result = np.empty((len(ids), self._vocab), np.float32)
        start, most = 0, min(OUTPUTS, self._room)
        for chunk in chunks:
            end = start + chunk
            while start < end:
                stop = min(end, start + most)
                self._feed(ids[start:stop], start, every=True)
                pointer = self._library.get_logits(self._context)
                result[start:stop] = np.ctypeslib.as_array(pointer, (stop - start, self._vocab))
                start = stop
        return result

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        _words.check(ids, None, self._vocab, self._limit)
        self._library.memory_clear(self._memory, True)
        generator = np.random.default_rng(sampling.seed)
        for start in range(0, len(ids), self._room):
            self._feed(ids[start : start + self._room], start, every=False)
        position = len(ids)
        for _ in range(sampling.max_tokens):
            # A view of llama.cpp's own memory: nothing of the vocabulary's size is copied to pick the greatest.
            logits = np.ctypeslib.as_array(self._library.get_logits_ith(self._context, -1), (self._vocab,))
            token = pick(logits, sampling, generator)
            if token in sampling.stop_ids:
                return
            yield token
            if position >= self._limit:
                return
            self._feed([token], position, every=False)
            position += 1

    def encode(self, text: str) -> list[int]:
        data = _gguf.compose(text, self._meta(_gguf.NORMALIZER)).encode("utf-8", "replace")
        room = len(data) + 8
        buffer = (c.c_int32 * room)()
        count = self._library.tokenize(self._vocabulary, data, len(data), buffer, room, False, True)
        if count < 0:
            raise EngineFailed(f"llama.cpp cannot tokenize {text[:40]!r}{self._library.said()}")
        return list(buffer[:count])

    def decode(self, ids: Sequence[int]) -> str:
        # Piece by piece: llama_detokenize would also "clean up" blanks before punctuation for some vocabularies.
        text = b"".join(map(self._piece, ids)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._meta("tokenizer.ggml.add_space_prefix") == "true" else text

    def _piece(self, number: int) -> bytes:
        """Bytes of one token, none for a special one."""
        if not 0 <= number < self._vocab:
            raise UsageError(f"token ids must lie in 0 to {self._vocab - 1}, and {number} does not")
        size = 64
        while True:
            buffer = c.create_string_buffer(size)
            length = self._library.token_to_piece(self._vocabulary, number, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        if not self._library.model_chat_template(self._model, None):
            return None
        if self._renderer is None:
            self._renderer = _llamacpp_render.Renderer(self._file)
        return self._renderer.render(messages)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        if self._context:
            self._library.batch_free(self._batch)
            self._library.free(self._context)
        if self._model:
            self._library.model_free(self._model)
        self._context = self._model = None
