"""What each API process gets of the whole server's bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windlass.config import EngineConfig, ModelConfig, SchedulerConfig
from windlass.errors import ConfigError
from windlass_server.access.control import AccessControl
from windlass_server.access.settings import NO_LIMITS, AccessSettings, KeyLimits
from windlass_server.batches.settings import BatchSettings
from windlass_server.metrics import ServerMetrics
from windlass_server.models.settings import ModelSettings, SwapSettings
from windlass_server.processes.settings import ProcessSettings
from windlass_server.processes.share import config_of, require_shareable, settings_of
from windlass_server.settings import ServerSettings

LIMITED = AccessSettings(api_keys=("a",), limits=KeyLimits(tokens_per_minute=1))

TWO_MODELS = (ModelSettings(names=("a",)), ModelSettings(names=("b",), preload=False))


def settings(count: int = 3, **change: Any) -> ServerSettings:
    change.setdefault("models", (ModelSettings(names=("m",)),))
    return ServerSettings(processes=ProcessSettings(api_server_count=count), **change)


def test_the_queue_is_divided_and_no_bound_stays_none() -> None:
    scheduler = SchedulerConfig(max_num_seqs=8, max_queued_requests=100, max_queued_tokens=0)
    whole = EngineConfig(model=ModelConfig(model="m"), scheduler=scheduler)

    share = config_of(whole, 3).scheduler
    assert (share.max_num_seqs, share.max_queued_requests, share.max_queued_tokens) == (3, 34, 0)
    assert config_of(whole, 1) == whole


def test_what_is_kept_is_divided_and_batches_have_one_keeper() -> None:
    whole = settings(max_stored_responses=10, batches=BatchSettings(directory="/d", max_files=7))

    shares = [settings_of(whole, index) for index in range(3)]
    assert [share.max_stored_responses for share in shares] == [4, 4, 4]
    assert [share.batches.directory for share in shares] == ["/d", None, None]
    assert {share.batches.max_files for share in shares} == {7}
    assert settings_of(settings(max_stored_responses=0), 0).max_stored_responses == 0


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"models": TWO_MODELS}, "--models"),
        ({"swap": SwapSettings(sleep_after=5.0)}, "--sleep-after"),
        (
            {"access": LIMITED},
            "limits of keys",
        ),
    ],
)
def test_what_processes_cannot_share_is_refused_by_name(change: Any, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"--api-server-count 3 excludes {flag}"):
        require_shareable(settings(**change))


def test_a_key_file_is_shareable_as_long_as_no_key_has_limits(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[[keys]]\nname = "one"\nkey = "secret-of-one"\n')
    several = settings(access=AccessSettings(api_keys=("a", "b"), api_key_file=str(file)))
    require_shareable(several)
    file.write_text(file.read_text() + "requests_per_minute = 5\n")
    with pytest.raises(ConfigError, match="excludes limits of keys, which 'one' has"):
        require_shareable(several)


def test_keys_that_are_read_again_must_not_have_limits_either(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[[keys]]\nname = "one"\nkey = "secret-of-one"\n')
    access = AccessSettings(api_key_file=str(file))
    control = AccessControl(access, ServerMetrics("m"), processes=2)
    file.write_text(file.read_text() + "tokens_per_minute = 5\n")
    control.reload()
    (caller,) = control.keys.callers
    assert caller.limits == NO_LIMITS


@pytest.mark.parametrize("count", [0, -1, 65])
def test_the_number_of_processes_is_bounded(count: int) -> None:
    with pytest.raises(ConfigError, match=f"api_server_count must be from 1 to 64, not {count}"):
        settings(count)
