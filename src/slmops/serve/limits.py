"""How much each caller may ask for: requests and tokens a minute, tokens a day, requests at once. A watcher of the desk.

What a caller may at most be given is taken from the budget when a request is let in, and what was not used is given back
when it has ended: budgets hold although answers come later. A full minute's worth may come at once. Counts live in this
process.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from slmops.core.errors import Busy
from slmops.serve.request import UNLIMITED, Caller, Outcome, Request

MOST_CALLERS = 10_000
"""That are remembered: those of signed tokens are made by others."""
DAY = 86400
CAUSE = "rate"
"""By which metrics count who was refused here."""


@dataclass
class _Bucket:
    """Fills up within a minute; `left` may be negative, where an answer took more than was thought."""

    size: float
    left: float
    at: float

    def filled(self, now: float) -> float:
        self.left = min(self.size, self.left + (now - self.at) * self.size / 60)
        self.at = now
        return self.left

    def wait(self, wanted: float) -> float:
        """Seconds until so many are there."""
        return (wanted - self.left) * 60 / self.size


@dataclass
class _Use:
    """What one caller has of theirs in use."""

    requests: _Bucket
    tokens: _Bucket
    running: int = 0
    day: int = 0
    day_tokens: int = 0
    reserved: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By the identity of the request, which may be asked several times at once: tokens, and the day they were taken from."""


class Limits:
    """A watcher. Times are of `clock` (monotonic) and `now` (since 1970); days are UTC's."""

    def __init__(
        self, context: int, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        """context: the most tokens that any prompt and answer take together."""
        self._context, self._clock, self._now = context, clock, now
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._before: dict[tuple[str, int], int] = {}

    def admit(self, request: Request, caller: Caller) -> None:
        """Raises PolicyRefused for a model that is not theirs, whether it exists or not, and Busy."""
        caller.check(request.model)
        limits = caller.limits
        if limits == UNLIMITED:
            return
        use, clock, day = self._use(caller), self._clock(), self._today()
        if day != use.day:
            use.day, use.day_tokens = day, self._before.get((caller.name, day), 0)
        if limits.concurrent is not None and use.running >= limits.concurrent:
            raise Busy(f"{caller.name} has {use.running} requests at work already", "wait for one of them", cause=CAUSE)
        if limits.requests_per_minute is not None and use.requests.filled(clock) < 1:
            said = f"{caller.name} may ask {limits.requests_per_minute} times a minute"
            raise Busy(said, "try again in a moment", use.requests.wait(1), CAUSE)
        most = min(request.most, self._context)
        if limits.tokens_per_minute is not None:
            most = min(most, limits.tokens_per_minute)
            if use.tokens.filled(clock) < most:
                said = f"{caller.name} may have {limits.tokens_per_minute} tokens a minute"
                raise Busy(said, "ask for fewer tokens, or later", use.tokens.wait(most), CAUSE)
        if limits.tokens_per_day is not None:
            most = min(most, limits.tokens_per_day)
            if use.day_tokens + most > limits.tokens_per_day:
                said = f"{caller.name} may have {limits.tokens_per_day} tokens a day, {use.day_tokens} are used or asked for"
                raise Busy(said, "ask for fewer tokens, or tomorrow", DAY - self._now() % DAY, CAUSE)
        use.requests.left -= 1
        use.tokens.left -= most
        use.day_tokens += most
        use.running += 1
        use.reserved.setdefault(id(request), []).append((most, day))

    def ended(self, outcome: Outcome) -> None:
        """Give back what was reserved, and take what was used."""
        use = self._uses.get(outcome.caller.name)
        mark = id(outcome.original)
        if use is None or mark not in use.reserved:
            return
        most, day = use.reserved[mark].pop()
        if not use.reserved[mark]:
            del use.reserved[mark]
        used = outcome.prompt_tokens + outcome.tokens
        use.running -= 1
        use.tokens.filled(self._clock())
        use.tokens.left = min(use.tokens.size, use.tokens.left + most - used)
        if day == use.day:
            use.day_tokens += used - most

    def spent(self, used: Iterable[tuple[str, int]]) -> None:
        """Who had how many tokens of today's before this process began."""
        day = self._today()
        for name, tokens in used:
            self._before[name, day] = self._before.get((name, day), 0) + tokens

    def _today(self) -> int:
        return int(self._now() // DAY)

    def _use(self, caller: Caller) -> _Use:
        limits, clock = caller.limits, self._clock()
        size, tokens = float(limits.requests_per_minute or 0), float(limits.tokens_per_minute or 0)
        if (use := self._uses.get(caller.name)) is None:
            use = self._uses[caller.name] = _Use(_Bucket(size, size, clock), _Bucket(tokens, tokens, clock))
            while len(self._uses) > MOST_CALLERS:
                idle = next((name for name, one in self._uses.items() if not one.running), None)
                if idle is None or idle == caller.name:
                    break
                del self._uses[idle]
        self._uses.move_to_end(caller.name)
        for bucket, now in ((use.requests, size), (use.tokens, tokens)):
            if bucket.size != now:  # the file of keys has changed since
                bucket.size = bucket.left = now
        return use
