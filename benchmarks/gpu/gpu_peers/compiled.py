"""Which Triton kernels are compiled while requests are served: each makes them wait."""

from __future__ import annotations

import time
from typing import Any

from triton.runtime.jit import JITFunction


class Compilations:
    """Collects `seconds since construction, time it took, kernel` of every kernel from now on.

    A kernel that Triton finds in its cache on disk counts too: it is loaded, which takes less.
    Triton's own hooks cannot say what a kernel with device functions among its constants is.
    """

    def __init__(self) -> None:
        started = time.perf_counter()
        self.kernels: list[str] = []
        compile_kernel = JITFunction._do_compile

        def noted(function: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            begun = time.perf_counter()
            kernel = compile_kernel(function, *arguments, **options)
            took = time.perf_counter() - begun
            what = f"{function.fn.__name__} {arguments[:2]!s:.900}"
            self.kernels.append(f"{begun - started:7.2f} s, took {took:5.2f} s: {what}")
            return kernel

        JITFunction._do_compile = noted
