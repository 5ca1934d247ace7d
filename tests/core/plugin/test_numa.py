"""NUMA nodes as the kernel describes them, cut down to what this process may use."""

from pathlib import Path

import pytest

from windlass.plugin.host_memory import host_memory
from windlass.plugin.numa import numa_nodes, parse_list

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Two nodes of four processors and 32 GiB, and a third of memory alone."""
    for index, cpus in enumerate(("0-1,4-5", "2-3,6-7", "")):
        folder = tmp_path / f"nodes/node{index}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
        facts = {"MemTotal": 32, "MemFree": 10 + index, "Active(file)": 3, "Inactive(file)": 2}
        lines = [f"Node {index} {name}: {GIB // 1024 * n} kB" for name, n in facts.items()]
        (folder / "meminfo").write_text("\n".join([*lines, f"Node {index} HugePages_Total: 0"]))
    (tmp_path / "nodes/online").write_text("0-2\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: {96 * GIB // 1024} kB\nMemAvailable: {40 * GIB // 1024} kB\n"
    )
    return tmp_path


def allow(machine: Path, cpus: str, memories: str) -> None:
    status = f"Name:\tx\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{memories}\n"
    (machine / "proc/self/status").write_text(status)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8\n", {0, 1, 2, 3, 8}), ("5", {5}), ("\n", set())],
)
def test_a_list_of_processors(text: str, numbers: set[int]) -> None:
    assert parse_list(text) == numbers


def test_nodes_with_processors_and_memory(machine: Path) -> None:
    first, second = numa_nodes(machine / "proc", machine / "nodes")
    assert (first.index, first.cpus) == (0, {0, 1, 4, 5})
    assert (second.index, second.total, second.available) == (1, 32 * GIB, 16 * GIB)


@pytest.mark.parametrize(("cpus", "memories"), [("2-3", "0-2"), ("0-7", "1-2")])
def test_a_node_that_the_process_may_not_use_is_left_out(
    machine: Path, cpus: str, memories: str
) -> None:
    allow(machine, cpus, memories)
    (node,) = numa_nodes(machine / "proc", machine / "nodes")
    assert node.index == 1
    assert node.cpus <= {2, 3, 6, 7}


def test_only_processors_that_the_process_may_use_count(machine: Path) -> None:
    allow(machine, "1-2", "0-1")
    nodes = numa_nodes(machine / "proc", machine / "nodes")
    assert [node.cpus for node in nodes] == [{1}, {2}]


def test_the_memory_of_a_bound_process_is_that_of_its_node(machine: Path) -> None:
    allow(machine, "2-3", "0-2")
    memory = host_memory(machine / "proc", machine / "cgroup", machine / "nodes")
    assert (memory.total, memory.available) == (32 * GIB, 16 * GIB)


def test_a_container_limit_counts_on_top(machine: Path) -> None:
    allow(machine, "2-3", "0-2")
    (machine / "proc/self/cgroup").write_text("0::/\n")
    (machine / "cgroup").mkdir()
    (machine / "cgroup/memory.max").write_text(str(8 * GIB))
    assert host_memory(machine / "proc", machine / "cgroup", machine / "nodes").total == 8 * GIB


def test_a_machine_that_does_not_tell_has_no_nodes(tmp_path: Path) -> None:
    assert numa_nodes(tmp_path, tmp_path) == ()
