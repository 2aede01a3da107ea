"""Budgets: what they let in, what they refuse, and when to come again. Clocks are the test's own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from slmops.core.errors import Busy, PolicyRefused, SlmopsError
from slmops.engines import Constraint, Sampling
from slmops.serve.limits import DAY, MOST_CALLERS, Limits
from slmops.serve.request import Caller, Ended, Outcome, Request
from slmops.serve.request import Limits as Most

pytestmark = needs("starlette", "uvicorn")


class Clock:
    """Starts at noon of a day."""

    def __init__(self) -> None:
        self.now = 20_000.5 * DAY

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(4096, clock, clock)


def asked(limits: Limits, caller: Caller, most: int = 100) -> Outcome:
    request = Request("home", prompt="x", sampling=Sampling(max_tokens=most))
    limits.admit(request, caller)
    return Outcome(request, caller)


def done(limits: Limits, outcome: Outcome, prompt: int = 0, tokens: int = 0) -> None:
    outcome.prompt_tokens, outcome.tokens = prompt, tokens
    limits.ended(outcome)


def test_so_many_requests_a_minute(limits: Limits, clock: Clock) -> None:
    ann, bob = (Caller(name, limits=Most(requests_per_minute=6)) for name in ("ann", "bob"))
    for _ in range(6):
        done(limits, asked(limits, ann))
    with pytest.raises(Busy) as refused:
        asked(limits, ann)
    assert refused.value.seconds == pytest.approx(10) and refused.value.cause == "rate"
    asked(limits, bob)  # the budget of another
    clock.now += 10
    asked(limits, ann)
    with pytest.raises(Busy):
        asked(limits, ann)
    clock.now += 3600
    for _ in range(6):  # never more than a minute's worth at once
        asked(limits, ann)
    with pytest.raises(Busy):
        asked(limits, ann)


def test_so_many_at_once_and_none_is_counted_twice(limits: Limits) -> None:
    caller = Caller("ann", limits=Most(concurrent=2))
    first, second = asked(limits, caller), asked(limits, caller)
    with pytest.raises(Busy):
        asked(limits, caller)
    for _ in range(3):
        done(limits, first)
    third = asked(limits, caller)
    with pytest.raises(Busy):
        asked(limits, caller)
    second.request = Request("home", prompt="as it was fitted to its model")
    done(limits, second)
    done(limits, third)
    same = Request("home", prompt="x")
    for _ in range(2):  # several answers of one request
        limits.admit(same, caller)
    for _ in range(3):
        limits.ended(Outcome(same, caller))
    asked(limits, caller), asked(limits, caller)


def test_tokens_a_minute_are_reserved_and_given_back(limits: Limits, clock: Clock) -> None:
    caller = Caller("ann", limits=Most(tokens_per_minute=600))
    first = asked(limits, caller, 500)
    with pytest.raises(Busy) as refused:  # 100 are left while that one runs
        asked(limits, caller, 200)
    assert refused.value.seconds == pytest.approx(10)
    done(limits, first, prompt=30, tokens=70)
    second = asked(limits, caller, 500)
    done(limits, second, prompt=700, tokens=500)  # a prompt is counted once it was read: what is too much is owed
    with pytest.raises(Busy) as owed:
        asked(limits, caller, 1)
    assert owed.value.seconds == pytest.approx((1 + 700) / 10)
    clock.now += 71
    asked(limits, caller, 1)
    clock.now += 60
    asked(limits, caller, 1 << 17)  # who names no number is let in with all that there is


def test_tokens_a_day_until_midnight(limits: Limits, clock: Clock) -> None:
    caller = Caller("ann", limits=Most(tokens_per_day=1000))
    done(limits, asked(limits, caller, 400), prompt=100, tokens=400)
    with pytest.raises(Busy) as refused:
        asked(limits, caller, 501)
    assert refused.value.seconds == pytest.approx(DAY / 2)
    over = asked(limits, caller, 500)
    clock.now += DAY / 2
    done(limits, over, prompt=5, tokens=500)  # of yesterday
    asked(limits, caller, 1000)


def test_what_was_used_before_a_restart_counts(limits: Limits, clock: Clock) -> None:
    limits.spent([("ann", 400), ("bob", 999), ("ann", 500)])
    with pytest.raises(Busy):
        asked(limits, Caller("ann", limits=Most(tokens_per_day=1000)), 101)
    asked(limits, Caller("ann", limits=Most(tokens_per_day=1000)), 100)


def test_limits_that_change_hold_from_then_on(limits: Limits) -> None:
    for number in range(100):
        done(limits, asked(limits, Caller("ann", limits=Most(concurrent=9))))
        assert number < 100
    asked(limits, Caller("ann", limits=Most(requests_per_minute=1)))
    with pytest.raises(Busy):
        asked(limits, Caller("ann", limits=Most(requests_per_minute=1)))


def test_callers_that_others_make_up_take_no_memory(limits: Limits) -> None:
    for number in range(MOST_CALLERS + 50):
        done(limits, asked(limits, Caller(f"c{number}", limits=Most(concurrent=1))))
    assert len(limits._uses) == MOST_CALLERS


def test_a_model_of_others_is_refused_like_one_that_is_not_there(limits: Limits) -> None:
    caller = Caller("ann", models=("home*", "big:v2"))
    said = []
    for name in ("secret", "none"):
        with pytest.raises(PolicyRefused) as refused:
            limits.admit(Request(name, prompt="x"), caller)
        said.append(str(refused.value).replace(name, ""))
    assert said[0] == said[1]
    for name in ("home", "home:q4", "big:v2"):
        limits.admit(Request(name, prompt="x"), caller)
    with pytest.raises(PolicyRefused):
        limits.admit(Request("BIG:v2", prompt="x"), caller)


def test_the_desk_names_to_a_caller_what_is_theirs() -> None:
    """Nor does an error name what others have."""
    from slmops.serve.desk import Desk
    from slmops.serve.models import Models
    from slmops.serve.names import Names

    class Three(Models):
        names = ["home", "secret", "home:v2"]  # type: ignore[assignment]  # noqa: RUF012

    desk = Desk(Three(Names([])), [Limits(4096)])
    caller = Caller("ann", models=("home*",))
    assert asyncio.run(desk.names(caller)) == ["home", "home:v2"] and asyncio.run(desk.names(Caller())) == Three.names
    with pytest.raises(SlmopsError) as missing:
        asyncio.run(desk.ask(Request("home-none", prompt="x"), caller))
    assert "secret" not in f"{missing.value} {missing.value.cure}" and "home:v2" in missing.value.cure


@pytest.mark.slow
def test_opening_a_model_is_of_the_time_that_a_request_has() -> None:
    from slmops.core.errors import Unreachable
    from slmops.serve.desk import Desk
    from slmops.serve.models import Models
    from slmops.serve.names import Names

    class Slow(Models):
        def get(self, name: str) -> Any:
            time.sleep(1.0)
            return super().get(name)

    models = Slow(Names([]))
    desk, request, told = Desk(models, (), 0.1), Request("home", prompt="x"), Caller("ann")
    for ask in (desk.ask(request, told), desk.count(request, told), desk.embed("home", ["x"], told)):
        with pytest.raises(Unreachable, match=r"0\.1 s"):
            asyncio.run(ask)
    models.close()


def test_a_request_that_takes_too_long_is_given_up(made: Path) -> None:
    """Its place is free again, and it is told once to who counts."""
    from slmops.core.errors import Unreachable
    from slmops.engines import Options
    from slmops.serve.desk import Desk
    from slmops.serve.models import Models
    from slmops.serve.names import Entry, Names

    told: list[Any] = []

    class Told:
        def admit(self, request: Request, caller: Caller) -> None: ...

        def ended(self, outcome: Outcome) -> None:
            told.append((outcome.reason, outcome.tokens))

    async def asking() -> None:
        models = Models(Names([Entry("home", made / "gguf", options=Options(context=4096))]))
        try:
            await asyncio.to_thread(models.get, "home")  # its files take time of their own, on a busy machine
            for timeout in (0.4, 60.0):
                desk = Desk(models, [Told()], timeout)
                most = 4000 if timeout < 1 else 2
                # A form without an end: what the model would say by itself may be over before it is late.
                endless = Sampling(max_tokens=most, constraint=Constraint("grammar", "root ::= [a-z] root"))
                answer = await desk.ask(Request("home", prompt="x", sampling=endless), Caller())
                if timeout < 1:
                    with pytest.raises(Unreachable, match=r"0\.4 s"):
                        while not isinstance(await answer.next(), Ended):
                            pass
                    await asyncio.sleep(0.1)
                    assert not models.get("home")._flights
                else:
                    while not isinstance(await answer.next(), Ended):
                        pass
                    with pytest.raises(RuntimeError, match="has ended"):
                        await answer.next()
        finally:
            await asyncio.to_thread(models.close)

    asyncio.run(asking())
    assert [reason for reason, _ in told] == ["Unreachable", "length"]
