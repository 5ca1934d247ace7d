"""Memory that may be used: the machine's, cut down by control groups."""

from pathlib import Path

import pytest

from windlass.plugin.host_memory import host_memory

GIB = 1 << 30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(
        f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {50 * GIB // 1024} kB\nHugePages: 0\n"
    )
    return folder


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_a_limit_it_is_the_machines(proc: Path, tmp_path: Path) -> None:
    memory = host_memory(proc, tmp_path / "cgroup", tmp_path / "nodes")
    assert (memory.total, memory.available) == (64 * GIB, 50 * GIB)


def test_a_parents_limit_counts(proc: Path, tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    (proc / "self/cgroup").write_text("0::/kube/pod/container\n")
    write(cgroup / "kube/pod", memory__max=8 * GIB, memory__current=3 * GIB)
    write(cgroup / "kube/pod/container", memory__max="max", memory__current=GIB)
    memory = host_memory(proc, cgroup, tmp_path / "nodes")
    assert (memory.total, memory.available) == (8 * GIB, 5 * GIB)


def test_cached_files_count_as_free(proc: Path, tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    (proc / "self/cgroup").write_text("0::/\n")
    write(cgroup, memory__max=8 * GIB, memory__current=6 * GIB)
    write(cgroup, memory__stat=f"anon 1\ninactive_file {2 * GIB}\nactive_file {GIB}")
    assert host_memory(proc, cgroup, tmp_path / "nodes").available == 5 * GIB


def test_version_1_groups(proc: Path, tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    (proc / "self/cgroup").write_text("4:cpu:/docker/x\n3:memory:/docker/x\n")
    unlimited = 9223372036854771712
    write(cgroup / "memory", memory__limit_in_bytes=unlimited, memory__usage_in_bytes=1)
    folder = cgroup / "memory/docker/x"
    write(folder, memory__limit_in_bytes=4 * GIB, memory__usage_in_bytes=GIB)
    memory = host_memory(proc, cgroup, tmp_path / "nodes")
    assert (memory.total, memory.available) == (4 * GIB, 3 * GIB)


def test_this_machine_has_memory() -> None:
    memory = host_memory()
    assert 0 < memory.available <= memory.total
