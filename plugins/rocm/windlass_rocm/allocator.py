"""Memory of an AMD GPU: sized with a margin, for its statistics are coarse."""

from __future__ import annotations

from windlass.backend import MemoryPolicy, Profile
from windlass.backend.accelerator_allocator import AcceleratorAllocator

_MARGIN = 50
"""One part in so many of all memory is left over.

What HIP reports as free counts in large steps and lags behind, and what graphs and code objects
take is not in torch's statistics.
"""


class RocmAllocator(AcceleratorAllocator):
    """Sizes the KV cache by running the largest step, and leaves a margin."""

    def kv_budget(self, profile: Profile, policy: MemoryPolicy) -> int:
        """The policy's share less what the model takes and the margin, at most the policy's cap."""
        uncapped = MemoryPolicy(utilization=policy.utilization)
        budget = super().kv_budget(profile, uncapped) - self.device.memory().total // _MARGIN
        return min(budget, policy.cap_bytes) if policy.cap_bytes else budget
