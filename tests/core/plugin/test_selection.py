"""Nothing is chosen silently: a named backend is taken or refused, "auto" explains itself."""

from __future__ import annotations

import logging
from typing import Literal

import pytest

from windlass.config import BackendConfig
from windlass.errors import BackendNotAvailableError
from windlass.plugin import (
    Availability,
    BackendSpec,
    DeviceDescription,
    Findings,
    FoundPlugin,
    PluginSource,
    Status,
    select,
)


def plugin(
    name: str,
    priority: int | None = 100,
    status: Status = Status.AVAILABLE,
    *,
    stability: Literal["stable", "experimental"] = "stable",
    devices: int = 0,
) -> FoundPlugin:
    """A plugin that was found; `priority` None stands for one that could not describe itself."""
    spec = None
    if priority is not None:
        spec = BackendSpec(
            name=name, target="a:b", device_type="cpu", priority=priority, stability=stability
        )
    reason = "" if status is Status.AVAILABLE else f"the {name} reason"
    hint = "" if status is Status.AVAILABLE else f"the {name} hint"
    found = tuple(DeviceDescription(index=i, name=f"{name} {i}") for i in range(devices))
    availability = Availability(status=status, reason=reason, hint=hint, devices=found)
    return FoundPlugin(
        source=PluginSource(name=name, value=f"{name}.plugin", distribution=f"acme-{name}"),
        findings=Findings(availability=availability, spec=spec),
    )


def choose(*found: FoundPlugin, **settings: object) -> str:
    return select(BackendConfig(**settings), found).name  # type: ignore[arg-type]


def refusal(*found: FoundPlugin, **settings: object) -> str:
    with pytest.raises(BackendNotAvailableError) as refused:
        choose(*found, **settings)
    return str(refused.value)


def test_auto_takes_the_highest_priority_that_is_available() -> None:
    assert choose(plugin("slow", 100), plugin("fast", 500), plugin("middle", 300)) == "fast"


def test_auto_never_takes_an_experimental_backend() -> None:
    lab = plugin("lab", 900, stability="experimental")
    assert choose(plugin("slow", 100), lab) == "slow"
    assert choose(plugin("slow", 100), lab, backend="lab") == "lab"


def test_auto_says_why_the_others_lost(caplog: pytest.LogCaptureFixture) -> None:
    absent = plugin("absent", 500, Status.NO_DEVICE)
    idle = plugin("idle", 500, Status.NOT_INSTALLED, devices=1)
    with caplog.at_level(logging.INFO):
        assert choose(plugin("slow", 100), absent, idle) == "slow"
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["backend absent not chosen: no device: the absent reason (the absent hint)"] == (
        "INFO"
    )
    assert levels["backend idle not chosen: not installed: the idle reason (the idle hint)"] == (
        "WARNING"
    )
    assert levels["backend slow chosen"] == "INFO"


def test_auto_refuses_a_tie() -> None:
    text = refusal(plugin("left", 500), plugin("right", 500), plugin("slow", 100))
    assert text == "backends left, right are all available with priority 500: name the one to use"


@pytest.mark.parametrize("status", [Status.BROKEN, Status.INCOMPATIBLE])
@pytest.mark.parametrize("priority", [500, None])
def test_auto_does_not_pass_over_a_broken_accelerator(status: Status, priority: int | None) -> None:
    text = refusal(plugin("slow", 100), plugin("fast", priority, status))
    assert "of higher priority than 'slow' is broken" in text
    assert f"fast  {status.value}: the fast reason (the fast hint)" in text
    assert "allow_cpu_fallback" in text


def test_the_fallback_can_be_allowed_and_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    broken = plugin("fast", 500, Status.BROKEN)
    assert choose(plugin("slow", 100), broken, allow_cpu_fallback=True) == "slow"
    assert "falling back to backend slow" in caplog.text
    assert "the fast reason" in caplog.text


def test_a_broken_plugin_of_no_higher_priority_is_no_obstacle() -> None:
    broken = plugin("old", 100, Status.BROKEN)
    unknown = plugin("mystery", None, Status.BROKEN)
    lab = plugin("lab", 900, Status.BROKEN, stability="experimental")
    assert choose(plugin("fast", 500), broken, unknown, lab) == "fast"


def test_nothing_available_lists_every_reason() -> None:
    text = refusal(plugin("fast", 500, Status.NO_DEVICE), plugin("slow", 100, Status.DISABLED))
    assert "no backend can be used here" in text
    assert "fast  no device: the fast reason" in text
    assert "slow  disabled: the slow reason" in text


def test_nothing_installed_says_what_to_install() -> None:
    assert "install Windlass itself with pip" in refusal()


def test_a_named_backend_is_taken_whatever_its_priority() -> None:
    assert choose(plugin("slow", 100), plugin("fast", 500), backend="slow") == "slow"


def test_a_named_backend_that_is_not_available_is_an_error_with_the_alternatives() -> None:
    text = refusal(plugin("slow"), plugin("fast", 500, Status.NOT_INSTALLED), backend="fast")
    assert text.startswith("backend 'fast' cannot be used here: not installed: the fast reason")
    assert "slow  available" in text


def test_an_unknown_name_suggests_the_nearest() -> None:
    text = refusal(plugin("slow"), plugin("fast"), backend="fsat")
    assert text.startswith("there is no backend 'fsat'; did you mean 'fast'?")
    assert "no backend 'zzz'. Installed:" in refusal(plugin("slow"), backend="zzz")
