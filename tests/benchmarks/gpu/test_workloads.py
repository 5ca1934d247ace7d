"""The requests: the same for every engine, new where they must be."""

from __future__ import annotations

import pytest

from gpu_peers.measure import lengths
from gpu_peers.workloads import Work, fixed, load, percentile, poisson, workloads

WORKS = {work.name: work for work in workloads([1, 64], 512, 8192, [8.0], 20.0)}


def test_every_test_has_its_workloads() -> None:
    assert list(WORKS) == [
        "decode@1",
        "decode@64",
        "prefill@8192",
        "nano",
        "mixed",
        "prefix",
        "online@8",
    ]


def test_requests_follow_from_the_seed() -> None:
    assert fixed(3, 20, 4, "a") == fixed(3, 20, 4, "a")
    assert fixed(3, 20, 4, "a") != fixed(3, 20, 4, "b")
    assert load(WORKS["mixed"], 1) == load(WORKS["mixed"], 1)
    assert load(WORKS["mixed"], 1) != load(WORKS["mixed"], 2)


def test_nano_is_the_load_that_others_publish_figures_of() -> None:
    batch = load(WORKS["nano"], "any")
    assert len(batch.prompts) == 256
    assert sum(batch.output_lens) == 133_966
    assert {100 <= len(prompt) <= 1024 for prompt in batch.prompts} == {True}


def test_mixed_lengths_have_the_means_of_sharegpt() -> None:
    batch = load(WORKS["mixed"], 1)
    assert sum(map(len, batch.prompts)) / 1000 == pytest.approx(210, rel=0.15)
    assert sum(batch.output_lens) / 1000 == pytest.approx(200, rel=0.15)


def test_a_prefix_is_shared_in_each_of_eight_groups() -> None:
    batch = load(WORKS["prefix"], 0)
    assert len({tuple(prompt[:4096]) for prompt in batch.prompts}) == 8
    assert len({tuple(prompt) for prompt in batch.prompts}) == 128
    computed = [known for known, _, _ in lengths(batch)]
    assert computed.count(0) == 8
    assert computed.count(4096) == 120


def test_requests_arrive_at_their_rate() -> None:
    arrivals = poisson(WORKS["online@8"])
    assert len(arrivals.at) == 160
    assert arrivals.at == sorted(arrivals.at)
    assert arrivals.at[-1] == pytest.approx(20, rel=0.3)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(i) for i in range(101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1)] == [50, 90, 99, 100]
    assert percentile([3.0], 0.99) == 3


def test_a_trial_is_smaller() -> None:
    small = {work.name: work for work in workloads([1], 512, 8192, [], 1.0, shrink=64)}
    assert small["decode@1"] == Work("decode@1", "decode", "decode", 1, 8)
    assert len(load(small["nano"], 0).prompts) == 4
