"""ONNX Runtime GenAI: opens a folder with genai_config.json on the processor, a GPU or an NPU.

API: onnxruntime-genai's Config, Model, Generator, Tokenizer (src/python/python.cpp), 0.9 and later.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, EngineFailed, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Constraint, Footprint, Options, Sampling
from slmops.engines._flow import Weighed
from slmops.engines._guidance import guided
from slmops.engines._kept import Kept
from slmops.engines._pick import pick
from slmops.ops.numpy import log_softmax

FORMATS = ("onnx",)
MODULES = ("onnxruntime_genai",)
PACKAGE = "onnxruntime-genai"
EXTRA = "onnx"
CAN = frozenset({"logits", "generate", "encode", "render", "turns", "adapt"})
SAMPLES = frozenset({"repeat_penalty", "logprobs"})
CONSTRAINTS = frozenset({"json", "json_schema", "regex"})
DEVICES = ("cpu", "gpu", "npu")
KV = {"auto": 4.0, "f32": 4.0}
"""See engines. The graph's own: keys and values have the type that it computes in."""
FOOTPRINT = Footprint(base=68_000_000, copies=1.46, plain=2.4, efficiency=0.88)
PROVIDERS = {"gpu": ("cuda", "dml", "webgpu"), "npu": ("qnn", "OpenVINO")}
"""Device -> providers to try, in order. The processor needs none."""

GENERATE, MEASURE = "model.onnx", "logits.onnx"
"""Two graphs over the same weights: the first computes the logits of the last position, the second of every position."""
Tokens = np.ndarray[tuple[int], np.dtype[np.int32]]


def open(folder: Path, options: Options) -> OrtSession:
    """Open an artifact. A device that cannot be had falls back to the processor, and `effective` says so.

    For a proof the folder is a proof copy (formats/onnx.py: twin), whose graph says for itself that it computes in f32.
    Raises EngineFailed with the runtime's own words.
    """
    import onnxruntime_genai as og

    if options.device not in ("auto", *DEVICES):
        raise UsageError(f"ONNX Runtime has no device {options.device!r}", f"one of: auto, {', '.join(DEVICES)}")
    og.disable_telemetry_events()
    return OrtSession(og, folder, options)


class OrtSession:
    """See engines.Session. One graph is in memory at a time: both at once would hold the weights twice."""

    def __init__(self, og: Any, folder: Path, options: Options) -> None:
        self._og, self._folder, self._proof, self._threads = og, folder, options.proof, options.threads
        try:
            text = json.loads((folder / "genai_config.json").read_bytes())
            decoder, self._vocab = text["model"]["decoder"], int(text["model"]["vocab_size"])
            limit = int(text["model"]["context_length"])
            asked = [name for entry in decoder["session_options"]["provider_options"] for name in entry]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptInput(f"{folder}/genai_config.json cannot be read: {error!r}", "convert it again") from None
        self.context = min(options.context, limit)
        self._graph, self._files = "", tuple(options.adapters)
        self._model: Any = None
        self._adapters: Any = None
        self._kept, self._most = Kept[_Slot](0), options.parallel if options.reuse else 0
        self.reused = 0
        self._provider, fallback = self._pick(options.device, asked)
        self._load(GENERATE)
        self._adapt()
        self._tokenizer = og.Tokenizer(self._model)
        self._tokenizer.update_options(add_special_tokens="false")
        self._quirks = quirks(folder)
        self._effective = self._describe() | ({"fallback": fallback} if fallback else {})

    @property
    def effective(self) -> Mapping[str, str]:
        return self._effective

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        if sum(chunks) != len(ids):
            raise UsageError(f"chunks {list(chunks)} do not add up to {len(ids)} tokens")
        tokens = self._tokens(ids)
        result: Floats = np.empty((len(tokens), self._vocab), np.float32)
        self._load(MEASURE)
        start = 0
        for part in self._run(tokens, chunks):
            result[start : start + len(part)] = part
            start += len(part)
        if start != len(tokens):
            raise EngineFailed(f"{MEASURE} gives logits of {start} positions for {len(tokens)} tokens")
        if self._proof:
            # What people run is the other graph: it must say the same.
            self._load(GENERATE)
            *_, last = self._run(tokens, chunks)
            if not np.allclose(last[-1], result[-1], rtol=1e-4, atol=1e-5 * float(np.abs(result[-1]).max())):
                raise EngineFailed(f"{GENERATE} and {MEASURE} compute different logits for the last position")
        return result

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        self.reused = 0
        self._load(GENERATE)
        tokens = self._tokens(ids)
        count = min(sampling.max_tokens, self.context - len(tokens))
        if count <= 0:
            return
        keeps = self._most and sampling.constraint is None and sampling.repeat_penalty == 1
        yield from self._going_on(ids, count, sampling) if keeps else self._alone(tokens, count, sampling)

    def _alone(self, tokens: Tokens, count: int, sampling: Sampling) -> Iterator[int]:
        """By a generator with the options of this request, which cannot be another's."""
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            options = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "random_seed": sampling.seed,
            }
        options["repetition_penalty"] = sampling.repeat_penalty
        generator = self._generator(len(tokens) + count, options, sampling.constraint)
        self._through(generator, sampling.adapter)
        generator.append_tokens(tokens)
        for left in range(count - 1, -1, -1):
            logs = None
            if sampling.logprobs is not None:
                logs = log_softmax(np.asarray(generator.get_logits(), np.float32).reshape(1, -1))[0]
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in sampling.stop_ids:
                return
            yield token if logs is None else Weighed.of(token, logs, sampling.logprobs or 0)
            if left and generator.is_done():
                # An end of the model's own that the caller does not stop at: the runtime leaves it out, so feed it.
                generator.append_tokens(np.array([token], np.int32))

    def _going_on(self, ids: Sequence[int], count: int, sampling: Sampling) -> Iterator[int]:
        """By a generator that may have another's prompt already, and picks nothing but the likeliest: draws are ours."""
        kept, needed = self._kept, len(ids) + count
        slot, self.reused = kept.take(sampling.adapter, ids, lambda one: one.room >= needed)
        held = [*ids]
        try:
            if slot is None:
                room = min(self.context, 2 * needed)  # the conversation's next turn is to fit too
                slot = _Slot(self._generator(room, {"do_sample": False}), room)
                self._through(slot.generator, sampling.adapter)
            else:
                slot.generator.rewind_to(self.reused)
            generator = slot.generator
            generator.append_tokens(np.array(ids[self.reused :], np.int32))
            drawn, chance = sampling.temperature > 0, np.random.default_rng(sampling.seed)
            for left in range(count - 1, -1, -1):
                logs, logits = None, np.empty(0, np.float32)
                if drawn or sampling.logprobs is not None:
                    logits = np.asarray(generator.get_logits(), np.float32).reshape(-1)
                if sampling.logprobs is not None:
                    logs = log_softmax(logits[None])[0]
                if drawn:
                    token = pick(logits, sampling, chance)
                else:
                    generator.generate_next_token()
                    token = int(generator.get_next_tokens()[0])
                if token in sampling.stop_ids:
                    return
                yield token if logs is None else Weighed.of(token, logs, sampling.logprobs or 0)
                if left and (drawn or generator.is_done()):
                    generator.append_tokens(np.array([token], np.int32))
                if left:
                    held.append(token)
        except Exception:
            slot = None
            raise
        finally:
            kept.give(sampling.adapter, held, slot)

    def encode(self, text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text) if self._quirks.composes else text
        return [int(token) for token in self._tokenizer.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token not in self._quirks.special]
        text = str(self._tokenizer.decode(np.asarray(kept, np.int32))) if kept else ""
        return text.removeprefix(" ") if self._quirks.strips else text

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        # The runtime invents a template where there is none.
        if not has_template(self._folder):
            return None
        try:
            return str(self._tokenizer.apply_chat_template(json.dumps(list(messages)), add_generation_prompt=True))
        except (RuntimeError, ValueError) as error:
            raise EngineFailed(f"ONNX Runtime cannot render the chat template: {error}") from None

    def close(self) -> None:
        self._kept = Kept(0)
        self._adapters = self._model = self._tokenizer = None
        self._graph = ""

    # ---- helpers

    def _run(self, tokens: Tokens, chunks: Sequence[int]) -> Iterator[Floats]:
        """Logits [positions, vocab] that the loaded graph gives for each chunk."""
        generator = self._generator(len(tokens), {"do_sample": False})
        start = 0
        for length in chunks:
            generator.append_tokens(tokens[start : start + length])
            yield np.asarray(generator.get_output("logits")[0], np.float32)
            start += length

    def _pick(self, device: str, asked: list[str]) -> tuple[str | None, str]:
        """(provider, or None for the processor; the sentence that says what could not be had)."""
        if device == "cpu" or (device == "auto" and not asked):
            return None, ""
        tried = asked if device == "auto" else PROVIDERS[device]
        reason = ""
        for provider in tried:
            try:
                self._model = self._og.Model(self._config(provider, GENERATE))
            except RuntimeError as error:
                reason = reason or str(error).splitlines()[0]
                continue
            self._graph = GENERATE
            return provider, ""
        wanted = f"the {device}" if device != "auto" else f"the provider {asked[0]} that the artifact was made for"
        return None, f"{wanted} cannot be had ({reason[:200]}), so the processor runs it"

    def _config(self, provider: str | None, graph: str) -> Any:
        config = self._og.Config(str(self._folder))
        options = {"intra_op_num_threads": self._threads} if self._threads else {}
        config.overlay(json.dumps({"model": {"decoder": {"filename": graph, "session_options": options}}}))
        config.clear_providers()
        if provider is not None:
            config.append_provider(provider)
        return config

    def _load(self, graph: str) -> None:
        if graph == self._graph:
            return
        self._adapters = self._model = None
        self._graph, self._kept = "", Kept(self._most)
        try:
            self._model = self._og.Model(self._config(self._provider, graph))
        except RuntimeError as error:
            raise EngineFailed(f"ONNX Runtime cannot open {self._folder.name}: {error}") from None
        self._graph = graph

    def _through(self, generator: Any, adapter: int | None) -> None:
        if adapter is not None:
            self._adapt()
            generator.set_active_adapter(self._adapters, str(adapter))

    def _adapt(self) -> None:
        """Load the adapters for the graph that is open."""
        if self._adapters is not None or not self._files:
            return
        adapters = self._og.Adapters(self._model)
        try:
            for number, file in enumerate(self._files):
                adapters.load(file, str(number))
        except RuntimeError as error:
            raise EngineFailed(f"ONNX Runtime does not take the adapter: {error}") from None
        self._adapters = adapters

    def _generator(self, length: int, options: Mapping[str, Any], constraint: Constraint | None = None) -> Any:
        params = self._og.GeneratorParams(self._model)
        match constraint:
            case Constraint("json"):
                params.set_guidance("json_schema", json.dumps(guided('{"type": "object"}')))
            case Constraint("json_schema", text):
                params.set_guidance("json_schema", json.dumps(guided(text)))
            case Constraint("regex", text):
                params.set_guidance("regex", text)
        # What generation_config.json asked for is the caller's to ask for: only what `options` says holds here.
        plain = {"repetition_penalty": 1.0, "min_length": 0, "num_beams": 1, "no_repeat_ngram_size": 0, **options}
        # The KV cache is allocated for all of max_length at once.
        params.set_search_options(max_length=length, **plain)
        try:
            return self._og.Generator(self._model, params)
        except RuntimeError as error:
            if constraint is None:
                raise
            raise UsageError(f"ONNX Runtime does not take the constraint: {str(error)[:300]}") from None

    def _tokens(self, ids: Sequence[int]) -> Tokens:
        if not 0 < len(ids) <= self.context:
            cure = "open the engine with a larger context"
            raise UsageError(f"{len(ids)} tokens do not fit a context of {self.context}", cure)
        tokens = np.asarray(ids, np.int64)
        if tokens.min() < 0 or tokens.max() >= self._vocab:
            raise UsageError(f"a token lies outside the vocabulary of {self._vocab}")
        return tokens.astype(np.int32)

    def _describe(self) -> dict[str, str]:
        generator = self._generator(1, {"do_sample": False})
        kv = {"float32": "f32", "float16": "f16"}.get(str(generator.get_input("past_key_values.0.key").dtype), "unknown")
        graph = (self._folder / GENERATE).read_bytes()
        by_row = b"DynamicQuantizeMatMul" in graph
        packed = by_row or b"MatMulNBits" in graph
        rounded = "8 bits, a scale a call" if by_row else "int8 in blocks"
        activations = rounded if packed and not self._proof and kv == "f32" else kv
        return {
            "version": str(self._og.__version__),
            "device": self._provider or "cpu",
            "weights": "codes, a scale a row" if by_row else "codes in blocks" if packed else "dense",
            "activations": activations,
            "kv": kv,
        }


@dataclass(frozen=True)
class _Slot:
    """A generator, and the tokens that it has room for."""

    generator: Any
    room: int


@dataclass(frozen=True)
class Quirks:
    """What tokenizer.json asks for and ONNX Runtime's tokenizer does not do."""

    composes: bool
    """Compose Unicode (NFC) before anything else: it leaves normalizers of byte-level tokenizers out."""
    strips: bool
    """Take the space away that a sentencepiece's first word begins with."""
    special: frozenset[int]
    """Special tokens: alone, they are decoded to a replacement character."""


def quirks(folder: Path) -> Quirks:
    try:
        text = (folder / "tokenizer.json").read_bytes()
        try:
            # The vocabulary, nearly all of the file, comes last as a rule, and is not asked for.
            data = json.loads(text[: text.index(b'"model":')].rstrip().removesuffix(b",") + b"}")
        except ValueError:
            data = json.loads(text)
        normalizer, decoder = data.get("normalizer") or {}, data.get("decoder") or {}
        return Quirks(
            composes=[step.get("type") for step in normalizer.get("normalizers", [normalizer])] == ["NFC"],
            strips=any(step.get("type") == "Strip" and step.get("start") for step in decoder.get("decoders", [decoder])),
            special=frozenset(int(token["id"]) for token in data.get("added_tokens") or () if token.get("special")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptInput(f"{folder}/tokenizer.json cannot be read: {error!r}", "convert it again") from None


def has_template(folder: Path) -> bool:
    """Whether the artifact carries a chat template, in a file of its own or in tokenizer_config.json."""
    if (folder / "chat_template.jinja").exists():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template"))
    except (OSError, ValueError):
        return False
