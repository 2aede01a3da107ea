"""transformers on PyTorch: opens compressed-tensors folders and plain safetensors checkpoints. No remote code, ever.

Codes are de-quantized by compressed-tensors while loading, module by module: what runs is a dense model in the
checkpoint's dtype (bf16 then rounds scale * code). Proof mode does the same in f32, where nothing is lost.
"""

from __future__ import annotations

import gc
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed, EngineMissing, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Footprint, Options, Sampling, _adapters
from slmops.engines import Session as SessionProtocol
from slmops.engines._flow import Weighed
from slmops.engines._kept import Kept
from slmops.engines._masks import CONSTRAINTS as CONSTRAINTS
from slmops.engines._masks import Masks
from slmops.engines._words import Words, check
from slmops.ops.numpy import log_softmax

FORMATS = ("compressed_tensors", "huggingface")
MODULES = ("torch", "transformers", "compressed_tensors")
PACKAGE = "transformers"
EXTRA = "train"
INSTALL = 'pip install "slmops[train]"'
CAN = frozenset({"logits", "generate", "encode", "render", "turns", "embed", "adapt"})
SAMPLES = frozenset({"min_p", "repeat_penalty", "logprobs"})
DEVICES = ("cpu", "cuda", "mps")
KV = {"auto": 2.0}
"""See engines. The model's own dtype."""
FOOTPRINT = Footprint(base=380_000_000, dense=True, efficiency=0.5)
PREFILL = 2048
"""Prompt tokens that pass through the model at once: bounds the memory of activations."""


def open(folder: Path, options: Options) -> SessionProtocol:
    """Open a folder with config.json and safetensors."""
    return Session(folder, options)


class Session:
    """A causal language model of transformers, with a KV cache per call."""

    def __init__(self, folder: Path, options: Options) -> None:
        # Read by tqdm when it is imported: a worker's last words should not be progress bars.
        os.environ.setdefault("TQDM_DISABLE", "1")
        try:
            import torch
            import transformers
        except ImportError as error:
            raise EngineMissing(f"transformers cannot be loaded: {error}", INSTALL) from None
        if not (folder / "config.json").is_file():
            raise EngineFailed(f"{folder} has no config.json", "convert the model to compressed-tensors first")
        self._torch, self._transformers, self._folder = torch, transformers, folder
        if options.threads:
            torch.set_num_threads(options.threads)
        self._device = choose(options.device, torch)
        transformers.utils.logging.disable_progress_bar()
        self._model = self._load("float32" if options.proof else "auto")
        self._adapter: int | None = None
        """The one that the next run goes through."""
        self._attach(options.adapters)
        config = self._model.config
        self._vocab, self._context = int(config.vocab_size), options.context
        self._kept, self.reused = Kept[Any](options.parallel if options.reuse else 0), 0
        loader = transformers.AutoTokenizer
        self._words = Words(lambda: loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
        self._masks = Masks(folder, self._vocab, INSTALL)

    def _load(self, dtype: str) -> Any:
        options: dict[str, Any] = {}
        groups = (_quantization(self._folder).get("config_groups") or {}).values()
        if any((group.get("weights") or {}).get("symmetric") is False for group in groups):
            if len(groups) > 1:
                raise EngineFailed("transformers cannot mix schemes when one has zero points", "quantize with one scheme")
            # compressed-tensors 0.20 expects zero points unpacked unless transformers de-quantizes while it reads.
            options["quantization_config"] = self._transformers.CompressedTensorsConfig(dequantize=True)
        try:
            with warnings.catch_warnings():
                # It warns that the option above stands over the file's own.
                warnings.simplefilter("ignore", UserWarning)
                model, info = self._transformers.AutoModelForCausalLM.from_pretrained(
                    self._folder,
                    dtype=dtype,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    output_loading_info=True,
                    **options,
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineFailed(f"transformers: {str(error)[:300]}", "convert the model again") from error
        # transformers only warns, and fills what is missing with random numbers.
        for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            if info.get(fault):
                found = sorted(map(str, info[fault]))
                raise EngineFailed(f"transformers: {fault} {', '.join(found[:3])} ({len(found)} in all)")
        write_out(model)
        return model.to(self._device).eval()

    def _attach(self, files: Sequence[str]) -> None:
        """Put PEFT's files beside the model's matrices."""
        torch = self._torch
        able = {name: one for name, one in self._model.named_modules() if isinstance(one, torch.nn.Linear)}
        for number, file in enumerate(files):
            for module, a, b in _adapters.pairs(Path(file)):
                if module not in able:
                    raise _adapters.missing("transformers", module, list(able))
                dtype, device = able[module].weight.dtype, self._device
                low, high = (torch.from_numpy(one).to(device, dtype) for one in (a, b))

                def beside(_: Any, given: Any, found: Any, number: int = number, low: Any = low, high: Any = high) -> Any:
                    return found + (given[0] @ low.T) @ high.T if self._adapter == number else found

                able[module].register_forward_hook(beside)

    @property
    def effective(self) -> Mapping[str, str]:
        torch, dtype = self._torch, str(self._model.dtype).removeprefix("torch.")
        method = str(_quantization(self._folder).get("quant_method", ""))
        return {
            "version": f"transformers {self._transformers.__version__}, torch {torch.__version__}",
            "device": self._device,
            "backend": str(self._model.config._attn_implementation),
            "weights": f"{method} codes written out as {dtype}" if method else dtype,
            "activations": dtype,
            "kv": dtype,
            "threads": str(torch.get_num_threads()),
        }

    def _cache(self) -> Any:
        return self._transformers.DynamicCache(config=self._model.config)

    def _forward(self, ids: Sequence[int], cache: Any, keep: int, adapter: int | None = None) -> Any:
        """Logits [keep or len(ids), vocab] of the last positions; 0 keeps all."""
        self._adapter = adapter
        row = self._torch.tensor([list(ids)], dtype=self._torch.int64, device=self._device)
        return self._model(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=keep).logits[0]

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        check(ids, chunks, self._vocab, self._context)
        result = np.empty((len(ids), self._vocab), np.float32)
        cache, start = self._cache(), 0
        with self._torch.inference_mode():
            for length in chunks:
                part = self._forward(ids[start : start + length], cache, 0)
                result[start : start + length] = part.to("cpu", self._torch.float32).numpy()
                start += length
        return result

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        check(ids, None, self._vocab, self._context)
        pick = self._picker(sampling, len(ids))
        cache, self.reused = self._kept.take(sampling.adapter, ids, self._crops)
        if cache is None:
            cache = self._cache()
        else:
            cache.crop(self.reused - cache.get_seq_length())
        waiting, seen = list(ids[self.reused :]), list(ids)
        room = self._context - len(ids)
        try:
            for _ in range(min(sampling.max_tokens, room)):
                # inference_mode belongs to a thread, not to a suspended generator: never across a yield.
                with self._torch.inference_mode():
                    while len(waiting) > PREFILL:
                        self._forward(waiting[:PREFILL], cache, 1, sampling.adapter)
                        waiting = waiting[PREFILL:]
                    logits = self._forward(waiting, cache, 1, sampling.adapter)[-1:].float()
                    token = pick(seen, logits)
                if token in sampling.stop_ids:
                    break
                if sampling.logprobs is None:
                    yield token
                else:
                    yield Weighed.of(token, log_softmax(logits[0].cpu().numpy()), sampling.logprobs)
                waiting = [token]
                seen.append(token)
        except Exception:
            cache = None
            raise
        finally:
            self._kept.give(sampling.adapter, seen[: cache.get_seq_length() if cache is not None else 0], cache)

    def _crops(self, cache: Any) -> bool:
        """Whether any number of tokens can be taken off its end: not of a window that has slid on."""
        plain = self._transformers.cache_utils.DynamicLayer
        return all(type(layer) is plain for layer in cache.layers)

    def _picker(self, sampling: Sampling, prompt: int) -> Any:
        """(ids so far, of which so many are the prompt, logits [1, vocab]) -> token."""
        torch = self._torch
        from transformers import generation

        steps = generation.LogitsProcessorList()
        if sampling.repeat_penalty != 1:
            steps.append(generation.RepetitionPenaltyLogitsProcessor(float(sampling.repeat_penalty)))
        device = self._device
        if (mask := self._masks.begin(sampling)) is not None:

            def masked(seen: Any, logits: Any) -> Any:
                allowed = torch.from_numpy(mask.allowed(seen[0, prompt:].tolist())).to(logits.device)
                return logits.masked_fill(~allowed, -float("inf"))

            steps.append(masked)
        if sampling.temperature == 0:
            return lambda seen, logits: int(steps(torch.tensor([seen], device=device), logits).argmax())
        steps.append(generation.TemperatureLogitsWarper(float(sampling.temperature)))
        if 0 < sampling.top_k < self._vocab:
            steps.append(generation.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            steps.append(generation.TopPLogitsWarper(sampling.top_p))
        if sampling.min_p > 0:
            steps.append(generation.MinPLogitsWarper(float(sampling.min_p)))
        chance = torch.Generator(device="cpu").manual_seed(sampling.seed)

        def pick(seen: Sequence[int], logits: Any) -> int:
            weights = torch.softmax(steps(torch.tensor([seen], device=device), logits), dim=-1).cpu()
            return int(torch.multinomial(weights, 1, generator=chance))

        return pick

    def embed(self, ids: Sequence[int]) -> Floats:
        """The mean of the last hidden states of all positions."""
        check(ids, None, self._vocab, self._context)
        self._adapter = None
        with self._torch.inference_mode():
            row = self._torch.tensor([list(ids)], dtype=self._torch.int64, device=self._device)
            states = self._model.base_model(input_ids=row, use_cache=False).last_hidden_state[0]
            vector: Floats = states.to("cpu", self._torch.float32).mean(0).numpy()
        return vector

    def encode(self, text: str) -> list[int]:
        return self._words.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode(ids)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        return self._words.render(messages)

    def close(self) -> None:
        self._model = None
        self._kept = Kept(0)
        gc.collect()


def choose(device: str, torch: Any) -> str:
    """The device to use; raises UsageError for one that is not here."""
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.append("mps")
    if torch.cuda.is_available():
        here.append("cuda")
    if device == "auto":
        return here[-1]
    if device not in here:
        raise UsageError(f"transformers finds no device {device!r}", f"one of: auto, {', '.join(here)}")
    return device


def write_out(model: Any) -> None:
    """De-quantize what compressed-tensors left packed. Its own hook would do so at the first run, but leaves wrappers
    around every module, which are slow."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None or not hasattr(quantizer, "compressor"):
        return
    from compressed_tensors.compressors import decompress_module

    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            decompress_module(module, leave_decompressed=False)
    quantizer.compressor.remove_decompression_hook(model)


def _quantization(folder: Path) -> dict[str, Any]:
    """quantization_config of config.json; empty where dense."""
    found = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    return found if isinstance(found, dict) else {}
