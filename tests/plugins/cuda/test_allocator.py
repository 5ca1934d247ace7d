"""Device and page-locked host memory on a real GPU."""

import pytest
import torch

from windlass.backend import KVLayout, KVPool, KVSpec
from windlass_cuda.allocator import CudaAllocator
from windlass_cuda.backend import CudaBackend
from windlass_cuda.device import CudaDevice

SPEC = KVSpec(num_kv_heads=2, head_dim=64, dtype=torch.bfloat16)
LAYOUT = KVLayout(order="LBHNC", block_size=64)


@pytest.fixture
def allocator(gpu: torch.device) -> CudaAllocator:
    assert gpu.index is not None
    assert CudaBackend.default_capabilities is not None
    return CudaAllocator(CudaDevice(gpu.index), CudaBackend.default_capabilities)


@pytest.mark.parametrize("nbytes", [1000, 3 << 20])
def test_host_memory_is_page_locked_to_the_byte(allocator: CudaAllocator, nbytes: int) -> None:
    buffer = allocator.host(nbytes, pinned=True)
    assert buffer.is_pinned()
    assert buffer.nbytes == nbytes
    assert not buffer.any()
    assert not allocator.host(nbytes).is_pinned()


def test_blocks_swap_to_the_host_and_back(allocator: CudaAllocator) -> None:
    def pool(buffer: torch.Tensor) -> KVPool:
        return KVPool.carve(buffer, SPEC, LAYOUT, num_layers=2, num_blocks=8)

    nbytes = 8 * LAYOUT.block_bytes(SPEC, 2)
    device = pool(allocator.reserve(nbytes, align=LAYOUT.align, tag="kv_cache"))
    host = pool(allocator.host(nbytes, pinned=True))
    device.buffer.view(torch.bfloat16).normal_()
    before = device.buffer.clone()
    stream = allocator.device.stream()
    out = torch.tensor([[1, 4], [2, 5], [3, 6]])
    event = allocator.swap(device, host, out, stream)
    event.synchronize()
    for layer in range(2):
        assert torch.equal(host.keys[layer][4:7], device.keys[layer][1:4].cpu())
    allocator.zero_blocks([device], torch.tensor([1, 2, 3]))
    allocator.swap(host, device, out.flip(1), stream).synchronize()
    assert torch.equal(device.buffer, before)
    allocator.release("kv_cache")


def test_the_profile_counts_the_peak_of_the_step(
    allocator: CudaAllocator, gpu: torch.device
) -> None:
    def step() -> None:
        torch.zeros(256 << 20, dtype=torch.uint8, device=gpu)

    profile = allocator.measure(step, weights=0, activation_estimate=0)
    assert profile.confidence == "measured"
    assert 256 << 20 <= profile.peak_activation < 300 << 20
    assert profile.graph_estimate > 0
