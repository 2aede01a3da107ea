"""Stop strings in a stream."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmops.core.stops import Stops


def told(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    found = Stops(stops)
    text = "".join(found.feed(piece) for piece in pieces)
    return text + found.rest(), found.met is not None


def test_nothing_of_a_stop_string_is_given_however_it_is_cut() -> None:
    assert told(["<end>"], ["a<e", "nd>b"]) == ("a", True)
    assert told(["<end>"], ["a<", "e", "nx"]) == ("a<enx", False)
    assert told(["b", "ab"], ["xab"]) == ("x", True)
    assert told([], ["a", "b"]) == ("ab", False)
    assert told(["aab"], ["a", "a", "a", "b"]) == ("a", True)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_as_if_the_whole_text_were_cut_at_the_first(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    # The first piece after which one is there decides, and of those that are there then the leftmost.
    expected, met = text, False
    for count in range(len(pieces) + 1):
        places = [place for stop in stops if (place := "".join(pieces[:count]).find(stop)) >= 0]
        if places:
            expected, met = text[: min(places)], True
            break
    assert told(stops, pieces) == (expected, met)
