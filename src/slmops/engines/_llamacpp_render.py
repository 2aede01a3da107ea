"""llama.cpp's own rendering of a chat template, which only its server offers: /apply-template of xllamacpp's Server.

The server wants a model. So it gets one of a few megabytes: the tokenizer and the template of the artifact, copied entry
by entry, over one layer of zeros. Nothing is computed with it. It listens on the loopback interface with a key of its own.
"""

from __future__ import annotations

import json
import math
import secrets
import signal
import struct
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.core.errors import EngineFailed
from slmops.engines import _gguf

WIDTH = 32
"""Features of the model of zeros: one block of Q4_0."""
F32, Q4_0 = 0, 2
UINT32, FLOAT32 = 4, 6
ADDS_BOS = "tokenizer.ggml.add_bos_token"


def stub(source: Path, target: Path) -> None:
    """Write a GGUF with the tokenizer of `source` and a llama of one layer, all zeros."""
    kept = _gguf.selected(source, "tokenizer.")
    rows = struct.unpack_from("<Q", _gguf.body(kept, "tokenizer.ggml.tokens"), 4)[0]
    kept.pop(ADDS_BOS, None)

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    added = [text("general.architecture") + struct.pack("<I", _gguf.STRING) + text("llama")]
    # Or else the server takes the leading bos out of what the template writes, because the tokenizer would add it.
    added.append(text(ADDS_BOS) + struct.pack("<I?", _gguf.BOOL, False))
    for key, value in (
        ("context_length", 256),
        ("embedding_length", WIDTH),
        ("block_count", 1),
        ("feed_forward_length", WIDTH),
        ("attention.head_count", 1),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", WIDTH),
    ):
        added.append(text("llama." + key) + struct.pack("<II", UINT32, value))
    added.append(text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", FLOAT32, 1e-6))
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = [("token_embd", (rows, WIDTH)), ("output_norm", (WIDTH,)), ("blk.0.attn_norm", (WIDTH,))]
    tensors += [("blk.0.ffn_norm", (WIDTH,)), *((f"blk.0.{name}", (WIDTH, WIDTH)) for name in matrices)]
    infos, offset = b"", 0
    for name, shape in tensors:
        kind = Q4_0 if len(shape) == 2 else F32
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos += text(name + ".weight") + axes + struct.pack("<IQ", kind, offset)
        offset += math.ceil(math.prod(shape) // 32 * (18 if kind == Q4_0 else 128) / 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(added) + len(kept))
    head += b"".join(added) + b"".join(kept.values()) + infos
    with target.open("wb") as out:
        out.write(head.ljust(-(-len(head) // 32) * 32, b"\0"))
        out.truncate(out.tell() + offset)


class Renderer:
    """The server over the stub. One a process: xllamacpp's Server keeps global state."""

    def __init__(self, file: Path) -> None:
        import xllamacpp

        self._folder = tempfile.TemporaryDirectory(prefix="slmops-render-")
        self._key = secrets.token_hex(16)
        path = Path(self._folder.name) / "stub.gguf"
        try:
            stub(file, path)
        except struct.error as error:
            raise EngineFailed(f"{file.name}'s metadata cannot be copied: {error!r}") from None
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
        params.warmup = params.endpoint_slots = params.fit_params = params.ui = False
        params.verbosity = -1
        params.port, params.hostnames, params.api_keys = 0, ["127.0.0.1"], [self._key]
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:
            raise EngineFailed(f"llama.cpp's server does not start for rendering: {error}") from None
        finally:
            # It takes these two for itself; the process's owner decides about them.
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation with a generation prompt. Raises EngineFailed with what the template or the server said."""
        request = urllib.request.Request(
            self._server.listening_address + "/apply-template",
            json.dumps({"messages": [dict(message) for message in messages]}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                return str(json.load(answer)["prompt"])
        except urllib.error.HTTPError as error:
            raise EngineFailed(f"llama.cpp cannot render the conversation: {error.read(500)!r}") from None
        except (OSError, ValueError, KeyError) as error:
            raise EngineFailed(f"llama.cpp cannot render the conversation: {error!r}") from None

    def close(self) -> None:
        # The server itself goes with the process: tearing it down would free the backend under an open model.
        self._folder.cleanup()
