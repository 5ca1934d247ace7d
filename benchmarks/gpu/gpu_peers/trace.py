"""What a profiler's trace says about steps: their kernels, and when the device was idle."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Event = Mapping[str, Any]

STEP_NAME = "windlass step"
_ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})


@dataclass(frozen=True)
class KernelUse:
    """A kernel's part of a step, on average."""

    name: str
    count: float
    microseconds: float


@dataclass(frozen=True)
class StepTrace:
    """Steps one after another, in microseconds: `span` from the first kernel of a step to the end
    of its last, `busy` the part of it in which a kernel ran, `gap` from there to the first kernel
    of the next step. Medians, without the first step, which the profiler's start delays."""

    steps: int
    kernels: tuple[KernelUse, ...]
    span: float
    busy: float
    gap: float | None

    @property
    def kernel_count(self) -> float:
        """Kernels and copies in a step."""
        return sum(kernel.count for kernel in self.kernels)


def read_trace(events: Iterable[Event]) -> StepTrace | None:
    """Read the events of a Chrome trace; None when nothing ran on a device.

    A kernel belongs to the step in whose annotation the host launched it.
    """
    starts: list[float] = []
    launched: dict[int, float] = {}
    on_device: list[Event] = []
    for event in events:
        category = event.get("cat")
        if category in _ON_DEVICE:
            on_device.append(event)
        elif category == "user_annotation" and event.get("name") == STEP_NAME:
            starts.append(event["ts"])
        elif "correlation" in event.get("args", {}):
            launched[event["args"]["correlation"]] = event["ts"]
    starts.sort()
    steps: list[list[Event]] = [[] for _ in starts]
    for event in on_device:
        at = launched.get(event.get("args", {}).get("correlation", -1))
        if at is not None and (step := bisect_right(starts, at)):
            steps[step - 1].append(event)
    steps = [step for step in steps[1:] or steps if step]
    return _summary(steps) if steps else None


def _summary(steps: Sequence[Sequence[Event]]) -> StepTrace:
    uses: defaultdict[str, list[float]] = defaultdict(list)
    for event in (event for step in steps for event in step):
        uses[event["name"]].append(event["dur"])
    kernels = [
        KernelUse(name, len(times) / len(steps), sum(times) / len(steps))
        for name, times in uses.items()
    ]
    begins = [min(event["ts"] for event in step) for step in steps]
    ends = [max(event["ts"] + event["dur"] for event in step) for step in steps]
    gaps = [begin - end for begin, end in zip(begins[1:], ends[:-1], strict=True)]
    return StepTrace(
        steps=len(steps),
        kernels=tuple(sorted(kernels, key=lambda kernel: -kernel.microseconds)),
        span=median(end - begin for begin, end in zip(begins, ends, strict=True)),
        busy=median(map(_covered, steps)),
        gap=median(gaps) if gaps else None,
    )


def _covered(step: Sequence[Event]) -> float:
    """Length of the union of the events' times; kernels may overlap."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted((event["ts"], event["ts"] + event["dur"]) for event in step):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
