"""One request of a client as one answer or several: asked together, read whole or as their events come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest

from slmops.serve.desk import Desk
from slmops.serve.model import Answer
from slmops.serve.request import Arguments, Began, Call, Ended, Event, Logprob, Piece, Request, Thought
from slmops.serve.wire._http import QUIET, caller, following


@dataclass
class Called:
    """A call of a function, with all of its arguments as JSON."""

    call: Call
    arguments: str = ""

    @property
    def object(self) -> dict[str, Any] | None:
        """The arguments; None where they broke off at a limit, or are no object."""
        try:
            found = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


@dataclass
class Whole:
    """All of an answer."""

    began: Began
    ended: Ended
    text: str
    logprobs: list[Logprob] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    thought: str = ""


async def begin(http: HttpRequest, desk: Desk, requests: Sequence[Request]) -> tuple[list[Answer], list[Began]]:
    """The answers once each has begun, so that what is wrong with a prompt is known before anything is sent.

    Raises what the desk and the engine raise, and ClientLeft; nothing is left at work then.
    """
    answers: list[Answer] = []
    try:
        for request in requests:
            answers.append(await desk.ask(request, caller(http)))
        began = []
        for answer in answers:
            event = await following(http, answer)
            assert isinstance(event, Began)
            began.append(event)
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
    return answers, began


async def whole(http: HttpRequest, answers: Sequence[Answer], began: Sequence[Began]) -> list[Whole]:
    """The rest of answers that have begun. Raises as `begin` does."""
    found = []
    try:
        for answer, beginning in zip(answers, began, strict=True):
            texts: list[str] = []
            one = Whole(beginning, Ended("stop", 0), "")
            while not isinstance(event := await following(http, answer), Ended):
                match event:
                    case Piece():
                        texts.append(event.text)
                        one.logprobs += event.logprobs
                    case Thought():
                        one.thought += event.text
                    case Call():
                        one.calls.append(Called(event))
                    case Arguments():
                        one.calls[-1].arguments += event.text
            one.text, one.ended, one.began = "".join(texts), event, answer.outcome.prompt
            found.append(one)
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
    return found


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, Event | None], None]:
    """(which answer, its next event) as they come, to the end of all; an event of None after QUIET seconds without one.

    Raises what an engine raises."""
    if len(answers) == 1:
        event: Event | None = None
        while not isinstance(event, Ended):
            event = await answers[0].next(QUIET)
            yield 0, event
        return
    events: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()

    async def pump(index: int) -> None:
        try:
            one: Event | None = None
            while not isinstance(one, Ended):
                one = await answers[index].next()
                assert one is not None
                events.put_nowait((index, one))
        except Exception as fault:
            events.put_nowait((index, fault))

    pumps = [asyncio.create_task(pump(index)) for index in range(len(answers))]
    left = len(answers)
    try:
        while left:
            try:
                async with asyncio.timeout(QUIET):
                    index, found = await events.get()
            except TimeoutError:
                yield 0, None
                continue
            if isinstance(found, Exception):
                raise found
            left -= isinstance(found, Ended)
            yield index, found
    finally:
        for one in pumps:
            one.cancel()
