"""Portable parts that a plugin may build on: the torch reference of every op."""

from windlass.kernels.experts import DenseExperts, PackedExperts
from windlass.kernels.linear import DenseWeight, PackedWeight
from windlass.kernels.quantization import QuantizedWeight
from windlass.kernels.reference import REFERENCES
from windlass.kernels.sampling import philox_uniform

__all__ = [
    "REFERENCES",
    "DenseExperts",
    "DenseWeight",
    "PackedExperts",
    "PackedWeight",
    "QuantizedWeight",
    "philox_uniform",
]
