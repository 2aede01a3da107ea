"""OpenVINO GenAI's continuous batching: requests that come and go, a step of all of them at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slmops.core.errors import EngineCrashed, EngineFailed, SlmopsError, UsageError
from slmops.engines import Constraint, Likely, News, Sampling, _flow, _json_grammar, _words

SAMPLES = frozenset({"repeat_penalty", "frequency_penalty", "presence_penalty", "logprobs"})
CONSTRAINTS = frozenset({"json", "json_schema", "regex", "grammar"})


Decode = Callable[[list[list[int]]], list[str]]
"""The texts of rows of tokens, all of one length: a call takes 0.1 ms, whatever there is in it."""
SETTLING = 8
"""Steps that a pipeline has to forget a request that failed."""
MOST_KNOWN = 1000
"""Constraints that are remembered as good."""


class _Running:
    def __init__(
        self, handle: Any, sampling: Sampling, decode: Callable[[Sequence[int]], str], tried: Constraint | None
    ) -> None:
        self.handle, self.text, self.tried = handle, _flow.Text(decode), tried
        self.stops, self.logprobs, self.begun = frozenset(sampling.stop_ids), sampling.logprobs is not None, False


def _read(handle: Any) -> list[tuple[int, float]]:
    """The tokens that have come and their log-probabilities. Only what is there: reading an empty handle waits for ever."""
    found: list[tuple[int, float]] = []
    while handle.can_read():
        for part in handle.read().values():
            found += zip(map(int, part.generated_ids), map(float, part.generated_log_probs), strict=False)
    return found


def _stopped(error: RuntimeError) -> EngineFailed:
    return EngineFailed(f"OpenVINO GenAI stopped: {str(error).strip()[-300:]}")


class Flow:
    """See engines.Flow."""

    def __init__(self, genai: Any, pipeline: Any, vocab: int, decode: Decode) -> None:
        self._genai, self._pipeline, self._vocab, self._decode_all = genai, pipeline, vocab, decode
        self._ahead: dict[tuple[int, ...], str] = {}
        """Texts of the tokens of this step."""
        self._waiting: dict[int, tuple[tuple[int, ...], Sampling, Any]] = {}
        self._running: dict[int, _Running] = {}
        self._known: set[Constraint] = set()
        self._count = 0

    def add(self, which: int, ids: Sequence[int], sampling: Sampling) -> None:
        _words.check(ids, None, self._vocab, None)
        self._waiting[which] = (tuple(ids), sampling, configured(self._genai, sampling))

    def cancel(self, which: int) -> None:
        self._waiting.pop(which, None)
        if (one := self._running.pop(which, None)) is not None:
            one.handle.cancel()

    def _begin(self) -> list[News]:
        """Hand what waits to the pipeline, in its order. A constraint is compiled at the first token of who has it, and one
        that is wrong breaks the answers of all who are in that step: so each is tried alone, and known from then on."""
        import openvino

        while self._waiting:
            which, (ids, sampling, config) = next(iter(self._waiting.items()))
            new = sampling.constraint is not None and sampling.constraint not in self._known
            if self._tried() is not None or (new and self._running):
                break
            del self._waiting[which]
            self._count += 1  # a number of its own: `which` may come again while the pipeline still forgets the last
            tensor = openvino.Tensor(np.array([ids], np.int64))
            try:
                handle = self._pipeline.add_request(self._count, tensor, config)
            except RuntimeError as error:
                return [News(which, error=self._settled(error) if new else _stopped(error))]
            self._running[which] = _Running(handle, sampling, self._decode, sampling.constraint if new else None)
        return []

    def _settled(self, error: RuntimeError) -> SlmopsError:
        """What to say of a constraint that failed alone, once the pipeline has let go of who had it: that takes a step or
        two, which may fail in the same way."""
        for _ in range(SETTLING):
            if not self._pipeline.has_non_finished_requests():
                return UsageError(f"OpenVINO does not take the constraint: {str(error).strip()[-300:]}")
            with contextlib.suppress(RuntimeError):
                self._pipeline.step()
        return EngineCrashed("OpenVINO GenAI does not let go of a constraint that failed", "ask with another constraint")

    def _tried(self) -> int | None:
        """Who runs alone, with a constraint that is not known yet."""
        return next((which for which, one in self._running.items() if one.tried is not None), None)

    def step(self) -> list[News]:
        """Holds the GIL throughout."""
        found = self._begin()
        if not self._running:
            return found
        try:
            self._pipeline.step()
        except RuntimeError as error:
            if (which := self._tried()) is None:
                self.close()
                raise _stopped(error) from error
            self.cancel(which)
            return [*found, News(which, error=self._settled(error))]
        came = {which: (one.handle.get_status(), _read(one.handle)) for which, one in self._running.items()}
        self._look_ahead([self._running[which].text.ahead(new[0][0]) for which, (_, new) in came.items() if len(new) == 1])
        for which, (status, new) in came.items():
            one = self._running[which]
            found += self._came(which, one, status, new)
            if one.tried is not None and one.begun:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known.add(one.tried)
                one.tried = None
        return found

    def _look_ahead(self, rows: Sequence[tuple[int, ...]]) -> None:
        """Decode what a step brought in few calls; rows of one length together, for padding may be a token with a text."""
        self._ahead.clear()
        lengths: dict[int, list[tuple[int, ...]]] = {}
        for row in rows:
            lengths.setdefault(len(row), []).append(row)
        for alike in lengths.values():
            self._ahead.update(zip(alike, self._decode_all([list(row) for row in alike]), strict=True))

    def _decode(self, ids: Sequence[int]) -> str:
        found = self._ahead.get(tuple(ids))
        return self._decode_all([list(ids)])[0] if found is None else found

    def _came(self, which: int, one: _Running, status: Any, new: Sequence[tuple[int, float]]) -> list[News]:
        running = self._genai.GenerationStatus.RUNNING
        text, count, stopped = "", 0, False
        logprobs: list[Likely] = []
        for token, logprob in new:
            if stopped := token in one.stops:
                break
            text, count = text + one.text.feed(token), count + 1
            if one.logprobs:
                logprobs.append(Likely(self._decode([token]), logprob))
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
        for which in [*self._waiting, *self._running]:
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
            found = _json_grammar.grammar('{"type": "object"}')
            config.structured_output_config = genai.StructuredOutputConfig(grammar=found)
        case Constraint("json_schema", text):
            found = _json_grammar.grammar(text)
            words = {"json_schema": text} if found is None else {"grammar": found}
            config.structured_output_config = genai.StructuredOutputConfig(**words)
        case Constraint("regex", text):
            config.structured_output_config = genai.StructuredOutputConfig(regex=text)
        case Constraint("grammar", text):
            config.structured_output_config = genai.StructuredOutputConfig(grammar=text)
    return config
