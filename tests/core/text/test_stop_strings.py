from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.text.stop_strings import StopStrings, compile_stop_strings

words = st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(stops=words, text=st.text("abc", max_size=30))
def test_state_is_the_longest_suffix_that_begins_a_stop_string(stops: list[str], text: str) -> None:
    automaton = StopStrings(tuple(stops))
    state = 0
    for end, char in enumerate(text, start=1):
        state = automaton.advance(state, char)
        seen = text[:end]
        prefixes = {stop[:k] for stop in stops for k in range(len(stop) + 1)}
        assert automaton.held(state) == max(len(p) for p in prefixes if seen.endswith(p))
        matches = [stop for stop in stops if seen.endswith(stop)]
        assert automaton.match(state) == max(matches, key=len, default=None)


def test_same_set_is_compiled_once() -> None:
    assert compile_stop_strings(("a", "b")) is compile_stop_strings(("a", "b"))
