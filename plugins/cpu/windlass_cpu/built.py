"""Whether the kernel library was built; the probe asks, before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec


def library_path() -> str | None:
    """Where the library lies, None when it was not built."""
    # Found as a module, though it is none: in an editable install it lies apart from this file.
    spec = find_spec("windlass_cpu._kernels")
    return spec.origin if spec else None
