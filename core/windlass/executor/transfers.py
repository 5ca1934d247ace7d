"""Copies between host and device that the host does not wait for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from windlass.backend import Backend


class Transfers:
    """Small values up, results down, through page-locked memory where the device has it.

    torch keeps page-locked memory until the copies that use it have run, so nothing here needs to
    outlive its call.
    """

    def __init__(self, backend: Backend) -> None:
        self._device = backend.device.torch_device
        self._pinned = backend.capabilities.pinned_host
        self._asynchronous = backend.capabilities.asynchronous

    def upload(self, values: Sequence[object], dtype: torch.dtype) -> torch.Tensor:
        """A (nested) sequence of numbers as a tensor on the device."""
        return self._send(torch.tensor(values, dtype=dtype))

    def upload_array(self, values: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> torch.Tensor:
        """An array as a tensor on the device; the array itself must not change afterwards."""
        return self._send(torch.from_numpy(values))

    def _send(self, host: torch.Tensor) -> torch.Tensor:
        if self._pinned:
            host = host.pin_memory()
        return host.to(self._device, non_blocking=True)

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        """A host copy that is valid once an event recorded after this call has been reached.

        A copy on a host device too: what a graph gives is overwritten by its next replay.
        """
        if not self._asynchronous:
            return tensor.clone()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pinned)
        return host.copy_(tensor, non_blocking=True)
