"""Collectives of the fake accelerator: by way of the host, which waits."""

from __future__ import annotations

import torch

from windlass.backend import TorchCollectives


class FakeCollectives(TorchCollectives):
    """torch.distributed on host copies; so none can be captured."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place."""
        return x if self.world_size == 1 else x.copy_(super().all_reduce(_on_host(x)))

    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Concatenate every rank's `x` along `dim`."""
        return x if self.world_size == 1 else super().all_gather(_on_host(x), dim).to(x.device)

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        """Overwrite `x` with rank `source`'s."""
        if self.world_size > 1:
            host = _on_host(x)
            super().broadcast(host, source)
            x.copy_(host)

    def send(self, x: torch.Tensor, destination: int) -> None:
        """Send `x` to a rank."""
        super().send(_on_host(x), destination)

    def receive(self, out: torch.Tensor, source: int) -> None:
        """Receive into `out` from a rank."""
        host = torch.empty(out.shape, dtype=out.dtype)
        super().receive(host, source)
        out.copy_(host)

    def all_to_all(
        self, x: torch.Tensor, input_splits: list[int], output_splits: list[int]
    ) -> torch.Tensor:
        """Exchange rows with every rank."""
        if self.world_size == 1:
            return x
        return super().all_to_all(_on_host(x), input_splits, output_splits).to(x.device)


def _on_host(x: torch.Tensor) -> torch.Tensor:
    return x.cpu().contiguous()
