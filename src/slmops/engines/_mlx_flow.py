"""mlx-lm's continuous batching: requests that come and go, a token of all of them at a time.

API: mlx_lm.generate.BatchGenerator and mlx_lm.models.cache.LRUPromptCache, 0.32 and later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed, SlmopsError
from slmops.engines import Likely, News, Sampling, _words
from slmops.engines._flow import Text, Weighed
from slmops.engines._masks import Mask, Masks
from slmops.ops.numpy import log_softmax

SAMPLES = frozenset({"min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "logprobs"})
PENALIZED = 64
"""Tokens that penalties look back at, as many as llama.cpp's do."""
PROMPTS = 8
"""Prompts that are computed together."""


@dataclass
class _Running:
    which: int
    text: Text
    cached: int | None
    """To be told with the first token."""
    logprobs: int | None
    constrained: Constrained | None


class Flow:
    """See engines.Flow."""

    def __init__(
        self,
        model: Any,
        masks: Masks,
        decode: Callable[[Sequence[int]], str],
        choose: Callable[[int | None], None],
        most: int,
        reuse: bool,
    ) -> None:
        """choose: an adapter, for the next call of the model. most: requests in flight; also the caches in memory, of those
        and of earlier ones together."""
        from mlx_lm.generate import BatchGenerator, StopSequences
        from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, trim_prompt_cache

        self._masks, self._decode, self._choose, self._most, self._reuse = masks, decode, choose, most, reuse
        sizes = {"completion_batch_size": most, "prefill_batch_size": min(most, PROMPTS)}
        self._fresh: Callable[[], Any] = lambda: BatchGenerator(model, **sizes)
        self._stops, self._can_trim, self._trim = StopSequences, can_trim_prompt_cache, trim_prompt_cache
        self._kept = LRUPromptCache(max_size=most)
        self._batches: dict[int | None, Any] = {}
        """By adapter: those of one are computed together."""
        self._running: dict[tuple[int | None, int], _Running] = {}
        """By adapter and mlx-lm's own number."""

    def add(self, which: int, ids: Sequence[int], sampling: Sampling) -> None:
        _words.check(ids, None, self._masks.vocab, None)
        sampler, processors, constrained = picks(sampling, self._masks, len(ids))
        adapter = sampling.adapter
        cache, rest = self._known(adapter, list(ids))
        reused = len(ids) - len(rest)
        if adapter not in self._batches:
            self._batches[adapter] = self._fresh()
        (number,) = self._batches[adapter].insert(
            [rest],
            [sampling.max_tokens],
            caches=[cache],
            all_tokens=[list(ids[:reused])],
            samplers=[sampler],
            logits_processors=[processors],
            stop_sequences=[self._stops([(stop,) for stop in sampling.stop_ids])],
        )
        self._running[adapter, number] = _Running(which, Text(self._decode), reused, sampling.logprobs, constrained)
        self._kept.trim_to(n_sequences=self._most - len(self._running))

    def _known(self, adapter: int | None, ids: list[int]) -> tuple[Any, list[int]]:
        """A cache of the longest prefix that is kept, and the tokens to compute: the last one always, for its logits."""
        cache, rest = self._kept.fetch_nearest_cache(adapter, ids) if self._reuse else (None, ids)
        if rest:
            return cache, rest
        if not self._can_trim(cache):
            return None, ids
        self._trim(cache, 1)
        return cache, ids[-1:]

    def cancel(self, which: int) -> None:
        for adapter, number in [key for key, one in self._running.items() if one.which == which]:
            del self._running[adapter, number]
            self._batches[adapter].remove([number])

    def step(self) -> list[News]:
        """Computes a token of each answer, and a part of the prompts that wait."""
        found: list[News] = []
        for adapter in {adapter for adapter, _ in self._running}:
            self._choose(adapter)
            try:
                _, came = self._batches[adapter].next()
            except Exception as error:  # whatever MLX raises leaves the batch in a state that nobody knows
                self._running.clear()
                self._end()
                raise EngineFailed(f"mlx-lm stopped: {type(error).__name__}: {str(error)[-300:]}") from error
            found += [self._news(adapter, one) for one in came]
        return found

    def _news(self, adapter: int | None, came: Any) -> News:
        one = self._running[adapter, came.uid]
        if one.constrained is not None and one.constrained.fault is not None:
            if came.finish_reason is None:
                self._batches[adapter].remove([came.uid])
            del self._running[adapter, came.uid]
            return News(one.which, error=one.constrained.fault)
        cached, one.cached = one.cached, None
        if came.finish_reason is not None:
            del self._running[adapter, came.uid]
            if self._reuse:
                self._kept.insert_cache(adapter, list(came.all_tokens), came.prompt_cache)
        if came.finish_reason == "stop":
            return News(one.which, one.text.rest(), 0, cached, end="stop")
        likely: tuple[Likely, ...] = ()
        if one.logprobs is not None:
            likely = (weighed(came.token, came.logprobs, one.logprobs).told(self._decode),)
        text = one.text.feed(came.token)
        if came.finish_reason is None:
            return News(one.which, text, 1, cached, likely)
        return News(one.which, text + one.text.rest(), 1, cached, likely, "length")

    def wake(self) -> None:
        """A step waits for the engine alone."""

    def close(self) -> None:
        for one in list(self._running.values()):
            self.cancel(one.which)
        self._end()
        self._kept.trim_to(n_sequences=0)

    def _end(self) -> None:
        for batch in self._batches.values():
            batch.close()
        self._batches.clear()


def picks(
    sampling: Sampling, masks: Masks, prompt: int
) -> tuple[Callable[[Any], Any] | None, list[Callable[[Any, Any], Any]], Constrained | None]:
    """mlx-lm's sampler (None: the likeliest), what it does to the logits before, and that of it which keeps to a constraint.
    A seed repeats the draws, whoever else draws at the same time.

    prompt: its tokens, which the processors see before those of the answer.
    """
    import mlx.core as mx
    from mlx_lm import sample_utils

    processors: list[Callable[[Any, Any], Any]] = sample_utils.make_logits_processors(
        repetition_penalty=None if sampling.repeat_penalty == 1 else sampling.repeat_penalty,
        repetition_context_size=PENALIZED,
        presence_penalty=sampling.presence_penalty,
        presence_context_size=PENALIZED,
        frequency_penalty=sampling.frequency_penalty,
        frequency_context_size=PENALIZED,
    )
    constrained = None
    if (mask := masks.begin(sampling)) is not None:
        processors.append(constrained := Constrained(mask, prompt))
    if sampling.temperature <= 0:
        return None, processors, constrained
    key = mx.random.key(sampling.seed)

    def draw(logprobs: Any) -> Any:
        nonlocal key
        key, now = mx.random.split(key)
        if sampling.top_p < 1:
            logprobs = sample_utils.apply_top_p(logprobs, sampling.top_p)
        if sampling.min_p > 0:
            logprobs = sample_utils.apply_min_p(logprobs, sampling.min_p)
        if 0 < sampling.top_k < masks.vocab:
            logprobs = sample_utils.apply_top_k(logprobs, sampling.top_k)
        return mx.random.categorical(logprobs * (1 / sampling.temperature), key=now)

    return draw, processors, constrained


class Constrained:
    """mlx-lm's processor of the logits that lets through what may be said next."""

    def __init__(self, mask: Mask, prompt: int) -> None:
        import mlx.core as mx

        self._mx: Any = mx
        self._mask, self._prompt = mask, prompt
        self.fault: SlmopsError | None = None
        """Of a constraint that became too much on the way. Not raised here: that would end all answers of the batch."""

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Waits for the token before, which is otherwise still being computed when this is asked."""
        try:
            allowed = self._mask.allowed(tokens[self._prompt :].tolist())
        except SlmopsError as error:
            self.fault = self.fault or error
            return logits
        return self._mx.where(self._mx.array(allowed)[None], logits, -float("inf"))


def weighed(token: int, logprobs: Any, most: int) -> Weighed:
    """logprobs [vocab]: the sum of those of 16 bits is not quite 1."""
    import mlx.core as mx

    logs = log_softmax(np.array(logprobs.astype(mx.float32))[None])[0]
    return Weighed.of(int(token), logs, most)
