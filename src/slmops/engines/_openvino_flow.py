"""OpenVINO GenAI's continuous batching: requests that come and go, a step of all of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed, UsageError
from slmops.engines import Constraint, Likely, News, Sampling, _flow, _words

SAMPLES = frozenset({"repeat_penalty", "frequency_penalty", "presence_penalty", "logprobs"})
CONSTRAINTS = frozenset({"json", "json_schema", "regex", "grammar"})


class _Running:
    def __init__(self, handle: Any, sampling: Sampling, decode: Callable[[Sequence[int]], str]) -> None:
        self.handle, self.text = handle, _flow.Text(decode)
        self.held = sampling.constraint is not None
        """To a constraint that no step has seen yet."""
        self.stops, self.logprobs, self.begun = frozenset(sampling.stop_ids), sampling.logprobs is not None, False


class Flow:
    """See engines.Flow."""

    def __init__(self, genai: Any, pipeline: Any, vocab: int, decode: Callable[[Sequence[int]], str]) -> None:
        self._genai, self._pipeline, self._vocab, self._decode = genai, pipeline, vocab, decode
        self._running: dict[int, _Running] = {}
        self._count = 0

    def add(self, which: int, ids: Sequence[int], sampling: Sampling) -> None:
        import openvino

        _words.check(ids, None, self._vocab, None)
        self._count += 1  # a number of its own: `which` may come again while the pipeline still forgets the last
        tensor = openvino.Tensor(np.array([ids], np.int64))
        try:
            handle = self._pipeline.add_request(self._count, tensor, configured(self._genai, sampling))
        except RuntimeError as error:
            if sampling.constraint is None:
                raise
            raise UsageError(f"OpenVINO does not take the constraint: {str(error)[:300]}") from None
        self._running[which] = _Running(handle, sampling, self._decode)

    def cancel(self, which: int) -> None:
        if (one := self._running.pop(which, None)) is not None:
            one.handle.cancel()

    def step(self) -> list[News]:
        """Holds the GIL throughout, and reads only what is there: reading an empty handle would wait for ever."""
        try:
            self._pipeline.step()
        except RuntimeError as error:
            return self._blamed(error)
        for one in self._running.values():
            one.held = False
        found: list[News] = []
        for which, one in list(self._running.items()):
            found += self._came(which, one)
        return found

    def _blamed(self, error: RuntimeError) -> list[News]:
        """A constraint is compiled in the first step that it is part of: where that fails, it fails those alone that begin
        with one, and the others go on."""
        new = [which for which, one in self._running.items() if one.held]
        said = str(error).strip()[-300:]
        if not new:
            self.close()
            raise EngineFailed(f"OpenVINO GenAI stopped: {said}") from error
        for which in new:
            self.cancel(which)
        return [News(which, error=UsageError(f"OpenVINO does not take the constraint: {said}")) for which in new]

    def _came(self, which: int, one: _Running) -> list[News]:
        status, running = one.handle.get_status(), self._genai.GenerationStatus.RUNNING
        text, count, stopped = "", 0, False
        logprobs: list[Likely] = []
        while not stopped and one.handle.can_read():
            for part in one.handle.read().values():
                for token, logprob in zip(part.generated_ids, part.generated_log_probs, strict=False):
                    if stopped := token in one.stops:
                        break
                    text, count = text + one.text.feed(int(token)), count + 1
                    if one.logprobs:
                        logprobs.append(Likely(self._decode([int(token)]), float(logprob)))
        # Of what is reused, the pipeline tells no number.
        cached = 0 if count and not one.begun else None
        one.begun = one.begun or count > 0
        if not stopped and status == running:
            return [News(which, text, count, cached, tuple(logprobs))] if count else []
        self.cancel(which)
        if status == self._genai.GenerationStatus.IGNORED:
            fault = EngineFailed("OpenVINO has no room in its KV cache", "ask for a shorter answer, or with fewer at once")
            return [News(which, error=fault)]
        return [News(which, text + one.text.rest(), count, cached, tuple(logprobs), "stop" if stopped else "length")]

    def wake(self) -> None:
        """A step waits for the engine alone."""

    def close(self) -> None:
        for which in list(self._running):
            self.cancel(which)


def configured(genai: Any, sampling: Sampling) -> Any:
    """Stops are ours: generation_config.json's own end tokens are ignored, so that `stop_ids` alone decides."""
    config = genai.GenerationConfig()
    config.max_new_tokens = sampling.max_tokens
    config.ignore_eos = True
    config.apply_chat_template = False
    if sampling.temperature > 0:
        config.do_sample = True
        config.temperature, config.top_p, config.rng_seed = sampling.temperature, sampling.top_p, sampling.seed
        if sampling.top_k > 0:
            config.top_k = sampling.top_k
    config.repetition_penalty = sampling.repeat_penalty
    config.frequency_penalty, config.presence_penalty = sampling.frequency_penalty, sampling.presence_penalty
    if sampling.logprobs is not None:
        config.logprobs = 1
    match sampling.constraint:
        case Constraint("json"):
            config.structured_output_config = genai.StructuredOutputConfig(json_schema='{"type": "object"}')
        case Constraint("json_schema", text):
            config.structured_output_config = genai.StructuredOutputConfig(json_schema=text)
        case Constraint("regex", text):
            config.structured_output_config = genai.StructuredOutputConfig(regex=text)
        case Constraint("grammar", text):
            config.structured_output_config = genai.StructuredOutputConfig(grammar=text)
    return config
