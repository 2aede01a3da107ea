"""Regular expressions as grammars of llama.cpp. That llama.cpp keeps to them is in test_flow.py."""

from __future__ import annotations

import pytest

from slmops.core.errors import Unsupported, UsageError
from slmops.engines import _regex


@pytest.mark.parametrize("pattern", ["(a", "[z-a]", "a{3,1}", "*", "(?P<n", "(?P=n)"])
def test_what_is_no_expression_is_said(pattern: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        _regex.grammar(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", "a(?=b)", "(?<!a)b", r"\bword\b", "(?i)abc", "(?m)^a$", r"\D+", r"a$b", "a{2000}", "(a)?(?(1)b|c)"]
)
def test_what_is_beyond_a_grammar_is_refused(pattern: str) -> None:
    with pytest.raises(Unsupported):
        _regex.grammar(pattern)


def test_letters_that_mean_something_in_a_grammar_are_escaped() -> None:
    text = _regex.grammar('["\\\\\\]^-]+"é\U0001f600|')
    assert text == r'root ::= (([\x22\x5C\x5D\x5E\x2D]){1,} "\x22" "\u00E9" "\U0001F600" | "")' + "\n"
    assert _regex.grammar("") == 'root ::= ""\n' and _regex.grammar("^$") == 'root ::= ""\n'
