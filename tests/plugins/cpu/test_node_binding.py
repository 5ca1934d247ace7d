"""An engine per NUMA node: bound to its processors, untouched where there is one node only."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from windlass_cpu.node_binding import bind_to_node
from windlass_cpu.plugin import probe

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system has no affinity of threads"
)
GIB = 1 << 30


def make_nodes(folder: Path, *cpulists: str) -> Path:
    for index, cpus in enumerate(cpulists):
        node = folder / f"nodes/node{index}"
        node.mkdir(parents=True)
        (node / "cpulist").write_text(cpus)
        (node / "meminfo").write_text(f"Node {index} MemTotal: {(8 + index) * GIB // 1024} kB\n")
    return folder / "nodes"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc whose threads are one sleeping thread of this process, and one that has ended."""
    folder = tmp_path / "proc"
    (folder / "self/task").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal: {17 * GIB // 1024} kB\n")
    return folder


def bound_cpus(proc: Path, nodes: Path, device_index: int) -> set[int]:
    """The processors of a thread after the process was bound."""
    started, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (started.set(), done.wait()))
    thread.start()
    started.wait()
    (proc / f"self/task/{thread.native_id}").mkdir()
    (proc / "self/task/4194304").mkdir()
    try:
        bind_to_node(device_index, proc, nodes)
        assert thread.native_id is not None
        return os.sched_getaffinity(thread.native_id)
    finally:
        done.set()
        thread.join()


def test_threads_are_bound_to_the_processors_of_the_device(proc: Path, tmp_path: Path) -> None:
    mine = min(os.sched_getaffinity(0))
    nodes = make_nodes(tmp_path, "4000-4001", str(mine))
    assert bound_cpus(proc, nodes, 1) == {mine}


def test_one_node_changes_nothing(proc: Path, tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, str(min(os.sched_getaffinity(0))))
    assert bound_cpus(proc, nodes, 0) == os.sched_getaffinity(0)
    assert bind_to_node(0, proc, nodes) is None


def test_every_node_is_a_device(proc: Path, tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, "0-3", "4-7")
    devices = probe(proc, tmp_path / "cgroup", nodes).devices
    assert [(d.index, d.numa_node, d.total_bytes) for d in devices] == [
        (0, 0, 8 * GIB),
        (1, 1, 9 * GIB),
    ]


def test_a_single_node_is_no_device_of_its_own(proc: Path, tmp_path: Path) -> None:
    (device,) = probe(proc, tmp_path / "cgroup", make_nodes(tmp_path, "0-3")).devices
    assert device.numa_node is None
