"""The pure parts of the comparison with other engines; none of these is run here."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from peers.floors import Ceilings, decode_seconds, floors, prefill_seconds
from peers.protocol import Batch, Stopwatch, Timings
from peers.report import tables
from peers.results import Failure, Sample, ratios, too_slow, verdict
from peers.shapes import SHAPES
from peers.spread import Spread
from peers.workloads import DECODE, OUTPUT, PROMPT, TTFT, WORKS, figures, make_batch

QWEN = SHAPES["qwen3-0.6b"]


def sample(engine: str, rate: float, repetition: int = 0, floor: float = 100.0) -> Sample:
    return Sample(
        "qwen3-0.6b", "bf16", "W1", engine, repetition, {DECODE: rate}, {DECODE: floor}, 1e10, 1e12
    )


def test_the_shapes_have_the_sizes_of_their_models() -> None:
    assert QWEN.step_bytes("bf16") == pytest.approx(0.95e9, rel=0.01)
    assert QWEN.step_bytes("int8") * 2 == QWEN.step_bytes("bf16")
    assert QWEN.kv_bytes_per_token == 28 * 8 * 128 * 2 * 2
    assert SHAPES["llama-3.2-1b"].step_weights == pytest.approx(1.04e9, rel=0.01)


def test_all_engines_get_the_same_requests_and_every_repetition_new_ones() -> None:
    for work in WORKS.values():
        batch, other = make_batch(work, 0), make_batch(work, 1)
        assert batch == make_batch(work, 0)
        assert not {tuple(p) for p in batch.prompts} & {tuple(p) for p in other.prompts}
        assert [len(p) for p in batch.prompts] == [len(p) for p in other.prompts]
        assert batch.output_lens == other.output_lens


def test_requests_share_their_prefix_and_nothing_else() -> None:
    batch = make_batch(WORKS["W5"], 0)
    assert len({tuple(prompt[:1024]) for prompt in batch.prompts}) == 1
    assert len({tuple(prompt) for prompt in batch.prompts}) == 32
    assert {len(prompt) for prompt in batch.prompts} == {1056}


def test_mixed_lengths_stay_in_their_range() -> None:
    batch = make_batch(WORKS["W4"], 0)
    assert all(32 <= len(prompt) <= 512 for prompt in batch.prompts)
    assert all(16 <= length <= 128 for length in batch.output_lens)
    assert len(set(batch.output_lens)) > 10


def test_a_trial_shrinks_lengths_and_keeps_a_single_output_token_single() -> None:
    assert WORKS["W5"].shrunk(8).shared_prefix == 128
    assert WORKS["W3"].shrunk(8).outputs == (1, 1)
    assert WORKS["W4"].shrunk(64).outputs == (2, 2)


def test_figures_of_one_request() -> None:
    work = WORKS["W1"]
    batch = make_batch(work, 0)
    found = figures(work, batch, Timings(first=[0.5], end=[0.5 + 1.27], counts=[128]))
    assert found == pytest.approx({DECODE: 100.0, TTFT: 500.0})


def test_figures_of_many_requests_count_to_the_last_token() -> None:
    batch = Batch([[1], [2]], [3, 5])
    timings = Timings(first=[0.1, 0.1], end=[1.0, 2.0], counts=[3, 5])
    assert figures(WORKS["W4"], batch, timings) == {OUTPUT: 4.0}


def test_an_answer_that_ends_early_is_no_figure() -> None:
    with pytest.raises(ValueError, match="output tokens"):
        figures(WORKS["W4"], Batch([[1]], [3]), Timings([0.1], [0.2], [2]))


def test_a_stopwatch_keeps_the_first_and_the_last_time() -> None:
    watch = Stopwatch(2)
    watch.tokens(0, 1)
    watch.tokens(1, 0)
    watch.tokens(0, 2)
    timings = watch.timings()
    assert timings.counts == [3, 0]
    assert 0 < timings.first[0] <= timings.end[0]
    assert timings.first[1] == 0


def test_single_stream_decoding_is_bound_by_reading_the_weights() -> None:
    work = WORKS["W1"]
    found = floors(work, QWEN, "bf16", make_batch(work, 0), Ceilings(50e9, 1e12))
    assert found[DECODE] == pytest.approx(50e9 / QWEN.step_bytes("bf16"))


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    work = WORKS["W3"]
    found = floors(work, QWEN, "bf16", make_batch(work, 0), Ceilings(50e9, 1e12))
    linear = 2 * QWEN.layers * QWEN.layer_weights
    assert 1e12 / (1.5 * linear) < found[PROMPT] < 1e12 / linear


def test_a_step_of_many_requests_takes_the_larger_of_both_floors() -> None:
    batch = Batch([[1] * 8] * 64, [2] * 64)
    by_memory = decode_seconds(QWEN, "bf16", batch, Ceilings(1e9, 1e15))
    by_arithmetic = decode_seconds(QWEN, "bf16", batch, Ceilings(1e15, 1e12))
    assert by_memory == pytest.approx(
        (QWEN.step_bytes("bf16") + 64 * 9 * QWEN.kv_bytes_per_token) / 1e9
    )
    assert by_arithmetic >= 64 * 2 * QWEN.step_weights / 1e12


def test_a_shared_prefix_is_computed_once() -> None:
    ceilings = Ceilings(1e15, 1e12)
    prompts = [[1] * 1056] * 32
    once = prefill_seconds(QWEN, "bf16", Batch(prompts, [1] * 32, 1024), ceilings)
    each = prefill_seconds(QWEN, "bf16", Batch(prompts, [1] * 32), ceilings)
    assert 10 < each / once < 32


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0-3.0)"
    assert Spread.of([3.0]).text(2) == "3.00"


def test_ratios_pair_the_runs_of_a_repetition() -> None:
    samples = [sample("windlass", 50), sample("vllm", 40), sample("windlass", 60, 1)]
    assert ratios(samples, "vllm", DECODE) == [1.25]


def test_a_ratio_above_one_means_less_time_too() -> None:
    ours = Sample("m", "bf16", "W1", "windlass", 0, {TTFT: 100.0}, {TTFT: 50.0}, 1, 1)
    theirs = Sample("m", "bf16", "W1", "vllm", 0, {TTFT: 150.0}, {TTFT: 50.0}, 1, 1)
    assert ratios([ours, theirs], "vllm", TTFT) == [1.5]
    assert ours.times_floor(TTFT) == 2.0


def test_the_verdict_is_over_the_best_peer() -> None:
    samples = [sample("windlass", 90), sample("vllm", 80), sample("openvino", 60)]
    found = verdict(samples, "bf16", "W1", DECODE)
    assert found is not None
    assert (found.peer, found.ratio.median, found.met) == ("vllm", 1.125, True)


@pytest.mark.parametrize(("rate", "floor"), [(79.0, 80.0), (90.0, 110.0)])
def test_a_target_is_missed_by_the_ratio_or_by_the_floor(rate: float, floor: float) -> None:
    found = verdict(
        [sample("windlass", rate, floor=floor), sample("vllm", 80)], "bf16", "W1", DECODE
    )
    assert found is not None
    assert found.met is False


def test_without_a_peer_there_is_no_verdict() -> None:
    assert verdict([sample("windlass", 90)], "bf16", "W1", DECODE) is None


def test_a_peer_of_less_than_half_the_best_rate_is_not_repeated() -> None:
    samples = [sample("windlass", 500), sample("vllm", 80), sample("llama_cpp", 39)]
    assert too_slow(samples, DECODE) == {"llama_cpp"}


def test_the_report_names_figures_verdicts_and_failures() -> None:
    samples = [sample("windlass", 90), sample("vllm", 80)]
    failure = Failure("qwen3-0.6b", "bf16", "", "openvino", "out of memory")
    console = Console(width=120, file=io.StringIO(), record=True)
    for table in tables(samples, [failure]):
        console.print(table)
    text = console.export_text()
    for word in ("1.12", "vllm", ">= 1", "<= 1.15", "openvino, all: out of memory"):
        assert word in text
