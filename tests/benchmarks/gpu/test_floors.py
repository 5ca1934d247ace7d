"""The least time that a GPU needs, against figures that were worked out by hand."""

from __future__ import annotations

import pytest

from gpu_peers.floors import (
    Ceilings,
    Chunk,
    Costs,
    decode_seconds,
    load_seconds,
    prefill_seconds,
    step_seconds,
)
from gpu_peers.models import CONFIGS, config_of

H200 = Ceilings(bandwidth=4.3e12, flops=790e12)
LLAMA = Costs.of(config_of("llama-3.1-8b"))


def test_a_decode_step_of_one_request_reads_all_weights() -> None:
    assert LLAMA.read_bytes(1) == pytest.approx(15.0e9, rel=0.001)
    assert LLAMA.kv_bytes_per_token == 128 * 1024
    step = decode_seconds(LLAMA, 1, 512, H200)
    assert step == pytest.approx((LLAMA.read_bytes(1) + 512 * 131072) / 4.3e12)


@pytest.mark.parametrize(
    ("model", "steps"),
    [
        ("llama-3.1-8b", (3.51, 4.49, 8.86)),
        ("qwen3-0.6b", (0.29, 1.15, 3.88)),
        ("qwen3-30b-a3b", (1.43, 14.6, 17.1)),
    ],
)
def test_steps_at_a_context_of_512_in_milliseconds(
    model: str, steps: tuple[float, float, float]
) -> None:
    costs = Costs.of(CONFIGS[model])
    found = [1e3 * decode_seconds(costs, batch, 512, H200) for batch in (1, 64, 256)]
    assert found == pytest.approx(steps, rel=0.02)


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    assert 1e3 * prefill_seconds(LLAMA, 1, 8192, H200) == pytest.approx(167, rel=0.01)
    slower = Ceilings(H200.bandwidth, H200.flops / 2)
    assert prefill_seconds(LLAMA, 1, 8192, slower) == pytest.approx(
        2 * prefill_seconds(LLAMA, 1, 8192, H200)
    )


def test_smaller_weights_halve_what_is_read() -> None:
    fp8 = Costs.of(config_of("llama-3.1-8b"), weight_bytes=1, kv_element_bytes=1)
    assert 2 * fp8.read_bytes(1) == LLAMA.read_bytes(1)
    assert 2 * fp8.kv_bytes_per_token == LLAMA.kv_bytes_per_token


def test_few_tokens_meet_few_experts() -> None:
    costs = Costs.of(config_of("qwen3-30b-a3b"))
    everything = costs.layers * (costs.dense + costs.experts * costs.expert) + costs.head
    assert costs.read_bytes(1) < 0.12 * 2 * everything
    assert costs.read_bytes(10000) == pytest.approx(2 * everything)


def test_a_chunk_sees_what_came_before_it() -> None:
    whole = LLAMA.attention_flops(Chunk(0, 300))
    parts = LLAMA.attention_flops(Chunk(0, 100)) + LLAMA.attention_flops(Chunk(100, 200))
    assert parts == whole


def test_a_load_of_one_request_is_its_prefill_and_its_steps() -> None:
    expected = prefill_seconds(LLAMA, 1, 10, H200)
    expected += decode_seconds(LLAMA, 1, 11, H200) + decode_seconds(LLAMA, 1, 12, H200)
    assert load_seconds(LLAMA, [(0, 10, 3)], 8, H200) == pytest.approx(expected)


def test_fewer_at_a_time_take_longer_and_cached_tokens_less() -> None:
    requests = [(0, 100, 20)] * 8
    together = load_seconds(LLAMA, requests, 8, H200)
    assert load_seconds(LLAMA, requests, 2, H200) > 3 * together
    assert load_seconds(LLAMA, [(4096, 100, 20)] * 8, 8, H200) < load_seconds(
        LLAMA, [(0, 4196, 20)] * 8, 8, H200
    )


def test_a_step_without_work_costs_the_weights() -> None:
    assert step_seconds(LLAMA, [Chunk(0, 1)], H200) > LLAMA.read_bytes(1) / H200.bandwidth
