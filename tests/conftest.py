"""Garbage collection rests while tests are collected.

pytest parses every module that it rewrites, and CPython 3.11's `ast.parse` fails when a collection
in its middle runs code that parses too ("AST constructor recursion depth mismatch").

Triton kernels run in Triton's interpreter, on the CPU, unless TRITON_INTERPRET=0 asks for a GPU.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

gc.disable()
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(scope="session")
def jax_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The example backend in JAX, installed for this process and those that it starts."""
    pytest.importorskip("jax")
    site = tmp_path_factory.mktemp("jax_backend")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    source = Path(__file__).parents[1] / "examples/jax_backend"
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        # Tests compile much and compute little.
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        yield
