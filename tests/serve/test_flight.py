"""What an engine tells of a request, as events; and that its place is free before anyone hears of its end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from needs import needs
from slmops.engines import Options
from slmops.run import Artifact
from slmops.serve.answer import Answer
from slmops.serve.flight import Flight
from slmops.serve.request import Began, Caller, Ended, Event, Logprob, Outcome, Piece, Request


def answer(reading: Any = None, **changes: Any) -> Answer:
    return Answer(Outcome(Request("m", **changes), Caller("a", "user", ("m",))), lambda outcome: None, reading)


def read(flight: Flight, *news: dict[str, Any]) -> list[Event]:
    return [event for one in news for event in flight.read(one)]


def test_each_line_is_its_events() -> None:
    flight = Flight(answer())
    found = read(
        flight,
        {"prompt": 7, "cached": 3},
        {"text": "a", "tokens": 1},
        {"text": "", "tokens": 1},  # half a letter
        {"text": "b", "tokens": 2, "logprobs": [["b", -0.5, [["b", -0.5], ["c", -1.0]]]]},
        {"end": "length"},
    )
    told = (Logprob("b", -0.5, (("b", -0.5), ("c", -1.0))),)
    assert found == [Began(7, 3), Piece("a", (), 1), Piece("b", told, 2), Ended("length", 4, None)]


def test_one_line_may_say_it_all() -> None:
    found = read(Flight(answer()), {"prompt": 2, "cached": 0, "text": "all", "tokens": 1, "end": "stop"})
    assert found == [Began(2, 0), Piece("all", (), 1), Ended("stop", 1, None)]


def test_a_stop_string_ends_it_where_the_engine_would_go_on() -> None:
    flight = Flight(answer(stop=("END",)))
    found = read(flight, {"text": "well E", "tokens": 1}, {"text": "ND, and", "tokens": 1})
    assert found == [Piece("well ", (), 1), Ended("stop", 2, "END")]


def test_what_was_held_back_for_a_stop_string_comes_at_the_end() -> None:
    found = read(Flight(answer(stop=("END",))), {"text": "well E", "tokens": 1}, {"end": "length"})
    assert found == [Piece("well ", (), 1), Piece("E", (), 0), Ended("length", 1, None)]


class Enough:
    """What wants nothing behind the first text."""

    enough = False

    def take(self, event: Event) -> list[Event]:
        self.enough = self.enough or isinstance(event, Piece)
        return [event]


@needs("starlette", "xllamacpp")
@pytest.mark.parametrize("end", [{"end": "stop"}, {"end": "length"}, {}])
@pytest.mark.parametrize("text", ["x", "x END"])
def test_who_has_enough_at_the_very_end_frees_its_place_once(text: str, end: dict[str, str]) -> None:
    from slmops.serve.model import Model

    model = Model("m", Artifact(Path("none"), "gguf", (0,), None, False, None, {}, 4096, 100), None, Options(), 8)
    dropped: list[int] = []
    model._worker = worker = SimpleNamespace(drop=dropped.append)  # type: ignore[assignment]
    first, other = answer(Enough(), stop=("END",)), answer()
    for number, one in ((1, first), (2, other)):
        one.on_cancel = model._left
        model._flights[number] = Flight(one)
    news = [{"which": 1, "text": text, "tokens": 1, **end}, {"which": 2, "text": "y", "tokens": 1, "end": "stop"}]
    model._came(worker, [json.dumps({"news": news}).encode()])  # type: ignore[arg-type]
    assert model.running == 0
    assert (first.outcome.reason, other.outcome.reason) == ("tool_calls", "stop")
    assert dropped == ([] if end else [1])
