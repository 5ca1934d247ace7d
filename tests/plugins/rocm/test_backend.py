"""What the backend makes of a GPU, over a stand-in for torch's properties of it."""

from types import SimpleNamespace

import pytest
import torch

from windlass.backend import BackendConfig, GraphSupport, KVSpec, MemoryInfo, MemoryPolicy, Profile
from windlass.errors import PluginError
from windlass_rocm import backend as module
from windlass_rocm.backend import RocmBackend
from windlass_rocm.device import tuning_of
from windlass_rocm.packed_layout import PackedKVLayout
from windlass_rocm.plugin import SPEC

GIB = 1 << 30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A GPU whose name the test gives."""
    name: str = request.param
    properties = SimpleNamespace(gcnArchName=name, multi_processor_count=304)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    return name


def made() -> RocmBackend:
    return RocmBackend(SPEC, BackendConfig())


@pytest.mark.parametrize("gpu", ["gfx942:sramecc+:xnack-"], indirect=True)
def test_the_tables_are_those_of_the_chip_without_its_features(gpu: str) -> None:
    tuning = tuning_of(0)
    assert (tuning.arch, tuning.units, tuning.lanes) == ("gfx942", 304, 64)
    assert tuning.supports_kv(torch.float8_e4m3fnuz)
    assert "no cache of torch.float8_e4m3fn" in tuning.supports_kv(torch.float8_e4m3fn).reason


@pytest.mark.parametrize(
    ("gpu", "fp8"),
    [
        ("gfx942:sramecc+:xnack-", torch.float8_e4m3fnuz),
        ("gfx950:sramecc+:xnack-", torch.float8_e4m3fn),
        ("gfx1100", torch.float8_e4m3fn),
    ],
    indirect=["gpu"],
)
def test_an_fp8_cache_is_of_the_chips_format(gpu: str, fp8: torch.dtype) -> None:
    backend = made()
    assert backend.capabilities.fp8_dtype == fp8
    assert bool(backend.tuning.supports_kv(fp8)) == (gpu != "gfx1100")
    assert backend.capabilities.graph is GraphSupport.DECODE_UNIFORM
    assert backend.capabilities.memory_statistics == "coarse"


@pytest.mark.parametrize("gpu", ["gfx1030"], indirect=True)
def test_a_gpu_without_matrix_instructions_is_refused(gpu: str) -> None:
    with pytest.raises(PluginError, match="gfx1030 has no matrix instructions"):
        made()


@pytest.mark.parametrize("gpu", ["gfx942"], indirect=True)
def test_a_margin_of_all_memory_is_left(gpu: str) -> None:
    allocator = made().allocator
    allocator.device.memory = lambda: MemoryInfo(total=100 * GIB, free=90 * GIB)  # type: ignore[method-assign]
    profile = Profile(weights=10 * GIB, peak_activation=GIB)
    assert allocator.kv_budget(profile, MemoryPolicy(utilization=0.5)) == 37 * GIB
    capped = MemoryPolicy(utilization=0.5, cap_bytes=20 * GIB)
    assert allocator.kv_budget(profile, capped) == 20 * GIB


@pytest.mark.parametrize("gpu", ["gfx942", "gfx1100"], indirect=True)
@pytest.mark.parametrize("installed", [False, True])
def test_the_packed_cache_is_offered_where_aiter_can_read_it(
    gpu: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "aiter_installed", lambda: installed)
    backend = made()
    spec = KVSpec(num_kv_heads=8, head_dim=128, dtype=torch.bfloat16)
    first, *others = backend.kv_layouts(spec)
    assert (first.canonical, first.order, first.block_size) == (True, "LBHNC", 64)
    packs = installed and gpu == "gfx942"
    assert others == ([PackedKVLayout(block_size=16)] if packs else [])
    with_scales = KVSpec(num_kv_heads=8, head_dim=128, dtype=torch.int8)
    assert len(backend.kv_layouts(with_scales)) == 1
