"""Garbage collection rests while tests are collected.

pytest parses every module that it rewrites, and CPython 3.11's `ast.parse` fails when a collection
in its middle runs code that parses too ("AST constructor recursion depth mismatch").
"""

import gc

import pytest

gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.enable()
