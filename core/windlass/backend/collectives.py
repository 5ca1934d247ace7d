"""Communication between the devices of one model, and its default over torch.distributed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store


class Collectives(ABC):
    """Collective operations over one group of ranks.

    Tensors have any shape `[...]`, the same on every rank unless said otherwise, and any dtype that
    the communication library adds or moves.
    """

    name: str
    capturable: bool = False

    @abstractmethod
    def init(self, rank: int, world_size: int, store: Store, *, timeout: float = 60.0) -> None:
        """Join the group through `store`; `timeout` in seconds."""

    @abstractmethod
    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over ranks; may reuse `x`."""

    @abstractmethod
    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Concatenate every rank's `x` along `dim`, which is then world size times as long."""

    @abstractmethod
    def reduce_scatter(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Sum over ranks, then keep this rank's part of `dim`, a multiple of the world size."""

    @abstractmethod
    def broadcast(self, x: torch.Tensor, source: int) -> None:
        """Overwrite `x` with rank `source`'s."""

    @abstractmethod
    def send(self, x: torch.Tensor, destination: int) -> None:
        """Send `x` to a rank."""

    @abstractmethod
    def receive(self, out: torch.Tensor, source: int) -> None:
        """Receive into `out` from a rank."""

    @abstractmethod
    def all_to_all(
        self, x: torch.Tensor, input_splits: list[int], output_splits: list[int]
    ) -> torch.Tensor:
        """Send the next `input_splits[r]` rows of `x` `[N, ...]` to each rank r, in order.

        Returns `[sum(output_splits), ...]`: `output_splits[r]` rows from each rank r, in order.
        """

    @abstractmethod
    def barrier(self) -> None:
        """Wait for every rank."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group."""

    def during_capture(self) -> AbstractContextManager[object]:
        """Entered while a graph is captured."""
        return nullcontext()


class TorchCollectives(Collectives):
    """torch.distributed with the communication library named by the backend's capabilities.

    Until `init` it is a world of one, in which every operation is the identity.
    """

    def __init__(self, name: str):
        self.name = name
        self.rank = 0
        self.world_size = 1

    def init(self, rank: int, world_size: int, store: Store, *, timeout: float = 60.0) -> None:
        """Join the group through `store`."""
        dist.init_process_group(
            self.name,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        self.rank, self.world_size = rank, world_size

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(x)
        return x

    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Concatenate every rank's `x` along `dim`."""
        if self.world_size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.world_size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=dim)

    def reduce_scatter(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Sum over ranks, then keep this rank's part of `dim`."""
        return self.all_reduce(x.clone()).chunk(self.world_size, dim=dim)[self.rank].contiguous()

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        """Overwrite `x` with rank `source`'s."""
        if self.world_size > 1:
            dist.broadcast(x, source)

    def send(self, x: torch.Tensor, destination: int) -> None:
        """Send `x` to a rank."""
        dist.send(x, destination)

    def receive(self, out: torch.Tensor, source: int) -> None:
        """Receive into `out` from a rank."""
        dist.recv(out, source)

    def all_to_all(
        self, x: torch.Tensor, input_splits: list[int], output_splits: list[int]
    ) -> torch.Tensor:
        """Exchange rows with every rank."""
        if self.world_size == 1:
            return x
        out = x.new_empty((sum(output_splits), *x.shape[1:]))
        dist.all_to_all_single(out, x, output_splits, input_splits)
        return out

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            dist.destroy_process_group()
            self.rank, self.world_size = 0, 1
