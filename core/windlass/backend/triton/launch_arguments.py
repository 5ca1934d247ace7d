"""What every launch on a chip is told, beside what a kernel's own table says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypedDict, TypeVar

from windlass.kernels.triton.launch import LaunchConfig

Config = TypeVar("Config", bound=LaunchConfig)


class LaunchArguments(TypedDict, total=False):
    """Arguments of a `LaunchConfig` that all launches on a chip share."""

    options: tuple[tuple[str, Any], ...]
    wait: Any
    release: Any


def added(config: Config, arguments: LaunchArguments) -> Config:
    """`config` with `arguments`; its own options stay, and come first."""
    if not arguments:
        return config
    changes: dict[str, Any] = {**arguments}
    changes["options"] = (*config.options, *arguments.get("options", ()))
    return replace(config, **changes)
