"""The default allocator: torch tensors, sized from what the device reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from windlass.backend.allocator import Allocator, MemoryPolicy, Profile
from windlass.backend.capabilities import Capabilities
from windlass.backend.device import Device, Event, Stream
from windlass.backend.kv_cache import KVPool
from windlass.errors import OutOfMemoryError

_GIB = 1 << 30


class TorchAllocator(Allocator):
    """Reserves with torch; keeps what it reserved by tag."""

    def __init__(self, device: Device, capabilities: Capabilities):
        self.device = device
        self.capabilities = capabilities
        self._reserved: dict[str, torch.Tensor] = {}

    def measure(
        self, step: Callable[[], None], *, weights: int, activation_estimate: int
    ) -> Profile:
        """Run the step and read the peak, where the device keeps one."""
        if self.capabilities.memory_statistics == "none":
            return Profile(weights=weights, peak_activation=activation_estimate)
        self.device.synchronize()
        self.device.reset_peak()
        before = self.device.memory()
        step()
        self.device.synchronize()
        after = self.device.memory()
        self.device.empty_cache()
        outside = max(before.total - before.free - before.reserved, 0)
        return Profile(
            weights=weights,
            peak_activation=max(after.peak - before.allocated, activation_estimate // 4),
            non_torch=outside,
            confidence="measured",
        )

    def kv_budget(self, profile: Profile, policy: MemoryPolicy) -> int:
        """The policy's share of the total, less what the model takes, and never more than is free.

        Weights are already loaded, so `free` does not count them.
        """
        memory = self.device.memory()
        overhead = profile.peak_activation + profile.graph_estimate
        share = int(memory.total * policy.utilization)
        budget = share - profile.weights - profile.non_torch - overhead
        budget = min(budget, int(memory.free * policy.utilization) - overhead)
        return min(budget, policy.cap_bytes) if policy.cap_bytes else budget

    def reserve(self, nbytes: int, *, align: int = 256, tag: str) -> torch.Tensor:
        """A zero-filled buffer; the start is aligned inside a slightly larger allocation."""
        if tag in self._reserved:
            raise ValueError(f"{tag!r} is already reserved")
        free = self.device.memory().free
        try:
            whole = self.allocate(nbytes + align)
        except (RuntimeError, MemoryError, OSError) as exc:
            raise OutOfMemoryError(
                f"reserving {nbytes / _GIB:.2f} GiB for {tag} failed: "
                f"{free / _GIB:.2f} GiB are free. Lower memory_utilization or max_model_len."
            ) from exc
        start = -whole.data_ptr() % align
        self._reserved[tag] = whole[start : start + nbytes]
        return self._reserved[tag]

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Zero-filled uint8 `[nbytes]` on the device; what `reserve` takes its memory from."""
        return torch.zeros(nbytes, dtype=torch.uint8, device=self.device.torch_device)

    def release(self, tag: str) -> None:
        """Drop the buffer and hand cached memory back."""
        self._reserved.pop(tag, None)
        self.device.empty_cache()

    def host(self, nbytes: int, *, pinned: bool = False) -> torch.Tensor:
        """A host buffer, page-locked where the device can."""
        lock = pinned and self.capabilities.pinned_host
        return torch.zeros(nbytes, dtype=torch.uint8, pin_memory=lock)

    def copy_blocks(self, pools: Sequence[KVPool], pairs: torch.Tensor) -> None:
        """Gather, then scatter: overlapping pairs read the old content."""
        source, destination = pairs.to(self.device.torch_device).unbind(1)
        for pool in pools:
            for view in pool.parts:
                view[destination] = view[source]

    def zero_blocks(self, pools: Sequence[KVPool], block_ids: torch.Tensor) -> None:
        """Zero every layer's part of the blocks."""
        ids = block_ids.to(self.device.torch_device)
        for pool in pools:
            for view in pool.parts:
                view[ids] = 0

    def swap(
        self, source: KVPool, destination: KVPool, pairs: torch.Tensor, stream: Stream
    ) -> Event:
        """Copy on `stream`, after what the current stream holds; neighbours go in one copy.

        Asynchronous when the host side is page-locked.
        """
        ready = self.device.event()
        ready.record()
        with self.device.use(stream):
            stream.wait_event(ready)
            for old, new, count in _runs(pairs.tolist()):
                for there, here in zip(source.parts, destination.parts, strict=True):
                    here[new : new + count].copy_(there[old : old + count], non_blocking=True)
            event = self.device.event()
            event.record(stream)
        return event


def _runs(pairs: list[list[int]]) -> list[tuple[int, int, int]]:
    """(source, destination, count) of blocks that are neighbours on both sides, in any order."""
    runs: list[tuple[int, int, int]] = []
    for old, new in sorted(pairs):
        if runs and (old, new) == (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]):
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((old, new, 1))
    return runs
