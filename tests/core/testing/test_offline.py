"""Offline compilation: a child process compiles what it is pointed to, and says what went wrong."""

from __future__ import annotations

import pytest

from windlass.testing.offline import CompiledKernel, compile_offline

pytest.importorskip("triton")


def test_a_failing_child_says_why() -> None:
    with pytest.raises(RuntimeError, match="no_such_module"):
        compile_offline("no_such_module:specs", ("none", 0, 32))


def test_no_specs_give_no_results() -> None:
    assert compile_offline("builtins:list", ("none", 0, 32)) == []


def test_what_is_expected_and_not_found_is_missing() -> None:
    kernel = CompiledKernel(name="k", expects=("a", "b", "c"), facts={"a": 2, "b": 0})
    assert kernel.missing == ("b", "c")
