"""mlx-lm: on Apple silicon with Metal; elsewhere MLX's CPU back end, which is correct and slow."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed, EngineMissing, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Flow as FlowProtocol
from slmops.engines import Footprint, Options, Sampling
from slmops.engines import Session as SessionProtocol
from slmops.engines._flow import Turns
from slmops.engines._kept import Kept
from slmops.engines._masks import CONSTRAINTS as CONSTRAINTS
from slmops.engines._masks import Masks
from slmops.engines._mlx_adapters import attach
from slmops.engines._mlx_flow import SAMPLES as SAMPLES
from slmops.engines._mlx_flow import Flow, picks, weighed
from slmops.engines._words import Words, check

FORMATS = ("mlx",)
MODULES = ("mlx", "mlx_lm")
PACKAGE = "mlx-lm"
EXTRA = "mlx"
INSTALL = 'pip install "slmops[mlx]"'
CAN = frozenset({"logits", "generate", "encode", "render", "parallel", "turns", "adapt"})
DEVICES = ("cpu", "gpu")
ONCE = True
"""See engines: mlx-lm makes its stream when it is imported."""
KV = {"auto": 2.0, "q8": 1 + 2 * 2 / 64}
"""See engines. The model's own dtype, or 8 bits in groups with a scale and a bias (mlx_lm.models.cache)."""
FOOTPRINT = Footprint(base=272_000_000, chunk=2048, efficiency=0.8)


def open(folder: Path, options: Options) -> SessionProtocol:
    """Open an MLX folder. MLX chooses its own number of threads."""
    return Session(folder, options)


class Session:
    """A model of mlx-lm, with a prompt cache per call."""

    def __init__(self, folder: Path, options: Options) -> None:
        try:
            import mlx.core as mx
        except ImportError as error:
            raise EngineMissing(f"MLX cannot be loaded: {error}", INSTALL) from None
        # mlx-lm makes its stream on the default device when it is imported: choose first.
        self._device = choose(options.device, mx)
        mx.set_default_device(getattr(mx, self._device))
        try:
            from mlx_lm.generate import generate_step
            from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache
            from mlx_lm.utils import load_model, load_tokenizer
        except ImportError as error:
            raise EngineMissing(f"mlx-lm cannot be loaded: {error}", INSTALL) from None
        self._mx: Any = mx
        self._version = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mlx-lm", "mlx"))
        self._steps: Any = generate_step
        self._empty_cache, self._kv = make_prompt_cache, options.kv
        self._parallel, self._reuse = options.parallel, options.reuse
        self._trim, self._trims = trim_prompt_cache, can_trim_prompt_cache
        self._kept, self.reused = Kept[Any](options.parallel if options.reuse else 0), 0
        try:
            self._model, config = load_model(folder, trust_remote_code=False)
        except (ValueError, OSError, KeyError) as error:
            raise EngineFailed(f"mlx-lm: {str(error)[:300]}", "convert the model to mlx again") from error
        if options.proof:
            # Scales and biases too: f32 holds their products exactly.
            self._model.set_dtype(mx.float32)
            mx.eval(self._model.parameters())
        self._choose = attach(self._model, options.adapters)
        self._vocab, self._context = int(config["vocab_size"]), options.context
        self._quantization = config.get("quantization")
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        self._group = 32 if head % 64 else 64
        self._computed = ""
        self._words = Words(lambda: load_tokenizer(folder))
        self._masks = Masks(folder, self._vocab, INSTALL)
        self._cache()

    @property
    def effective(self) -> Mapping[str, str]:
        """Precisions as found: the dtype of the logits of one token tells what activations really are."""
        mx = self._mx
        if not self._computed:
            self._computed = _name(self._model(mx.array([[0]]), cache=self._cache()).dtype)
        norm = _name(self._model.model.norm.weight.dtype)
        codes = self._quantization
        result = {
            "version": self._version,
            "device": self._device,
            "weights": f"{codes['bits']} bits in groups of {codes['group_size']}" if codes else norm,
            "activations": self._computed,
            "kv": f"8 bits in groups of {self._group}" if self._kv == "q8" else self._computed,
        }
        if self._device == "cpu":
            result["fallback"] = "MLX's CPU back end is a reference, not fast: time it on Apple silicon"
        return result

    def _cache(self) -> Any:
        """A fresh cache; as codes from the first token on where that is asked for."""
        cache = self._empty_cache(self._model)
        if self._kv == "q8":
            try:
                return [layer.to_quantized(group_size=self._group, bits=8) for layer in cache]
            except (AttributeError, NotImplementedError):  # of a window, or of a state
                raise UsageError("mlx-lm does not quantize this model's KV cache", "leave --kv out") from None
        return cache

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        check(ids, chunks, self._vocab, self._context)
        mx = self._mx
        result = np.empty((len(ids), self._vocab), np.float32)
        cache, start = self._cache(), 0
        self._choose(None)
        for length in chunks:
            part = self._model(mx.array([list(ids[start : start + length])]), cache=cache)[0]
            result[start : start + length] = np.array(part.astype(mx.float32))
            start += length
        return result

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        check(ids, None, self._vocab, self._context)
        mx = self._mx
        room = self._context - len(ids)
        most = min(sampling.max_tokens, room)
        if most < 1:
            return
        sampler, processors, constrained = picks(sampling, self._masks, len(ids))
        # Processors look at the prompt too, so all of it must come by.
        cache, self.reused = self._kept.take(sampling.adapter, ids, lambda one: not processors and self._trims(one))
        if cache is None:
            cache = self._cache()
        else:
            self._trim(cache, cache[0].offset - self.reused)
        new, made = mx.array(list(ids[self.reused :])), list[int]()
        how = {"sampler": sampler, "logits_processors": processors, "prompt_cache": cache}
        steps = self._steps(new, self._model, max_tokens=most, **how)
        try:
            while True:
                self._choose(sampling.adapter)  # each time: others may have had their turn
                if (found := next(steps, None)) is None:
                    break
                if constrained is not None and constrained.fault is not None:
                    raise constrained.fault
                token, logprobs = found
                made.append(int(token))
                if made[-1] in sampling.stop_ids:
                    break
                yield made[-1] if sampling.logprobs is None else weighed(made[-1], logprobs, sampling.logprobs)
        except Exception:
            cache = None
            raise
        finally:
            steps.close()
            # The step behind the last token may have been computed already.
            held = [*ids, *made][: cache[0].offset] if cache is not None and self._trims(cache) else []
            self._kept.give(sampling.adapter, held, cache if held else None)

    def flow(self) -> FlowProtocol:
        """By mlx-lm's own batches, or in turns where it has none: for keys and values as codes, and some states."""
        if all(hasattr(layer, "merge") for layer in self._cache()):
            return Flow(self._model, self._masks, self._words.decode, self._choose, self._parallel, self._reuse)
        return Turns(self, several=True)

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
        self._mx.clear_cache()


def choose(device: str, mx: Any) -> str:
    """The device to use; raises UsageError for one that is not here."""
    gpu = bool(mx.is_available(mx.gpu))
    if device == "auto":
        return "gpu" if gpu else "cpu"
    if device not in DEVICES or (device == "gpu" and not gpu):
        raise UsageError(f"MLX finds no device {device!r}", "one of: auto, " + ("cpu, gpu" if gpu else "cpu"))
    return device


def _name(dtype: Any) -> str:
    """mlx.core.bfloat16 -> bfloat16."""
    return str(dtype).rsplit(".", 1)[-1]
