"""NVIDIA's management library (NVML): lists devices without creating a context on one.

It comes with the driver. Reference: NVIDIA NVML API Reference Guide.
"""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any

from windlass.plugin import DeviceDescription

LIBRARY_NAMES = ("libnvidia-ml.so.1", "nvml.dll")
DRIVER_NOT_LOADED = 9
"""NVML_ERROR_DRIVER_NOT_LOADED: the library is here, the kernel's driver is not."""

_TEXT_BYTES = 96


class NvmlError(Exception):
    """A call of NVML failed; `code` is NVML's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def load_library() -> Any | None:  # noqa: ANN401 - a shared library has no better type
    """The driver's NVML; None when it is not on this machine."""
    for name in LIBRARY_NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvmlErrorString.restype = ctypes.c_char_p
        return library
    return None


class Nvml:
    """An initialised NVML, shut down at the end of the `with` block.

    Raises:
        NvmlError: NVML refused; the text is its own.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401
        self._library = library

    def __enter__(self) -> Nvml:
        self._call("nvmlInit_v2")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.nvmlShutdown()

    def driver_version(self) -> str:
        """The driver's own version, such as "570.86.15"."""
        return self._text("nvmlSystemGetDriverVersion")

    def cuda_version(self) -> tuple[int, int]:
        """The newest CUDA (major, minor) that the driver supports."""
        number = ctypes.c_int()
        self._call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
        return number.value // 1000, number.value % 1000 // 10

    def visible_devices(self, visible: str | None) -> tuple[DeviceDescription, ...]:
        """The devices that CUDA shows when CUDA_VISIBLE_DEVICES is `visible`, numbered as there.

        NVML orders devices by PCI bus; CUDA may put the fastest first when they differ and
        CUDA_DEVICE_ORDER does not say PCI_BUS_ID.
        """
        driver = self.driver_version()
        handles = self._all_handles()
        if visible is not None:
            handles = self._chosen(handles, visible.split(","))
        return tuple(self._describe(i, handle, driver) for i, handle in enumerate(handles))

    def _all_handles(self) -> list[ctypes.c_void_p]:
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [
            self._handle("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index))
            for index in range(count.value)
        ]

    def _chosen(self, handles: list[ctypes.c_void_p], entries: list[str]) -> list[ctypes.c_void_p]:
        """Handles for indices, UUIDs or their beginnings; CUDA stops at the first bad entry."""
        chosen = []
        for entry in map(str.strip, entries):
            handle = self._resolve(handles, entry)
            if handle is None:
                break
            chosen.append(handle)
        return chosen

    def _resolve(self, handles: list[ctypes.c_void_p], entry: str) -> ctypes.c_void_p | None:
        if entry.isdigit():
            return handles[int(entry)] if int(entry) < len(handles) else None
        if entry.startswith("MIG-"):
            try:
                return self._handle("nvmlDeviceGetHandleByUUID", entry.encode())
            except NvmlError:
                return None
        if not entry.startswith("GPU-"):
            return None
        return next((h for h in handles if self._uuid(h).startswith(entry)), None)

    def _describe(self, index: int, handle: ctypes.c_void_p, driver: str) -> DeviceDescription:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return DeviceDescription(
            index=index,
            name=self._text("nvmlDeviceGetName", handle),
            arch=self._architecture(handle),
            total_bytes=memory.total,
            driver=driver,
            uuid=self._uuid(handle),
        )

    def _architecture(self, handle: ctypes.c_void_p) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        try:
            self._call(
                "nvmlDeviceGetCudaComputeCapability",
                handle,
                ctypes.byref(major),
                ctypes.byref(minor),
            )
        except NvmlError:  # a MIG instance does not tell
            return ""
        return f"sm_{major.value}{minor.value}"

    def _uuid(self, handle: ctypes.c_void_p) -> str:
        return self._text("nvmlDeviceGetUUID", handle)

    def _handle(self, function: str, which: object) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call(function, which, ctypes.byref(handle))
        return handle

    def _text(self, function: str, *args: object) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        self._call(function, *args, buffer, ctypes.c_uint(_TEXT_BYTES))
        return buffer.value.decode(errors="replace")

    def _call(self, function: str, *args: object) -> None:
        code = getattr(self._library, function)(*args)
        if code:
            text = self._library.nvmlErrorString(code)
            raise NvmlError(f"{function}: {text.decode(errors='replace')}", code)
