"""L7: a plugin's kernels, compiled for chips that need not be here, and examined."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from windlass.errors import PluginError
from windlass.plugin.discovery import PluginSource
from windlass.plugin.examine import examine
from windlass.testing.conformance.cases import Absent, Case, expect
from windlass.testing.offline import (
    CompiledKernel,
    OfflineKernels,
    compile_kernels,
    kernel_tables,
)


def offline_cases(source: PluginSource) -> Iterator[Case]:
    """The cases of L7 for one plugin: every kernel as it is launched on every architecture.

    Each architecture is compiled in a process of its own, as many at a time as there are cores.

    Raises:
        Absent: the plugin names no kernels (`BackendSpec.offline`), or they compile only where
            their device is.
        PluginError: the plugin does not describe itself.
    """
    findings = examine(source.name, source.load)
    if findings.spec is None:
        raise PluginError(findings.availability.reason)
    offline = findings.spec.offline
    if not offline:
        raise Absent("the plugin names no kernels that compile without its device")
    kernels = kernel_tables(offline)
    if not isinstance(kernels, OfflineKernels):
        raise Absent("the plugin's kernels compile only where their device is")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = {
            arch: pool.submit(compile_kernels, offline, arch) for arch in kernels.architectures
        }
        for arch, results in compiled.items():
            yield Case(f"{arch} compiles", partial(_compiles, results), arch)
            if results.exception() is None:
                for kernel in results.result():
                    check = partial(_examine, kernels, kernel, arch)
                    yield Case(f"{arch} {kernel.name}", check, arch)


def _compiles(results: Future[list[CompiledKernel]]) -> None:
    """The process ended well, with kernels of different names."""
    names = [kernel.name for kernel in results.result()]
    expect(bool(names), "the plugin names no kernels for this architecture")
    twice = {name for name in names if names.count(name) > 1}
    expect(not twice, f"several kernels are called {', '.join(sorted(twice))}")


def _examine(kernels: OfflineKernels, kernel: CompiledKernel, arch: str) -> dict[str, float]:
    """Nothing is wrong with it; the numbers are what the plugin found in it."""
    problems = kernels.problems(kernel, arch)
    expect(not problems, "; ".join(problems))
    numbers = {"seconds": kernel.seconds, "shared bytes": kernel.shared_bytes}
    return {**numbers, **kernel.facts}
