from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from windlass.request import SamplingParams
from windlass.text import IncrementalDetokenizer, Tokenizer

quick = settings(max_examples=60, deadline=None)
some_ids = st.lists(st.integers(0, 420), max_size=24)
some_text = st.text(
    st.sampled_from("ab h\u00e9\u4f60\u597d\U0001f600\u200d\ufffd\n")
    | st.characters(codec="utf-8"),
    max_size=12,
)
PLAIN = SamplingParams()


def groups(data: st.DataObject, ids: list[int]) -> list[list[int]]:
    """Any way of cutting a list into parts, empty ones included."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8), label="cuts"))
    borders = [0, *cuts, len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(borders)]


def stream(
    detokenizer: IncrementalDetokenizer, parts: list[list[int]]
) -> tuple[list[str], str | None]:
    """Every delta, and the stop string that ended the text."""
    deltas = []
    for part in parts:
        stop = detokenizer.append(part)
        deltas.append(detokenizer.take_delta())
        if stop is not None:
            return deltas, stop
    stop = detokenizer.finish()
    return [*deltas, detokenizer.take_delta()], stop


def first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """The naive model: the stop string that is complete first, of several the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return end - len(longest), longest
    return None


@quick
@given(ids=some_ids, skip=st.booleans(), data=st.data())
def test_stream_of_any_tokens_equals_the_whole_decode(
    tokenizer: Tokenizer, ids: list[int], skip: bool, data: st.DataObject
) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, SamplingParams(skip_special_tokens=skip), [])
    deltas, stop = stream(detokenizer, groups(data, ids))
    assert "".join(deltas) == detokenizer.text == tokenizer.decode(ids, skip_special_tokens=skip)
    assert stop is None
    assert detokenizer.num_tokens == len(ids)


def test_thousands_of_random_outputs_stream_as_they_decode_and_stop_where_they_should(
    tokenizer: Tokenizer,
) -> None:
    rng = random.Random(0)
    num_stopped = 0
    for _ in range(1250):
        ids = [rng.randrange(tokenizer.vocab_size + 3) for _ in range(rng.randrange(30))]
        whole = tokenizer.decode(ids)
        start = rng.randrange(len(whole) + 1)
        wanted = whole[start : start + rng.randint(1, 5)] or "never"
        stops = (wanted, wanted[::-1], wanted[:2] + "x")
        detokenizer = IncrementalDetokenizer(tokenizer, SamplingParams(stop=stops), [])
        deltas, stop = stream(detokenizer, [[token] for token in ids])
        end, found = first_stop(whole, stops) or (len(whole), None)
        assert ("".join(deltas), stop) == (whole[:end], found)
        num_stopped += stop is not None
    assert 600 < num_stopped < 1250


@quick
@given(text=some_text, data=st.data())
def test_no_delta_ends_inside_a_code_point(
    tokenizer: Tokenizer, text: str, data: st.DataObject
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole = tokenizer.decode(ids)
    deltas, _ = stream(IncrementalDetokenizer(tokenizer, PLAIN, []), groups(data, ids))
    assert "".join(deltas) == whole
    assert "".join(deltas).count("\ufffd") == whole.count("\ufffd")


@quick
@given(prompt=some_text, output=some_ids, data=st.data())
def test_text_goes_on_behind_the_prompt(
    tokenizer: Tokenizer, prompt: str, output: list[int], data: st.DataObject
) -> None:
    prompt_ids = tokenizer.encode(prompt)
    detokenizer = IncrementalDetokenizer(tokenizer, PLAIN, prompt_ids)
    deltas, _ = stream(detokenizer, groups(data, output))
    assert tokenizer.decode(prompt_ids) + "".join(deltas) == tokenizer.decode(prompt_ids + output)


@quick
@given(prompt=some_ids, output=some_ids)
def test_code_point_begun_in_the_prompt_is_completed(
    byte_level: Tokenizer, prompt: list[int], output: list[int]
) -> None:
    in_prompt = byte_level.piece_decoder().decode(prompt)
    detokenizer = IncrementalDetokenizer(byte_level, PLAIN, prompt)
    detokenizer.append(output)
    detokenizer.finish()
    assert in_prompt + detokenizer.text == byte_level.decode(prompt + output)


@quick
@given(ids=some_ids, include=st.booleans(), data=st.data())
def test_text_is_cut_at_the_first_stop_string_and_nothing_of_it_was_released(
    tokenizer: Tokenizer, ids: list[int], include: bool, data: st.DataObject
) -> None:
    whole = tokenizer.decode(ids)
    assume(whole)
    bounds = st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 6))
    parts = data.draw(st.lists(bounds, max_size=3), label="stops from the text")
    strays = data.draw(st.lists(some_text.filter(bool), max_size=2), label="other stops")
    stops = tuple(whole[start : start + length] for start, length in parts) + tuple(strays)
    sampling = SamplingParams(stop=stops, include_stop_str_in_output=include)

    deltas, stop = stream(IncrementalDetokenizer(tokenizer, sampling, []), groups(data, ids))

    expected = first_stop(whole, stops)
    if expected is None:
        assert (stop, "".join(deltas)) == (None, whole)
    else:
        start, found = expected
        assert stop == found
        assert "".join(deltas) == whole[: start + len(found) if include else start]


@quick
@given(text=st.text("ab", min_size=1, max_size=20), data=st.data())
def test_overlapping_stop_strings_over_token_borders(
    byte_level: Tokenizer, text: str, data: st.DataObject
) -> None:
    ids = [byte_level.encode(char)[0] for char in text]
    stops = tuple(
        data.draw(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4))
    )
    detokenizer = IncrementalDetokenizer(byte_level, SamplingParams(stop=stops), [])
    deltas, stop = stream(detokenizer, groups(data, ids))
    start, found = first_stop(text, stops) or (len(text), None)
    assert ("".join(deltas), stop) == (text[:start], found)
    assert detokenizer.num_tokens == start + len(found or "")


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        ("fox", "the quick brown "),
        ("the quick", ""),
        ("the quick brown fox", ""),
        (["brown fox jumps", "own"], "the quick br"),
        ("\u4f60", "the quick brown fox"),
    ],
)
def test_stop_string_examples(byte_level: Tokenizer, stop: str | list[str], shown: str) -> None:
    ids = byte_level.encode("the quick brown fox")
    detokenizer = IncrementalDetokenizer(byte_level, SamplingParams(stop=stop), [])
    deltas, _ = stream(detokenizer, [[token] for token in ids])
    assert "".join(deltas) == shown


def test_stop_string_of_several_bytes_is_found_when_its_last_byte_comes(
    byte_fallback: Tokenizer,
) -> None:
    ids = byte_fallback.encode("a\u4f60\u597db")
    detokenizer = IncrementalDetokenizer(byte_fallback, SamplingParams(stop="\u597d"), [])
    deltas, stop = stream(detokenizer, [[token] for token in ids])
    assert ("".join(deltas), stop) == ("a\u4f60", "\u597d")
    assert detokenizer.num_tokens == len(ids) - 1


def test_only_what_could_begin_a_stop_string_is_held_back(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level, SamplingParams(stop="STOP"), [])
    deltas = []
    for char in "xSTSTaS":
        detokenizer.append(byte_level.encode(char))
        deltas.append(detokenizer.take_delta())
    assert deltas == ["x", "", "", "ST", "", "STa", ""]
    detokenizer.finish()
    assert detokenizer.take_delta() == "S"
    assert detokenizer.text == "xSTSTaS"


def test_tokens_after_the_stop_string_are_not_used(byte_level: Tokenizer) -> None:
    ids = [byte_level.encode(char)[0] for char in "a.bcd"]
    detokenizer = IncrementalDetokenizer(byte_level, SamplingParams(stop="."), [])
    assert detokenizer.append(ids) == "."
    assert detokenizer.append(ids) is None
    assert detokenizer.finish() is None
    assert (detokenizer.text, detokenizer.num_tokens) == ("a", 2)


def test_stop_string_made_of_the_final_replacement_character(byte_level: Tokenizer) -> None:
    first_byte = byte_level.encode("\U0001f600")[0]
    detokenizer = IncrementalDetokenizer(byte_level, SamplingParams(stop="\ufffd"), [])
    assert detokenizer.append([first_byte]) is None
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.text == ""


def test_stop_strings_do_not_count_before_min_tokens(byte_level: Tokenizer) -> None:
    ids = [byte_level.encode(char)[0] for char in "a.b.c"]
    sampling = SamplingParams(stop=".", min_tokens=2)
    detokenizer = IncrementalDetokenizer(byte_level, sampling, [])
    assert detokenizer.append(ids) == "."
    assert detokenizer.text == "a.b"


def test_stop_string_begun_before_min_tokens_counts_when_it_ends_after(
    byte_level: Tokenizer,
) -> None:
    ids = [byte_level.encode(char)[0] for char in "xyz!"]
    detokenizer = IncrementalDetokenizer(byte_level, SamplingParams(stop="yz", min_tokens=2), [])
    assert detokenizer.append(ids) == "yz"
    assert detokenizer.text == "x"


def test_long_runs_of_broken_bytes_are_shown_as_they_come(tokenizers: dict[str, Tokenizer]) -> None:
    for name in ("byte_level", "byte_fallback"):
        tokenizer = tokenizers[name]
        byte = tokenizer.encode("\U0001f600")[-1]
        detokenizer = IncrementalDetokenizer(tokenizer, PLAIN, [])
        detokenizer.append([byte] * 2000)
        assert detokenizer.take_delta() == "\ufffd" * 2000


def test_ids_beyond_the_vocabulary_give_no_text(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("Hello"), 100_000, 2**31, 2**40]
    detokenizer = IncrementalDetokenizer(tokenizer, PLAIN, [])
    detokenizer.append(ids)
    detokenizer.finish()
    assert detokenizer.text.strip() == "Hello"


def test_special_tokens_are_shown_only_when_asked(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("hi<|eos|><think>")
    shown = {}
    for skip in (True, False):
        sampling = SamplingParams(skip_special_tokens=skip)
        detokenizer = IncrementalDetokenizer(byte_level, sampling, [])
        detokenizer.append(ids)
        shown[skip] = detokenizer.text
    assert shown == {True: "hi<think>", False: "hi<|eos|><think>"}


def test_first_output_token_keeps_its_space_behind_a_prompt(byte_fallback: Tokenizer) -> None:
    hello = byte_fallback.encode("Hello")
    for prompt, text in (([], "Hello"), ([1], "Hello"), (hello, " Hello")):
        detokenizer = IncrementalDetokenizer(byte_fallback, PLAIN, prompt)
        detokenizer.append(hello)
        assert detokenizer.text == text
