"""The backend contract: what a hardware plugin implements, and the torch defaults of every part."""

from windlass.backend.allocator import Allocator, MemoryPolicy, Profile
from windlass.backend.attention import Attention, AttentionBatch, AttentionParams, HeadNorm
from windlass.backend.base import Backend
from windlass.backend.capabilities import SUPPORTED, Capabilities, GraphSupport, Support
from windlass.backend.collectives import Collectives, TorchCollectives
from windlass.backend.device import Device, Event, Graph, GraphPool, MemoryInfo, Stream
from windlass.backend.kv_cache import KVLayout, KVPool, KVSpec
from windlass.backend.kv_size import size_kv_cache
from windlass.backend.layer import (
    ExpertWeights,
    ForwardContext,
    LayerParts,
    LayersFunction,
    LayerWeights,
    MLPWeights,
)
from windlass.backend.linear import Linear
from windlass.backend.ops import OpRegistry, OwnOp
from windlass.backend.torch_allocator import TorchAllocator
from windlass.backend.torch_attention import TorchAttention
from windlass.backend.torch_backend import TorchBackend
from windlass.backend.torch_device import AcceleratorDevice, HostDevice
from windlass.config import BackendConfig, Quantization
from windlass.kernels.experts import DenseExperts, PackedExperts
from windlass.kernels.linear import DenseWeight, PackedWeight
from windlass.kernels.quantization import QuantizedWeight

__all__ = [
    "SUPPORTED",
    "AcceleratorDevice",
    "Allocator",
    "Attention",
    "AttentionBatch",
    "AttentionParams",
    "Backend",
    "BackendConfig",
    "Capabilities",
    "Collectives",
    "DenseExperts",
    "DenseWeight",
    "Device",
    "Event",
    "ExpertWeights",
    "ForwardContext",
    "Graph",
    "GraphPool",
    "GraphSupport",
    "HeadNorm",
    "HostDevice",
    "KVLayout",
    "KVPool",
    "KVSpec",
    "LayerParts",
    "LayerWeights",
    "LayersFunction",
    "Linear",
    "MLPWeights",
    "MemoryInfo",
    "MemoryPolicy",
    "OpRegistry",
    "OwnOp",
    "PackedExperts",
    "PackedWeight",
    "Profile",
    "Quantization",
    "QuantizedWeight",
    "Stream",
    "Support",
    "TorchAllocator",
    "TorchAttention",
    "TorchBackend",
    "TorchCollectives",
    "size_kv_cache",
]
