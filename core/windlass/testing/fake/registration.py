"""Makes the fake accelerator's tensors known to torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

# No other guard is open to Python.
from torch.utils.backend_registration import _DummyDeviceGuard

from windlass.testing.fake.plugin import NUM_DEVICES
from windlass.testing.fake.tensor import DEVICE_TYPE, dispatch

_FACTORIES = (
    "empty.memory_format",
    "empty_strided",
    "_to_copy",
    "arange",
    "arange.start",
    "arange.start_step",
    "linspace",
    "eye",
    "eye.m",
    "full",
    "ones",
    "zeros",
    "scalar_tensor",
    "rand",
    "randn",
    "randint",
    "randint.low",
    "randperm",
)
"""Operations that may make a fake tensor out of none."""


class _Module(ModuleType):
    """What torch looks for under `torch.privateuseone`."""

    @staticmethod
    def _lazy_init() -> None:
        """Nothing to start."""

    @staticmethod
    def is_available() -> bool:
        """Always."""
        return True

    @staticmethod
    def device_count() -> int:
        """As the plugin says."""
        return NUM_DEVICES

    @staticmethod
    def current_device() -> int:
        """The first."""
        return 0


@functools.cache
def register() -> torch.library.Library:
    """Make the device known to torch, once a process.

    torch keeps one name for devices that it does not know; a plugin of a true one must not be
    imported into the same process. Devices that torch knows are not touched.
    """
    torch._register_device_module(  # type: ignore[no-untyped-call]
        DEVICE_TYPE, _Module(f"torch.{DEVICE_TYPE}")
    )
    torch._C._acc.register_python_privateuseone_device_guard(_DummyDeviceGuard())
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    for name in _FACTORIES:
        op, _, overload = name.partition(".")
        func = getattr(getattr(torch.ops.aten, op), overload or "default")
        library.impl(name, _factory(func), "PrivateUse1")  # type: ignore[no-untyped-call]
    return library


def _factory(func: Any) -> Callable[..., Any]:  # noqa: ANN401
    def make(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return dispatch(func, args, kwargs)

    return make
