"""Wire formats, one a file. Each reads its own bodies into serve.request.Request, and writes what comes back. A file holds

OWNS                     beginnings of the paths that are its own, whether a route is there or not; the longest that fits a
                         path decides
routes(desk) -> routes   Starlette's; they raise, and what is wrong is written by `error`
error(problem, request)  what is wrong (serve.faults.Problem) as this format has it, a JSON value; request: its id
"""

from __future__ import annotations

import functools
from types import ModuleType

from starlette.types import Scope

from slmops.core import plugins
from slmops.serve.faults import Problem
from slmops.serve.logs import TRAIL

ROOM = "serve.wire"


@functools.cache
def _owners() -> tuple[tuple[str, ModuleType], ...]:
    formats = [plugins.load(ROOM, name) for name in plugins.names(ROOM)]
    found = [(beginning, one) for one in formats for beginning in one.OWNS]
    return tuple(sorted(found, key=lambda pair: -len(pair[0])))


def error(scope: Scope, problem: Problem) -> object:
    """What is wrong with a request, as the format has it that its path belongs to."""
    owner = next(one for beginning, one in _owners() if scope["path"].startswith(beginning))
    return owner.error(problem, scope[TRAIL].id)
