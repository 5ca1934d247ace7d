"""Programmatic dependent launch: a kernel starts while the one before it still runs.

CUDA programming guide, "Programmatic Dependent Launch and Synchronization"; compute capability 9.0
and later. Only the start overlaps: what a kernel does before `wait` may not depend on others.
"""

from __future__ import annotations

import triton
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from windlass.backend.triton.launch_arguments import LaunchArguments


@triton.jit
def wait():
    """Wait until the kernels before have ended and their writes are visible."""
    gdc_wait()


@triton.jit
def release():
    """Let the next kernel start; it still waits for this one's end before it reads."""
    gdc_launch_dependents()


def overlap(arch: str) -> LaunchArguments:
    """Arguments of a `LaunchConfig` on `arch` ("sm_90"): none where the chip cannot overlap."""
    if int(arch.removeprefix("sm_")) < 90:
        return {}
    return {"wait": wait, "release": release, "options": (("launch_pdl", True),)}
