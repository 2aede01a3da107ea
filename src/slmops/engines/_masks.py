"""Which tokens may come next under a constraint, as llguidance tells it: for engines that leave the choice to us."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed, EngineMissing, UsageError
from slmops.engines import Constraint, Sampling
from slmops.engines._guidance import guided

CONSTRAINTS = frozenset({"json", "json_schema", "regex", "grammar"})
Allowed = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Masks:
    """For one artifact.

    vocab: the number of logits, which may be more than the tokenizer has tokens.
    install: the command that brings llguidance.
    """

    def __init__(self, folder: Path, vocab: int, install: str) -> None:
        self._file, self.vocab, self._install = folder / "tokenizer.json", vocab, install
        self._tokenizer = functools.lru_cache(1)(self._load)  # a walk through the whole vocabulary

    def begin(self, sampling: Sampling) -> Mask | None:
        """For one answer; None where anything may be said. Raises UsageError for what is no constraint."""
        if sampling.constraint is None:
            return None
        try:
            import llguidance
        except ImportError as error:
            raise EngineMissing(f"llguidance cannot be loaded: {error}", self._install) from None
        tokenizer = self._tokenizer(sampling.stop_ids)
        return Mask(llguidance.LLMatcher(tokenizer, _grammar(sampling.constraint), log_level=0))

    def _load(self, stops: tuple[int, ...]) -> Any:
        """stops: tokens that end an answer."""
        import llguidance

        try:
            return llguidance.LLTokenizer(str(self._file), n_vocab=self.vocab, eos_token=list(stops) or None)
        except ValueError as error:
            raise EngineFailed(f"llguidance: {str(error)[:300]}", "convert the model again") from None


def _grammar(constraint: Constraint) -> str:
    """As llguidance writes it."""
    from llguidance import LLMatcher, gbnf_to_lark

    found: str
    match constraint.kind:
        case "json":
            found = LLMatcher.grammar_from_json_schema(guided('{"type": "object"}'))
        case "json_schema":
            found = LLMatcher.grammar_from_json_schema(guided(constraint.text))
        case "regex":
            found = LLMatcher.grammar_from_regex(constraint.text)
        case "grammar":
            try:
                found = LLMatcher.grammar_from_lark(gbnf_to_lark.gbnf_to_lark(constraint.text))
            except Exception as error:  # a rule that is missing is a bare Exception there
                raise _refused(str(error)) from None
    return found


def _refused(why: str) -> UsageError:
    return UsageError(f"the constraint cannot be kept to: {' '.join(why.split())[:300]}")


class Mask:
    """Where an answer stands in what it must be."""

    def __init__(self, matcher: Any) -> None:
        self._matcher, self._seen = matcher, 0
        self._check()

    def allowed(self, made: Sequence[int]) -> Allowed:
        """[vocab]: what may follow the tokens made so far, of which there are more with each call; an end, after the end."""
        for token in made[self._seen :]:
            if not self._matcher.is_stopped():
                self._matcher.consume_token(int(token))
        self._seen = len(made)
        found: Allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) != 0
        self._check()
        return found

    def _check(self) -> None:
        if why := self._matcher.get_error():
            raise _refused(why)
