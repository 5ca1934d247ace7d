"""Garbage collection rests while tests are collected.

pytest parses every module that it rewrites, and CPython 3.11's `ast.parse` fails when a collection
in its middle runs code that parses too ("AST constructor recursion depth mismatch").

Triton kernels run in Triton's interpreter, on the CPU, unless TRITON_INTERPRET=0 asks for a GPU.
"""

import gc
import os

import pytest

gc.disable()
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.enable()
