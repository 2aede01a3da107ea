"""What a model thinks before it answers, told apart from the answer: <think>...</think>, as Qwen 3, SmolLM3, DeepSeek R1 and
their kin write it. Whether a template's model thinks, and can be told not to, is tried out on the template.

`enable_thinking` is the name that these templates share (https://huggingface.co/Qwen/Qwen3-0.6B).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from slmops.core import chat
from slmops.core.errors import Unsupported
from slmops.core.stops import overlap
from slmops.run import Artifact
from slmops.serve.request import Ended, Event, Logprob, Piece, Request, Thought
from slmops.serve.tools._reader import Reader

OPENS, CLOSES = "<think>", "</think>"
_ASKED = ({"role": "user", "content": "Probe."},)


@dataclass(frozen=True)
class Habit:
    """How a template's model thinks."""

    switch: bool
    """Whether it can be told not to."""
    begun: bool
    """Whether its prompt ends within a thought."""


def thinks(artifact: Artifact | None) -> bool:
    """Whether its template knows thoughts at all."""
    return artifact is not None and CLOSES in (artifact.chat_template or "")


def fit(request: Request, calls: Reader | None, artifact: Artifact) -> tuple[Request, Reader | Thoughts | None]:
    """What the model is to be asked, and what reads its answer: `calls` behind what tells thoughts apart.

    Raises Unsupported for a wish that the template cannot be told.
    """
    if request.think and not thinks(artifact):
        raise Unsupported("the chat template of this model knows no thoughts", "leave think out")
    if request.prompt is not None or not thinks(artifact):
        return request, calls
    habit = habit_of(artifact.chat_template or "", tuple((artifact.special or {}).items()))
    form = request.sampling.constraint
    # JSON holds from the first token; who writes a grammar or a regex of their own can have thoughts in it.
    if request.opening or (form is not None and form.kind in ("json", "json_schema")):
        if request.think:
            raise Unsupported("an answer whose form or beginning is set is not thought about first", "leave think out")
        return dataclasses.replace(request, think=False if habit.switch else None), calls
    if request.think is False and not habit.switch:
        raise Unsupported("the chat template of this model cannot be told not to think", "leave think out")
    return request, Thoughts(calls, habit.begun and request.think is not False)


@functools.lru_cache(maxsize=64)
def habit_of(template: str, special: tuple[tuple[str, str | None], ...]) -> Habit:
    """By what the template makes of a question. Raises CorruptInput for one that renders nothing at all."""
    plain, on, off = (chat.render(template, _ASKED, special=dict(special), think=think) for think in (None, True, False))
    return Habit(on != off, plain.rstrip().endswith(OPENS))


class Thoughts:
    """Takes an answer's events, and gives thoughts and the rest of it apart."""

    def __init__(self, calls: Reader | None, begun: bool) -> None:
        self._calls = calls
        self._inside: bool | None = True if begun else None
        """None: before anything but white space came."""
        self._likely: tuple[Logprob, ...] = ()
        """Of text that is held before anything is certain."""
        self._held, self._fresh = "", True
        """What may become a marker; whether what comes next is the first of its part."""

    @property
    def enough(self) -> bool:
        """See Reader."""
        return self._calls is not None and self._calls.enough

    def take(self, event: Event) -> list[Event]:
        """What is certain now."""
        match event:
            case Piece():
                return self._text(event)
            case Ended():
                rest, self._held = self._held, ""
                if self._inside:
                    return [*([Thought(kept)] if (kept := rest.rstrip()) else []), *self._on(event)]
                return [*(self._on(Piece(rest, self._likely, 0)) if rest and self._inside is None else []), *self._on(event)]
        return self._on(event)

    def _on(self, event: Event) -> list[Event]:
        return self._calls.take(event) if self._calls is not None else [event]

    def _text(self, piece: Piece) -> list[Event]:
        text, self._held = self._held + piece.text, ""
        if self._inside is None:
            start = text.lstrip()
            if len(start) < len(OPENS) and OPENS.startswith(start):
                self._held, self._likely = text, self._likely + piece.logprobs
                return []
            self._inside = start.startswith(OPENS)
            if not self._inside:
                self._fresh = False
                return self._on(dataclasses.replace(piece, text=text, logprobs=self._likely + piece.logprobs))
            text = start.removeprefix(OPENS)
        if not self._inside:
            text = text.lstrip() if self._fresh else text
            self._fresh = self._fresh and not text
            return self._on(dataclasses.replace(piece, text=text)) if text or piece.logprobs else []
        text = text.lstrip() if self._fresh else text
        thought, closed, rest = text.partition(CLOSES)
        if not closed:
            certain = text[: len(text) - overlap(text, CLOSES)].rstrip()
            self._held, self._fresh = text[len(certain) :], self._fresh and not certain
            return [Thought(certain)] if certain else []
        self._inside, self._fresh = False, True
        found: list[Event] = [Thought(kept)] if (kept := thought.rstrip()) else []
        # The logprobs of a piece that holds the end of a thought are of both: they are left out.
        return [*found, *self._text(Piece(rest, (), 0))]
