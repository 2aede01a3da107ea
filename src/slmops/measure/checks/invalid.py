"""What nobody should send: it must end in a named error or in an answer (as `expect` says), and the engine must live on.

One of: prompt or raw (a text, with and without the chat template), ids (token ids), tokens (a prompt of so many).
expect: error, answer, or either (the default).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slmops.core.errors import EngineCrashed, SlmopsError
from slmops.measure import checks
from slmops.run import tokens_of

INPUTS = ("prompt", "raw", "ids", "tokens")
KEYS, OPTIONAL = (), (*INPUTS, "expect", "max_tokens")


def read(keys: dict[str, Any], folder: Path) -> Callable[[checks.Subject], checks.Finding]:
    given = [name for name in INPUTS if name in keys]
    if len(given) != 1:
        raise ValueError(f"give one of {', '.join(INPUTS)}")
    (kind,) = given
    value, expect, most = keys[kind], keys.get("expect", "either"), checks.whole(keys, "max_tokens", 16)
    if expect not in ("error", "answer", "either"):
        raise ValueError(f"'expect' is error, answer or either, not {expect!r}")
    if kind in ("prompt", "raw") and not isinstance(value, str):
        raise ValueError(f"{kind!r} must be a text")
    if kind == "ids" and not (isinstance(value, list) and all(type(one) is int for one in value)):
        raise ValueError("'ids' must be a list of whole numbers")
    if kind == "tokens":
        checks.whole(keys, "tokens", 0)

    def ids(subject: checks.Subject) -> list[int]:
        if kind in ("ids", "tokens"):
            return list(value) if kind == "ids" else subject.ids(value)
        text = subject.artifact.prompt([{"role": "user", "content": value}]) if kind == "prompt" else value
        return tokens_of(subject.worker, subject.artifact, text)

    def ask(subject: checks.Subject) -> checks.Finding:
        try:
            text = "".join(token.text for token in subject.generate(ids(subject), most))
            came, said = "answer", f"answered: {text[:100]}"
        except EngineCrashed:
            raise
        except SlmopsError as error:
            came, said = "error", checks.told(error)
        # Whatever came: the same engine must still answer what makes sense.
        list(subject.generate(subject.ids(8), 2))
        passed = expect in ("either", came)
        return checks.Finding(passed, said if passed else f"{said} (expected: {expect})", {"came": came})

    return ask
