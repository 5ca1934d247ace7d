"""Chooses one backend among those found, and makes it. Nothing is chosen silently.

A named backend that cannot be used is an error. "auto" takes the highest priority that is
available and says why the others lost; it never passes over a broken plugin of higher priority,
unless `allow_cpu_fallback` says so.
"""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from windlass.config import BackendConfig
from windlass.errors import BackendNotAvailableError, ConfigError, PluginError, WindlassError
from windlass.plugin.discovery import AUTO, FoundPlugin, discover, discover_ops
from windlass.plugin.examine import offered_ops
from windlass.plugin.spec import DeviceDescription, OpProvider, Status

if TYPE_CHECKING:
    from windlass.backend import Backend

logger = logging.getLogger(__name__)

UNKNOWN_PRIORITY = 500
"""Rank of a plugin that broke before it could say its own: that of an in-tree accelerator."""

_NEEDS_A_PERSON = (Status.BROKEN, Status.INCOMPATIBLE)


def create_backend(
    config: BackendConfig | None = None, *, extra: Mapping[str, object] | None = None
) -> Backend:
    """Discover, select and construct the backend that `config` asks for.

    `extra` maps names to plugin modules of this process, beside the installed ones.

    Raises:
        BackendNotAvailableError: it cannot be used here; says why, and what else there is.
        ConfigError: a setting names a device or an op that does not exist.
        PluginError: the plugin broke its contract.
    """
    config = config or BackendConfig()
    found = discover(config, extra=extra)
    if config.backend != AUTO and not any(plugin.usable for plugin in found):
        # The named one alone was examined: the error should also say what else there is.
        found = discover(msgspec.structs.replace(config, backend=AUTO), extra=extra)
    return construct(select(config, found), config)


def select(config: BackendConfig, found: Sequence[FoundPlugin]) -> FoundPlugin:
    """The plugin that `config` asks for among those found.

    Raises:
        BackendNotAvailableError: there is none, with the table of what was found.
    """
    if not found:
        raise BackendNotAvailableError(
            "no backend plugin is installed: install Windlass itself with pip "
            "(its plugins are found through the metadata of the distribution)"
        )
    if config.backend == AUTO:
        return _best(config, found)
    return _named(config.backend, found)


def construct(plugin: FoundPlugin, config: BackendConfig) -> Backend:
    """Import the plugin's target and make its backend, with the op providers of all plugins.

    Raises:
        ConfigError: `device_index` or `ops` names something that does not exist.
        PluginError: the plugin broke its contract.
    """
    spec = plugin.spec
    if spec is None:
        raise PluginError(f"plugin {plugin.name!r} cannot be used: {plugin.availability.reason}")
    device = _device(plugin, config)
    arch = device.arch if device is not None else ""
    providers = (*_own_ops(plugin, arch), *discover_ops(config, spec.name, arch))
    try:
        factory = _import_target(spec.target)
        backend = factory(spec, config, arch=arch, op_providers=providers)
    except WindlassError:
        raise
    except (Exception, SystemExit) as exc:
        raise PluginError(
            f"plugin {plugin.name!r} ({plugin.source.origin}): its target {spec.target!r} "
            f"failed: {type(exc).__name__}: {exc}"
        ) from exc
    return _checked(backend, plugin)


def _checked(backend: object, plugin: FoundPlugin) -> Backend:
    from windlass.backend import Backend

    if not isinstance(backend, Backend):
        raise PluginError(
            f"plugin {plugin.name!r} ({plugin.source.origin}): its target returned a "
            f"{type(backend).__name__}, not a windlass.backend.Backend"
        )
    return backend


def describe(found: Sequence[FoundPlugin]) -> str:
    """A table of plugins for error texts: name, status, reason and hint."""
    width = max((len(plugin.name) for plugin in found), default=0)
    return "\n".join(f"  {plugin.name:{width}}  {_why(plugin)}" for plugin in found)


def _why(plugin: FoundPlugin) -> str:
    said = plugin.availability
    reason = f": {said.reason}" if said.reason else ""
    hint = f" ({said.hint})" if said.hint else ""
    return f"{said.status.value}{reason}{hint}"


def _named(name: str, found: Sequence[FoundPlugin]) -> FoundPlugin:
    plugin = next((plugin for plugin in found if plugin.name == name), None)
    if plugin is None:
        names = [plugin.name for plugin in found]
        near = difflib.get_close_matches(name, names, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else "."
        raise BackendNotAvailableError(
            f"there is no backend {name!r}{guess} Installed:\n{describe(found)}"
        )
    if not plugin.usable:
        raise BackendNotAvailableError(
            f"backend {name!r} cannot be used here: {_why(plugin)}\nInstalled:\n{describe(found)}"
        )
    return plugin


def _best(config: BackendConfig, found: Sequence[FoundPlugin]) -> FoundPlugin:
    candidates = [plugin for plugin in found if plugin.usable and not _experimental(plugin)]
    if not candidates:
        raise BackendNotAvailableError(
            f"no backend can be used here. Installed:\n{describe(found)}"
        )
    top = max(_priority(plugin) for plugin in candidates)
    best, *tied = [plugin for plugin in candidates if _priority(plugin) == top]
    if tied:
        names = ", ".join(plugin.name for plugin in (best, *tied))
        raise BackendNotAvailableError(
            f"backends {names} are all available with priority {top}: name the one to use"
        )
    _refuse_fallback(config, found, best)
    _explain_losers(found, best)
    return best


def _refuse_fallback(
    config: BackendConfig, found: Sequence[FoundPlugin], best: FoundPlugin
) -> None:
    broken = [
        plugin
        for plugin in found
        if plugin.availability.status in _NEEDS_A_PERSON
        and not _experimental(plugin)
        and _priority(plugin) > _priority(best)
    ]
    if not broken:
        return
    if not config.allow_cpu_fallback:
        raise BackendNotAvailableError(
            f"a backend of higher priority than {best.name!r} is broken:\n{describe(broken)}\n"
            f"Repair it, name the backend to use (for example {best.name!r}), disable the plugin, "
            f"or allow the fallback (allow_cpu_fallback)"
        )
    logger.warning("falling back to backend %s, because:\n%s", best.name, describe(broken))


def _explain_losers(found: Sequence[FoundPlugin], best: FoundPlugin) -> None:
    for plugin in found:
        if plugin is best:
            continue
        if plugin.usable:
            why = "experimental" if _experimental(plugin) else f"priority {_priority(plugin)}"
            logger.info("backend %s not chosen: %s", plugin.name, why)
        else:
            # A device that stands idle is news; a plugin without one is not.
            level = logging.WARNING if plugin.availability.devices else logging.INFO
            logger.log(level, "backend %s not chosen: %s", plugin.name, _why(plugin))
    logger.info("backend %s chosen", best.name)


def _priority(plugin: FoundPlugin) -> int:
    return plugin.spec.priority if plugin.spec is not None else UNKNOWN_PRIORITY


def _experimental(plugin: FoundPlugin) -> bool:
    return plugin.spec is not None and plugin.spec.stability == "experimental"


def _device(plugin: FoundPlugin, config: BackendConfig) -> DeviceDescription | None:
    devices = plugin.availability.devices
    if not devices:
        return None
    for device in devices:
        if device.index == config.device_index:
            return device
    known = ", ".join(f"{device.index} ({device.name})" for device in devices)
    raise ConfigError(
        f"device_index must be a device of backend {plugin.name!r}, not {config.device_index}; "
        f"it has: {known}"
    )


def _own_ops(plugin: FoundPlugin, arch: str) -> tuple[OpProvider, ...]:
    offer = offered_ops(plugin.name, plugin.source.load, plugin.name, arch)
    if offer.problem:
        raise PluginError(f"plugin {plugin.name!r} ({plugin.source.origin}): {offer.problem}")
    return offer.providers


def _import_target(target: str) -> Any:  # noqa: ANN401 - a stranger's factory, checked by use
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
