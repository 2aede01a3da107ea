"""What OpenVINO's two back ends share: devices, properties, tokenizer, and generation by OpenVINO GenAI.

Logits come from a graph that is compiled here (the `Runner` that each engine's file makes), tokens from GenAI's own
pipeline; each is compiled when first asked for, so that measuring one does not pay for the other.
"""

from __future__ import annotations

import importlib.util
import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slmops.core.errors import EngineFailed, EngineMissing, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Options, Sampling, _words
from slmops.engines._openvino_flow import Flow, configured

XML = "openvino_model.xml"
DEVICES = ("cpu", "gpu", "npu")
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
"""Proof mode: nothing is rounded but the arithmetic itself."""
KV = {"auto": 1.1, "f32": 4.0, "f16": 2.0, "q8": 1.1}
"""See engines. The default on a CPU is u8, with a scale and a zero point in f32 for each head of each position; paged, keys
have eight more positions for every 32 instead."""

SPLIT = 512
"""Tokens of a step while a prompt is read, so that answers in flight do not wait for the whole of a long one."""

_CONSTANT = re.compile(rb'element_type="(\w+)"[^>]*? size="(\d+)"')


_ASK = """
import json, sys
sys.modules["openvino_telemetry"] = None  # it forks, and reports use to its maker
import openvino
core = openvino.Core()
print(json.dumps({name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}))
"""


def devices(seconds: float = 20.0) -> dict[str, str]:
    """Name -> full name of the devices that OpenVINO can compute on here. Asked in a child process, for a driver may hang or
    crash. Raises EngineFailed where that happens, EngineMissing without OpenVINO."""
    if importlib.util.find_spec("openvino") is None:
        raise EngineMissing("OpenVINO is not installed", 'pip install "slmops[openvino]"')
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _ASK], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineFailed(
            f"OpenVINO did not name its devices within {seconds:g} s", "look at its GPU or NPU driver"
        ) from None
    try:
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1][:200]
        raise EngineFailed(f"OpenVINO failed to name its devices (code {done.returncode}): {last}") from None
    return found


class Runner(Protocol):
    """A compiled graph that gives the logits of every position it is fed."""

    @property
    def compiled(self) -> Any: ...

    def run(self, ids: Sequence[int], chunks: Sequence[int]) -> Iterator[Floats]:
        """Logits [chunk, vocab] of each chunk of a fresh sequence."""
        ...


class Session:
    """An OpenVINO folder opened with one back end: `SDPA` (stateful) or `PA` (paged attention, continuous batching)."""

    def __init__(
        self,
        folder: Path,
        backend: str,
        compile_runner: Callable[[Any, Any, str, Mapping[str, Any]], Runner],
        options: Options,
    ) -> None:
        try:
            import openvino
            import openvino_genai
        except ImportError as error:
            raise EngineMissing(f"OpenVINO GenAI cannot be loaded: {error}", 'pip install "slmops[openvino]"') from None
        if not (folder / XML).is_file():
            raise EngineFailed(f"{folder} has no {XML}", "convert the model to openvino first")
        self._vocab = _vocabulary(folder)
        self._genai, self._folder, self._backend, self._context = openvino_genai, folder, backend, options.context
        self._reuse, self._proof = options.reuse, options.proof
        self._adapters = [openvino_genai.Adapter(file) for file in options.adapters]
        self._version = f"openvino {openvino.get_version()}, openvino-genai {openvino_genai.get_version()}"
        self._core = openvino.Core()
        self._device, self._fallback = choose(options.device, self._core.available_devices)
        self._properties: dict[str, Any] = dict(EXACT) if options.proof else {}
        self._asked = asked(folder / XML)
        if options.kv != "auto":
            self._properties["KV_CACHE_PRECISION"] = "u8" if options.kv == "q8" else options.kv
        if options.kv == "f32" and backend == "PA":
            # On a processor with bf16, paged attention takes keys and values of f32 only where it computes in f32.
            self._properties["INFERENCE_PRECISION_HINT"] = "f32"
        if options.threads:
            self._properties["INFERENCE_NUM_THREADS"] = options.threads
        self._compile = compile_runner
        self._runner: Runner | None = None
        self._pipeline: Any = None
        self._server: Any = None
        self._tokenizer: Any = None
        self._generating: _Generation | None = None

    @property
    def effective(self) -> Mapping[str, str]:
        """Read from the compiled graph once logits were asked for; before that, from the device with these properties."""

        def ask(name: str) -> str:
            if name in self._properties and self._runner is None:
                return _word(self._properties[name])
            if name in self._asked and self._runner is None:
                return self._asked[name]
            try:
                if self._runner is not None:
                    return _word(self._runner.compiled.get_property(name))
                return _word(self._core.get_property(self._device, name))
            except RuntimeError:
                return "not told"

        xml = (self._folder / XML).read_bytes()
        group = ask("DYNAMIC_QUANTIZATION_GROUP_SIZE")
        activations = ask("INFERENCE_PRECISION_HINT")
        if not self._proof and b'type="FakeQuantize"' in xml:
            activations += ", 8 bits by the artifact's steps"
        elif group not in ("0", "not told"):
            activations += f", 8 bits in groups of {group} in quantized matrices"
        result = {
            "version": self._version,
            "device": self._device.lower(),
            "backend": self._backend,
            "weights": stored(xml),
            "activations": activations,
            "kv": ask("KV_CACHE_PRECISION"),
            "threads": ask("INFERENCE_NUM_THREADS"),
        }
        return result | ({"fallback": self._fallback} if self._fallback else {})

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        _words.check(ids, chunks, self._vocab, None)
        if self._runner is None:
            model = self._core.read_model(self._folder / XML)
            if self._proof:
                unrounded(model)
            self._runner = self._compile(self._core, model, self._device, self._properties)
        result: Floats | None = None
        start = 0
        for part in self._runner.run(ids, chunks):
            # Copied into one array at once: the engine's own buffer is overwritten by the next chunk.
            if result is None:
                result = np.empty((len(ids), part.shape[-1]), np.float32)
            result[start : start + len(part)] = part
            start += len(part)
        assert result is not None
        return result

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        _words.check(ids, None, self._vocab, None)
        if self._pipeline is None:
            properties = {**self._properties, "ATTENTION_BACKEND": self._backend}
            if self._backend == "PA":
                properties["scheduler_config"] = self._scheduler()
            if self._adapters:
                properties["adapters"] = self._genai.AdapterConfig(self._adapters)
            self._pipeline = self._genai.LLMPipeline(self._folder, self._device, **properties)
            self._tokenizer = self._tokenizer or self._pipeline.get_tokenizer()
        config = configured(self._genai, sampling)
        if self._adapters:
            # Said each time: what is left out stays as it was.
            config.adapters = self._genai.AdapterConfig(
                [self._adapters[sampling.adapter]] if sampling.adapter is not None else []
            )
        generation = _Generation(self._genai, self._pipeline, ids, sampling, config)
        try:
            yield from generation
        finally:
            generation.cancel()

    def flow(self) -> Flow:
        """By GenAI's continuous batching, a step at a time: only with paged attention. See engines."""
        if self._server is None:
            self._pipeline = None
            make = self._genai.ContinuousBatchingPipeline
            self._server = make(self._folder, self._scheduler(), self._device, dict(self._properties))
            self._tokenizer = self._tokenizer or self._server.get_tokenizer()  # another would take a tenth of a second
        return Flow(self._genai, self._server, self._vocab, self._words().decode)

    def encode(self, text: str) -> list[int]:
        ids = self._words().encode(text, add_special_tokens=False).input_ids
        return [int(number) for number in ids.data.reshape(-1)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._words().decode(list(ids))) if ids else ""

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        tokenizer = self._words()
        if not tokenizer.chat_template:
            return None
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], add_generation_prompt=True))

    def close(self) -> None:
        self._runner = self._pipeline = self._server = self._tokenizer = None

    def _words(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._genai.Tokenizer(self._folder)
        return self._tokenizer

    def _scheduler(self) -> Any:
        """A whole prompt in one step, nothing remembered of earlier ones; or, where that is asked for, remembered."""
        config = self._genai.SchedulerConfig()
        # The cache of prefixes wants prompts that may be split: without (GenAI 2026.4.1), of requests in flight that begin
        # alike, some answer nonsense.
        config.enable_prefix_caching = config.dynamic_split_fuse = self._reuse
        config.max_num_batched_tokens = SPLIT if self._reuse else max(self._context, 1 << 20)
        return config


def unrounded(model: Any) -> None:
    """Take out what rounds activations by steps: each reads from then on what it rounded."""
    for node in model.get_ops():
        if node.get_type_name() == "FakeQuantize":
            node.output(0).replace(node.input_value(0))


def asked(xml: Path) -> dict[str, str]:
    """What the graph itself asks of the engine (its runtime_options, which stand at the end of the file)."""
    with xml.open("rb") as file:
        file.seek(max(0, xml.stat().st_size - 4096))
        options = file.read().partition(b"<runtime_options>")[2]
    return {name.decode(): value.decode() for name, value in re.findall(rb'<(\w+) value="([\w.]+)"', options)}


def _vocabulary(folder: Path) -> int:
    """Rows of the embedding: OpenVINO reads past its end without a word. Very many where config.json does not say."""
    try:
        return int(json.loads((folder / "config.json").read_bytes())["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1 << 31


class _Generation:
    """GenAI generates in a thread of its own (`generate` lets go of the GIL); its streamer hands tokens through a queue.

    The streamer waits for the GIL only to put a number into the queue, so a slow reader never stops the engine.
    """

    def __init__(self, genai: Any, pipeline: Any, ids: Sequence[int], sampling: Sampling, config: Any) -> None:
        self._genai, self._pipeline, self._stops = genai, pipeline, frozenset(sampling.stop_ids)
        self._ids, self._config = np.array([ids], np.int64), config
        self._queue: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._cancelled, self._held = False, sampling.constraint is not None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __iter__(self) -> Iterator[int]:
        self._thread.start()
        begun = False
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                if self._held and not begun:
                    raise UsageError(f"OpenVINO does not take the constraint: {str(item).strip()[-300:]}") from item
                raise EngineFailed(f"OpenVINO GenAI stopped: {str(item)[:300]}") from item
            begun = True
            yield item

    def cancel(self) -> None:
        """Stop at the next token and wait for the engine to let go."""
        self._cancelled = True
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        genai, take = self._genai, self._take

        base: Any = genai.StreamerBase

        class Streamer(base):  # type: ignore[misc]
            def write(self, token: int | Sequence[int]) -> Any:
                return take([token] if isinstance(token, int) else token)

            def end(self) -> None:
                pass

        try:
            import openvino

            self._pipeline.generate(openvino.Tensor(self._ids), self._config, Streamer())
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)

    def _take(self, tokens: Sequence[int]) -> Any:
        if self._cancelled:
            return self._genai.StreamingStatus.CANCEL
        for token in tokens:
            if token in self._stops:
                return self._genai.StreamingStatus.STOP
            self._queue.put(int(token))
        return self._genai.StreamingStatus.RUNNING


def choose(device: str, available: Sequence[str]) -> tuple[str, str]:
    """The device to use (OpenVINO's name) and, where it is not the one asked for, a sentence that says so."""
    if device not in ("auto", *DEVICES):
        raise UsageError(f"OpenVINO has no device {device!r}", f"one of: auto, {', '.join(DEVICES)}")
    wanted = "GPU" if device == "auto" else device.upper()
    found = [name for name in available if name.split(".")[0] == wanted]
    if found:
        return found[0], ""
    return "CPU", "" if device == "auto" else f"no {wanted} was found by OpenVINO; the CPU is used"


def stored(xml: bytes) -> str:
    """Element types of the weights, the one with the most bytes first, those below one part in a hundred left out."""
    total: dict[str, int] = {}
    for element_type, size in _CONSTANT.findall(xml):
        total[element_type.decode()] = total.get(element_type.decode(), 0) + int(size)
    shown = [name for name in sorted(total, key=lambda name: -total[name]) if total[name] * 100 >= sum(total.values())]
    return ", ".join(shown)


def _word(value: Any) -> str:
    names = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "uint8_t": "u8", "int8_t": "i8"}
    text = str(value).removeprefix("<Type: '").removesuffix("'>")
    return names.get(text, text)
