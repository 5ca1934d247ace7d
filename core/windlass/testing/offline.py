"""Compiling Triton kernels for chips that are not here.

Triton compiles for a chip from its name alone, but not in a process that runs kernels in its
interpreter. So a child process does it: it is told where a function stands that gives a list of
`KernelSpec`, and for each of them it says what came out. What a chip's object file looks like only
its plugin knows: `inspect` names a function of the plugin that reads facts from a compiled kernel.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any

from windlass.errors import PluginError
from windlass.kernels.triton.launch import KernelSpec

Target = tuple[str, int | str, int]
"""Triton's name of a target: its backend, the architecture, the lanes of a warp."""


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """What became of one spec on one target.

    `error` is empty when it compiled. `shared_bytes` is what a program takes of the memory that
    its warps share, `facts` what `inspect` found, `expects` and `may_spill` are the spec's.
    """

    name: str
    error: str = ""
    seconds: float = 0.0
    shared_bytes: int = 0
    facts: Mapping[str, int] = field(default_factory=dict)
    expects: tuple[str, ...] = ()
    may_spill: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """What the spec expects and the kernel does not contain."""
        return tuple(name for name in self.expects if not self.facts.get(name))


class KernelTables(ABC):
    """What a backend's kernels are launched with: `BackendSpec.offline` names such an object.

    `architectures` are those that are proved, in the plugin's words ("sm_90", "gfx942").
    """

    architectures: tuple[str, ...]


class OfflineKernels(KernelTables):
    """A backend's kernels, to be compiled for chips that are not here."""

    @abstractmethod
    def target(self, arch: str) -> Target:
        """Triton's name of the architecture."""

    @abstractmethod
    def specs(self, arch: str) -> list[KernelSpec]:
        """Every kernel as it is launched on the architecture."""

    def representative_specs(self, arch: str) -> list[KernelSpec]:
        """Of each kernel the last of its `specs`: as a rule the largest."""
        return list({id(spec.function): spec for spec in self.specs(arch)}.values())

    @abstractmethod
    def inspect(self, kernel: Any) -> Mapping[str, int]:  # noqa: ANN401 - triton has no types
        """Facts of a kernel that `triton.compile` gave.

        "spilled_bytes" is what did not fit into a lane's registers. Others are named as specs
        expect them: how often an instruction occurs.
        """

    @abstractmethod
    def shared_limit(self, arch: str) -> int:
        """Bytes of the memory that a program's warps share, at most."""

    def problems(self, compiled: CompiledKernel, arch: str) -> list[str]:
        """What is wrong with a kernel, one sentence each; empty when it is as it should be."""
        if compiled.error:
            return [f"it does not compile: {compiled.error}"]
        found = [f"it has no {name} instruction" for name in compiled.missing]
        limit = self.shared_limit(arch)
        if compiled.shared_bytes > limit:
            found.append(f"it takes {compiled.shared_bytes} B of shared memory, of {limit}")
        spilled = compiled.facts.get("spilled_bytes", 0)
        if spilled and not compiled.may_spill:
            found.append(f"it spills {spilled} B a lane")
        return found


def kernel_tables(offline: str) -> KernelTables:
    """What `BackendSpec.offline` ("module:attribute") names.

    Raises:
        PluginError: it is no `KernelTables`.
    """
    tables = _resolve(offline)
    if not isinstance(tables, KernelTables):
        raise PluginError(f"{offline} is no KernelTables, but {type(tables).__name__}")
    return tables


def offline_kernels(offline: str) -> OfflineKernels:
    """The same, when it can be compiled.

    Raises:
        PluginError: it is no `OfflineKernels`.
    """
    kernels = kernel_tables(offline)
    if not isinstance(kernels, OfflineKernels):
        raise PluginError(f"{offline} is no OfflineKernels, but {type(kernels).__name__}")
    return kernels


def compile_kernels(
    offline: str, arch: str, *, specs: str = "specs", timeout: float = 600.0
) -> list[CompiledKernel]:
    """Compile the kernels of an `OfflineKernels` ("module:attribute") for `arch`.

    `specs` is the method that gives them. Errors as of `compile_offline`.
    """
    return compile_offline(
        f"{offline}.{specs}",
        offline_kernels(offline).target(arch),
        inspect=f"{offline}.inspect",
        arguments=[arch],
        timeout=timeout,
    )


def compile_offline(
    specs: str,
    target: Target,
    *,
    inspect: str = "",
    arguments: Sequence[str] = (),
    timeout: float = 600.0,
) -> list[CompiledKernel]:
    """Compile what `specs` ("module:function", called with `arguments`) gives, in a new process.

    Dots after a colon go on, as in an entry point.

    Raises:
        RuntimeError: the process failed as a whole; the text is what it said.
    """
    order = json.dumps([specs, list(target), inspect, list(arguments)])
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.run(
        [sys.executable, "-m", __name__, order],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"offline compilation failed: {child.stderr[-4000:]}")
    results = json.loads(child.stdout.splitlines()[-1])
    return [CompiledKernel(**result) for result in results]


def compile_spec(
    spec: KernelSpec, target: Target, inspect: Callable[[Any], Mapping[str, int]] | None = None
) -> CompiledKernel:
    """Compile one kernel in this process, which must not run Triton's interpreter."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = spec.function.arg_names
    aligned = [
        (position,)
        for position, name in enumerate(names)
        if spec.signature[name].startswith("*") or name in spec.divisible
    ]
    source = ASTSource(
        fn=spec.function,
        signature={name: spec.signature[name] for name in names},
        constexprs=dict(spec.constants),
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    expects = tuple(sorted(spec.expects))
    started = time.monotonic()
    try:
        kernel = triton.compile(
            source, target=GPUTarget(*target), options=spec.config.launch_options()
        )
    except Exception as error:  # noqa: BLE001 - whatever the compiler says is the result
        return CompiledKernel(
            name=spec.name,
            error=_text(error),
            seconds=time.monotonic() - started,
            expects=expects,
            may_spill=spec.may_spill,
        )
    return CompiledKernel(
        name=spec.name,
        seconds=time.monotonic() - started,
        shared_bytes=kernel.metadata.shared,
        facts=inspect(kernel) if inspect else {},
        expects=expects,
        may_spill=spec.may_spill,
    )


def _text(error: BaseException) -> str:
    """An error with what caused it, innermost last: the compiler wraps its own."""
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(f"{type(current).__name__}: {current}")
        current = current.__cause__
    return "\n".join(parts)


def _resolve(target: str) -> Any:  # noqa: ANN401
    module, _, attributes = target.partition(":")
    return attrgetter(attributes)(importlib.import_module(module))


def main(order: str) -> None:
    """The child's work: print the results as the last line."""
    specs, target, inspect, arguments = json.loads(order)
    found = _resolve(inspect) if inspect else None
    results = [compile_spec(spec, tuple(target), found) for spec in _resolve(specs)(*arguments)]
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main(sys.argv[1])
