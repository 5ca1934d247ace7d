"""Counting the nodes of a HIP graph, over a stand-in for the runtime."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from windlass.errors import PluginError
from windlass_rocm.graphs import count_nodes, loaded_runtime

MAPPINGS = """\
7f00-7f10 r-xp 00000000 08:01 11 /usr/lib/libc.so.6
7f20-7f30 r--p 00000000 08:01 12 /opt/torch/lib/libamdhip64.so.7
7f30-7f40 r-xp 00001000 08:01 12 /opt/torch/lib/libamdhip64.so.7
"""


def test_the_runtime_is_the_copy_that_torch_loaded() -> None:
    assert loaded_runtime(MAPPINGS) == "/opt/torch/lib/libamdhip64.so.7"
    with pytest.raises(PluginError, match="torch is not a ROCm build"):
        loaded_runtime(MAPPINGS.splitlines()[0])


def runtime(code: int) -> Any:
    def nodes(graph: ctypes.c_void_p, array: None, count: Any) -> int:
        assert (graph.value, array) == (0xABC, None)
        count._obj.value = 42
        return code

    return SimpleNamespace(hipGraphGetNodes=nodes)


def test_nodes_are_counted_and_an_error_is_told() -> None:
    assert count_nodes(runtime(0), 0xABC) == 42
    with pytest.raises(PluginError, match="HIP error 1"):
        count_nodes(runtime(1), 0xABC)
