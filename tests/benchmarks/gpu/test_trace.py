"""What is read off a profiler's trace."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_peers.trace import STEP_NAME, read_trace

Event = dict[str, Any]


def annotation(start: float) -> Event:
    return {"cat": "user_annotation", "name": STEP_NAME, "ts": start, "dur": 5.0}


def launch(at: float, correlation: int) -> Event:
    return {"cat": "cuda_runtime", "name": "launch", "ts": at, "args": {"correlation": correlation}}


def kernel(name: str, start: float, duration: float, correlation: int) -> Event:
    return {
        "cat": "kernel",
        "name": name,
        "ts": start,
        "dur": duration,
        "args": {"correlation": correlation},
    }


def steps(number: int) -> list[Event]:
    """Each step launches one graph of three kernels, which ends long after the host went on."""
    events = []
    for i in range(number):
        at = 10.0 * i
        events += [annotation(at), launch(at + 1, i)]
        begin = 1000.0 + 100 * i
        events += [
            kernel("gemm", begin, 40, i),
            kernel("gemm", begin + 40, 20, i),
            # Starts before the second product has ended, and after a pause the step ends.
            kernel("norm", begin + 50, 15, i),
            {**kernel("copy", begin + 80, 10, i), "cat": "gpu_memcpy"},
        ]
    return events


def test_kernels_belong_to_the_step_that_launched_them() -> None:
    trace = read_trace(steps(5))
    assert trace is not None
    assert trace.steps == 4  # without the first
    assert [(k.name, k.count, k.microseconds) for k in trace.kernels] == [
        ("gemm", 2, 60),
        ("norm", 1, 15),
        ("copy", 1, 10),
    ]
    assert trace.kernel_count == 4


def test_idle_time_within_a_step_and_between_two() -> None:
    trace = read_trace(steps(5))
    assert trace is not None
    assert trace.span == pytest.approx(90)
    assert trace.busy == pytest.approx(75)
    assert trace.gap == pytest.approx(10)


def test_a_single_step_has_no_gap() -> None:
    trace = read_trace(steps(1))
    assert trace is not None
    assert (trace.steps, trace.gap) == (1, None)


def test_what_was_launched_outside_of_steps_is_left_out() -> None:
    stray = [launch(-5.0, 99), kernel("stray", 900, 50, 99), kernel("unknown", 900, 50, 100)]
    trace = read_trace(stray + steps(3))
    assert trace is not None
    assert {k.name for k in trace.kernels} == {"gemm", "norm", "copy"}


def test_nothing_on_the_device_is_no_trace() -> None:
    assert read_trace([annotation(0.0)]) is None
