"""What one of two ranks does in each case of L6, and what it must then hold.

Numbers are small integers, so that sums are exact in every dtype and in any order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.distributed.distributed_c10d import Store

from windlass.backend import Collectives, Device
from windlass.testing.conformance.cases import expect
from windlass.testing.conformance.compare import equal, short

SHAPES = ((1,), (7,), (3, 5), (33, 257), (0, 4))
_EVEN_SHAPES = ((2,), (6, 4), (34, 258))


@dataclass(frozen=True)
class Rank:
    """One end of the group: who it is, and the parts of the backend that it needs."""

    collectives: Collectives
    device: Device
    dtypes: tuple[torch.dtype, ...]
    rank: int
    world_size: int
    store: Store

    def numbers(
        self, shape: tuple[int, ...], dtype: torch.dtype, rank: int | None = None, seed: int = 0
    ) -> torch.Tensor:
        """Integers from -8 to 8 of this rank, or of another, on the device."""
        owner = self.rank if rank is None else rank
        generator = torch.Generator().manual_seed(1 + owner + 100 * seed)
        numbers = torch.randint(-8, 9, shape, generator=generator)
        return numbers.to(self.device.torch_device, dtype)

    def everyones(self, shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
        """The numbers of every rank."""
        return [self.numbers(shape, dtype, rank) for rank in range(self.world_size)]

    def same(self, found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
        """Fail unless the tensors are equal, in dtype too."""
        self.device.synchronize()
        expect(found.dtype is expected.dtype, f"{what}: {short(found.dtype)} came back")
        try:
            equal(found, expected)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error

    def kept(self, x: torch.Tensor, what: str) -> None:
        """Fail when this rank's numbers were written over."""
        self.same(x, self.numbers(tuple(x.shape), x.dtype), f"{what}: its input was written")


def checks_for(rank: Rank) -> dict[str, Callable[[Rank], None]]:
    """The cases of a backend, by name; of capture where it declares that."""
    checks = dict(_CHECKS)
    if rank.collectives.capturable and rank.device.graph_pool() is not None:
        checks["all_reduce in a graph"] = _captured
    return checks


def join(rank: Rank) -> None:
    """The first sum and the first meeting: they make the connections.

    Raises:
        Exception: whatever the communication library says against this group.
    """
    x = torch.ones(4, device=rank.device.torch_device)
    rank.collectives.all_reduce(x)
    rank.collectives.barrier()
    rank.device.synchronize()


def outlive_the_others(rank: Rank) -> None:
    """Reduce with a rank that is gone: an error is right, a result or a wait without end is not."""
    time.sleep(0.5)
    try:
        join(rank)
    except Exception:  # noqa: BLE001 - whatever the library says, it noticed
        return
    raise AssertionError("all_reduce and barrier returned though the other rank is gone")


def _inputs(rank: Rank, *more: torch.dtype) -> Iterator[tuple[tuple[int, ...], torch.dtype, str]]:
    for dtype in (*rank.dtypes, *more):
        for shape in SHAPES:
            yield shape, dtype, f"{short(dtype)} {list(shape)}"


def _all_reduce(rank: Rank) -> None:
    for shape, dtype, what in _inputs(rank):
        result = rank.collectives.all_reduce(rank.numbers(shape, dtype))
        rank.same(result, torch.stack(rank.everyones(shape, dtype)).sum(0, dtype=dtype), what)


def _all_gather(rank: Rank) -> None:
    for shape, dtype, what in _inputs(rank, torch.int64, torch.int32):
        for dim in {0, -1, len(shape) - 1}:
            x = rank.numbers(shape, dtype)
            result = rank.collectives.all_gather(x, dim)
            rank.same(result, torch.cat(rank.everyones(shape, dtype), dim), f"{what}, dim {dim}")
            rank.kept(x, what)
    default = rank.collectives.all_gather(rank.numbers((3, 5), rank.dtypes[0]))
    rank.same(default, torch.cat(rank.everyones((3, 5), rank.dtypes[0]), -1), "no dim given")


def _all_gather_of_a_view(rank: Rank) -> None:
    """Columns of a wider tensor, as a split of a merged projection gives them."""
    for dtype in rank.dtypes:
        everyone = rank.everyones((5, 8), dtype)
        result = rank.collectives.all_gather(everyone[rank.rank][:, 3:6])
        expected = torch.cat([whole[:, 3:6] for whole in everyone], -1)
        rank.same(result, expected, f"columns 3 to 5 of {short(dtype)} [5, 8]")


def _results_stay(rank: Rank) -> None:
    """A second call must not write into what the first one returned."""
    for dtype in rank.dtypes:
        first = rank.collectives.all_gather(rank.numbers((4, 6), dtype), 0)
        part = rank.collectives.reduce_scatter(rank.numbers((4, 6), dtype), 0)
        zero = rank.numbers((4, 6), dtype).zero_()
        rank.collectives.all_gather(zero, 0)
        rank.collectives.reduce_scatter(zero, 0)
        everyone = rank.everyones((4, 6), dtype)
        rank.same(first, torch.cat(everyone, 0), "all_gather, after another")
        mine = torch.stack(everyone).sum(0, dtype=dtype).chunk(rank.world_size, 0)[rank.rank]
        rank.same(part, mine, "reduce_scatter, after another")


def _reduce_scatter(rank: Rank) -> None:
    for dtype in rank.dtypes:
        for shape in _EVEN_SHAPES:
            for dim in {0, -1}:
                x = rank.numbers(shape, dtype)
                result = rank.collectives.reduce_scatter(x, dim)
                total = torch.stack(rank.everyones(shape, dtype)).sum(0, dtype=dtype)
                what = f"{short(dtype)} {list(shape)}, dim {dim}"
                rank.same(result, total.chunk(rank.world_size, dim)[rank.rank], what)
                rank.kept(x, what)


def _broadcast(rank: Rank) -> None:
    for shape, dtype, what in _inputs(rank, torch.int64, torch.int32):
        for source in range(rank.world_size):
            x = rank.numbers(shape, dtype)
            rank.collectives.broadcast(x, source)
            rank.same(x, rank.numbers(shape, dtype, source), f"{what} from rank {source}")


def _send_and_receive(rank: Rank) -> None:
    for shape, dtype, what in _inputs(rank, torch.int64):
        for source in range(rank.world_size):
            destination = (source + 1) % rank.world_size
            x = rank.numbers(shape, dtype)
            if rank.rank == source:
                rank.collectives.send(x, destination)
                rank.kept(x, what)
            elif rank.rank == destination:
                rank.collectives.receive(x, source)
                rank.same(x, rank.numbers(shape, dtype, source), f"{what} from rank {source}")


def _all_to_all(rank: Rank) -> None:
    # splits[a][b]: rows that rank a sends to rank b.
    for splits in ([[2, 3], [1, 4]], [[0, 5], [3, 0]], [[0, 0], [7, 1]]):
        for dtype in rank.dtypes:
            x = rank.numbers((sum(splits[rank.rank]), 5), dtype)
            received = [row[rank.rank] for row in splits]
            result = rank.collectives.all_to_all(x, splits[rank.rank], received)
            parts = [
                rank.numbers((sum(row), 5), dtype, owner).split_with_sizes(row)[rank.rank]
                for owner, row in enumerate(splits)
            ]
            what = f"{short(dtype)}, splits {splits}"
            rank.same(result, torch.cat(parts), what)
            rank.kept(x, what)


def _barrier(rank: Rank) -> None:
    for late in range(rank.world_size):
        if rank.rank == late:
            time.sleep(0.2)
        rank.store.set(f"reached {late} {rank.rank}", "yes")
        rank.collectives.barrier()
        rank.device.synchronize()
        for other in range(rank.world_size):
            reached = rank.store.check([f"reached {late} {other}"])
            expect(reached, f"rank {rank.rank} went on before rank {other} was there")


def _captured(rank: Rank) -> None:
    """A graph of a sum gives the sum of what its input holds when it is replayed."""
    pool = rank.device.graph_pool()
    assert pool is not None
    x = rank.numbers((3, 5), rank.dtypes[0])
    out = torch.empty_like(x)

    def reduce() -> None:
        # On a copy: the sum may be taken in place.
        out.copy_(rank.collectives.all_reduce(x.clone()))

    with rank.collectives.during_capture():
        graph = pool.capture(reduce, key="all_reduce")
    for seed in (1, 2):
        x.copy_(rank.numbers((3, 5), x.dtype, seed=seed))
        graph.replay()
        parts = [
            rank.numbers((3, 5), x.dtype, owner, seed=seed) for owner in range(rank.world_size)
        ]
        rank.same(out, torch.stack(parts).sum(0, dtype=x.dtype), f"replay {seed}")
    graph.close()


_CHECKS: dict[str, Callable[[Rank], None]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "all_gather of a view": _all_gather_of_a_view,
    "reduce_scatter": _reduce_scatter,
    "results stay what they are": _results_stay,
    "broadcast": _broadcast,
    "send and receive": _send_and_receive,
    "all_to_all": _all_to_all,
    "barrier": _barrier,
}
