"""L6 on ranks that are threads, right and with faults planted, and on processes that end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import Store

from windlass.backend import Collectives, HostDevice
from windlass.testing.conformance.cases import Absent, Case, check_all
from windlass.testing.conformance.collective_checks import Rank, checks_for
from windlass.testing.conformance.collectives import collective_cases
from windlass.testing.recorded_graph import RecordingDevice

WORLD = 2


class Threads:
    """Where ranks that are threads lay down what the others may take."""

    def __init__(self) -> None:
        self.met = threading.Barrier(WORLD, timeout=5)
        self.places: list[torch.Tensor | None] = [None] * WORLD


class ThreadCollectives(Collectives):
    """The contract between two threads of one process."""

    name = "threads"
    capturable = True

    def __init__(self, threads: Threads, rank: int) -> None:
        self._threads = threads
        self.rank = rank

    def init(self, rank: int, world_size: int, store: Store, *, timeout: float = 60.0) -> None:
        raise NotImplementedError

    def exchange(self, x: torch.Tensor | None) -> list[torch.Tensor]:
        """A copy of what every rank laid down."""
        self._threads.places[self.rank] = x
        self._threads.met.wait()
        found = [place.clone() for place in self._threads.places if place is not None]
        self._threads.met.wait()
        return found

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(torch.stack(self.exchange(x)).sum(0, dtype=x.dtype))

    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        return torch.cat(self.exchange(x), dim)

    def reduce_scatter(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        return self.all_reduce(x.clone()).chunk(WORLD, dim)[self.rank].contiguous()

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        x.copy_(self.exchange(x)[source])

    def send(self, x: torch.Tensor, destination: int) -> None:
        del destination
        self.exchange(x)

    def receive(self, out: torch.Tensor, source: int) -> None:
        del source
        out.copy_(self.exchange(None)[0])

    def all_to_all(
        self, x: torch.Tensor, input_splits: list[int], output_splits: list[int]
    ) -> torch.Tensor:
        splits = torch.zeros(WORLD, WORLD, dtype=torch.int64)
        splits[self.rank] = torch.tensor(input_splits)
        splits = self.all_reduce(splits)
        everyone = zip(self.exchange(x), splits.tolist(), strict=True)
        parts = [rows.split_with_sizes(split)[self.rank] for rows, split in everyone]
        assert [len(part) for part in parts] == output_splits
        return torch.cat(parts)

    def barrier(self) -> None:
        self._threads.met.wait()

    def close(self) -> None:
        pass


class ForgetsTheLastRank(ThreadCollectives):
    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(self.exchange(x)[0])


class SumsHalfOfAnOddSize(ThreadCollectives):
    """Works on pairs of numbers, and leaves the last one out."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        total = super().all_reduce(x.clone()).flatten()
        x.flatten()[: len(total) // 2 * 2] = total[: len(total) // 2 * 2]
        return x


class GathersAlongTheFirstAxis(ThreadCollectives):
    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        del dim
        return torch.cat(self.exchange(x), 0)


class GathersInItsOwnOrder(ThreadCollectives):
    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        parts = self.exchange(x)
        return torch.cat(parts if self.rank == 0 else parts[::-1], dim)


class GathersWhatLiesThere(ThreadCollectives):
    """Takes a view's memory for its numbers."""

    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        packed = x.new_empty(x.shape)
        flat = torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())
        return super().all_gather(packed.copy_(flat.view(x.shape)), dim)


class ReducesIntoItsInput(ThreadCollectives):
    def reduce_scatter(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        return self.all_reduce(x).chunk(WORLD, dim)[self.rank].contiguous()


class ScattersTheOthersPart(ThreadCollectives):
    def reduce_scatter(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        return self.all_reduce(x.clone()).chunk(WORLD, dim)[1 - self.rank].contiguous()


class HandsOutItsBuffer(ThreadCollectives):
    """The next call writes into what the last one returned."""

    def __init__(self, threads: Threads, rank: int) -> None:
        super().__init__(threads, rank)
        self._buffers: dict[tuple[int, ...], torch.Tensor] = {}

    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        result = super().all_gather(x, dim)
        key = (*result.shape, result.dtype.itemsize, int(result.is_floating_point()))
        return self._buffers.setdefault(key, result).copy_(result)


class AlwaysFromTheFirst(ThreadCollectives):
    def broadcast(self, x: torch.Tensor, source: int) -> None:
        super().broadcast(x, 0)


class SendsEqualParts(ThreadCollectives):
    """Ignores the splits where the sum of rows allows it."""

    def all_to_all(
        self, x: torch.Tensor, input_splits: list[int], output_splits: list[int]
    ) -> torch.Tensor:
        result = super().all_to_all(x, input_splits, output_splits)
        return result.flip(0)


class WaitsForNobody(ThreadCollectives):
    def barrier(self) -> None:
        pass


FAULTS = {
    ForgetsTheLastRank: "all_reduce",
    SumsHalfOfAnOddSize: "all_reduce",
    GathersAlongTheFirstAxis: "all_gather",
    GathersInItsOwnOrder: "all_gather",
    GathersWhatLiesThere: "all_gather of a view",
    ReducesIntoItsInput: "reduce_scatter",
    ScattersTheOthersPart: "reduce_scatter",
    HandsOutItsBuffer: "results stay what they are",
    AlwaysFromTheFirst: "broadcast",
    SendsEqualParts: "all_to_all",
    WaitsForNobody: "barrier",
}


def run_threads(collectives: type[ThreadCollectives], case: str) -> list[str]:
    """What the ranks say against a case."""
    threads, store = Threads(), HashStore()

    def run(number: int) -> str:
        rank = Rank(
            collectives=collectives(threads, number),
            device=HostDevice(),
            dtypes=(torch.float32, torch.bfloat16),
            rank=number,
            world_size=WORLD,
            store=store,
        )
        try:
            checks_for(rank)[case](rank)
        except AssertionError as error:
            threads.met.abort()
            return str(error)
        except threading.BrokenBarrierError:
            return ""
        return ""

    with ThreadPoolExecutor(WORLD) as pool:
        return [said for said in pool.map(run, range(WORLD)) if said]


def case_names(device: HostDevice) -> Iterator[str]:
    rank = Rank(ThreadCollectives(Threads(), 0), device, (torch.float32,), 0, WORLD, HashStore())
    yield from checks_for(rank)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_collectives_is_caught(fault: type[ThreadCollectives]) -> None:
    assert run_threads(fault, FAULTS[fault])


@pytest.mark.parametrize("case", case_names(HostDevice()))
def test_collectives_without_a_fault_pass(case: str) -> None:
    assert not run_threads(ThreadCollectives, case)


def test_a_sum_in_a_graph_is_a_case_where_it_is_declared() -> None:
    assert "all_reduce in a graph" not in case_names(HostDevice())
    assert "all_reduce in a graph" in case_names(RecordingDevice())


# Processes

PLUGIN = """
import multiprocessing, os
from windlass.plugin import Availability, BackendSpec, hookimpl

if {broken} and multiprocessing.parent_process():
    raise RuntimeError("no driver")

@hookimpl
def windlass_backend():
    return BackendSpec(name="ranks", target="ranks_backend:Backend", device_type="cpu", priority=1)

@hookimpl
def windlass_probe():
    return Availability.available()
"""
BACKEND = """
import os
from windlass.backend import TorchBackend, TorchCollectives

class Backend(TorchBackend):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.collectives = Crashing("gloo")

class Crashing(TorchCollectives):
    {fault}
"""
CRASHES = "def broadcast(self, x, source): os._exit(7)"
REFUSES = "def init(self, *args, **kwargs): raise RuntimeError('duplicate device')"


def cases(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    devices: int = 1,
    fault: str = "pass",
    broken: bool = False,
) -> Iterator[Case]:
    (folder / "ranks_plugin.py").write_text(PLUGIN.format(broken=broken))
    (folder / "ranks_backend.py").write_text(BACKEND.format(fault=fault))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "ranks_plugin", raising=False)
    return collective_cases("ranks", "ranks_plugin", devices)


def test_a_rank_that_crashes_fails_its_case_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cases(tmp_path, monkeypatch, fault=CRASHES)
    few = (case for case in found if case.name in ("broadcast", "all_to_all"))
    broadcast, all_to_all = check_all("L6", few)
    assert (broadcast.status, all_to_all.status) == ("failed", "passed")
    assert "exit status 7" in broadcast.reason


def test_ranks_that_cannot_share_a_device_leave_the_level_without_a_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Absent, match=r"cannot share the one device .* duplicate device"):
        next(cases(tmp_path, monkeypatch, fault=REFUSES))


@pytest.mark.parametrize("devices", [1, 2])
def test_ranks_without_a_backend_are_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    (outcome,) = check_all("L6", cases(tmp_path, monkeypatch, devices=devices, broken=True))
    assert (outcome.case, outcome.status) == ("the ranks join", "failed")
    assert "no driver" in outcome.reason
