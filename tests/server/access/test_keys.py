"""Keys from flags and from a file: who is found by them, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from hmac import compare_digest
from pathlib import Path
from typing import Any

import pytest

from windlass.errors import ConfigError
from windlass_server.access.caller import Caller
from windlass_server.access.control import AccessControl
from windlass_server.access.key_file import read_key_file
from windlass_server.access.keys import Key, KeyRing, digest_of, load_keys
from windlass_server.access.settings import AccessSettings, KeyLimits
from windlass_server.metrics import ServerMetrics


@pytest.fixture
def key_file(tmp_path: Path) -> Any:
    path = tmp_path / "keys.toml"

    def write(text: str, mode: int = 0o600) -> str:
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return str(path)

    return write


def ring(path: str, **settings: Any) -> KeyRing:
    return load_keys(AccessSettings(api_key_file=path, **settings))


def test_a_flag_s_key_has_an_owner_that_outlives_the_server_and_does_not_tell_the_key() -> None:
    settings = AccessSettings(api_keys=("one", "two"), admin_api_keys=("root",))
    one, two, root = (load_keys(settings).find([key]) for key in ("one", "two", "root"))
    assert one is not None
    assert two is not None
    assert root is not None
    assert (one.admin, two.admin, root.admin) == (False, False, True)
    assert one == load_keys(AccessSettings(api_keys=("one",))).find(["one"])
    assert len({one.owner, two.owner, root.owner}) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", found.owner) for found in (one, two, root))
    assert hashlib.sha256(b"one").hexdigest()[:8] not in one.owner
    assert load_keys(settings).find(["three", ""]) is None


def test_a_file_names_keys_and_says_what_each_may_do(key_file: Any) -> None:
    path = key_file(
        f"""
        [[keys]]
        name = "team-a"
        key = "secret-a"
        requests_per_minute = 10
        tokens_per_minute = 0
        weight = 2

        [[keys]]
        name = "team-b"
        sha256 = "{hashlib.sha256(b"secret-b").hexdigest().upper()}"
        admin = true
        max_concurrent_requests = 3
        """
    )
    limits = KeyLimits(requests_per_minute=60, tokens_per_minute=1000)
    keys = ring(path, limits=limits)
    first, second = keys.find(["secret-a"]), keys.find(["wrong", "secret-b"])
    assert first is not None
    assert second is not None
    assert (first.name, first.admin, first.weight) == ("team-a", False, 2.0)
    assert first.limits == KeyLimits(requests_per_minute=10)
    assert (second.name, second.admin, second.weight) == ("team-b", True, 1.0)
    assert second.limits == KeyLimits(
        requests_per_minute=60, tokens_per_minute=1000, max_concurrent_requests=3
    )


def test_what_a_named_key_owns_stays_its_own_when_the_key_is_replaced(key_file: Any) -> None:
    before = ring(key_file('[[keys]]\nname = "a"\nkey = "old"')).find(["old"])
    after = ring(key_file('[[keys]]\nname = "a"\nkey = "new"')).find(["new"])
    assert before is not None
    assert after is not None
    assert before.owner == after.owner


def test_a_key_that_has_expired_is_no_key() -> None:
    now = 1000.0
    key = Key(digest_of("k"), Caller("a", "a"), expires=1060.0)
    keys = KeyRing([key], clock=lambda: now)
    assert keys.find(["k"]) is not None
    now = 1060.0
    assert keys.find(["k"]) is None
    assert keys, "the server still asks for keys"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing required field `keys`"),
        ("keys = []", "holds no"),
        ('[[keys]]\nname = "a"\nkey = "k"\nlimit = 3', "unknown field `limit`"),
        ('extra = 1\n[[keys]]\nname = "a"\nkey = "k"', "unknown field `extra`"),
        ('[[keys]]\nname = "a"', "must have either 'key' or 'sha256'"),
        (f'[[keys]]\nname = "a"\nkey = "k"\nsha256 = "{"0" * 64}"', "must have either"),
        ('[[keys]]\nkey = "k"', "missing required field `name`"),
        ('[[keys]]\nname = "a b"\nkey = "k"', "`$.keys[0].name`"),
        ('[[keys]]\nname = "a"\nkey = ""', "`$.keys[0].key`"),
        ('[[keys]]\nname = "a"\nsha256 = "abc"', "`$.keys[0].sha256`"),
        ('[[keys]]\nname = "a"\nkey = "k"\nweight = 0', "`$.keys[0].weight`"),
        ('[[keys]]\nname = "a"\nkey = "k"\nweight = nan', "`$.keys[0].weight`"),
        ('[[keys]]\nname = "a"\nkey = "k"\nweight = inf', "`$.keys[0].weight`"),
        ('[[keys]]\nname = "a"\nkey = "k"\nrequests_per_minute = -1', "requests_per_minute"),
        ('[[keys]]\nname = "a"\nkey = "k"\nexpires = 2030-01-01T00:00:00', "expires"),
        ('[[keys]]\nname = "a"\nkey = "k"\nexpires = "soon"', "expires"),
        ('[[keys]]\nname = "a"\nkey = "k"\nadmin = "yes"', "`$.keys[0].admin`"),
        ('[[keys]]\nname = "a"\nkey = "k"\n[[keys]]\nname = "a"\nkey = "l"', "two keys are named"),
        ('[[keys]]\nname = "a"\nkey = "k"\n[[keys]]\nname = "b"\nkey = "k"', "are the same"),
        ("[[keys]", "is wrong"),
    ],
)
def test_a_wrong_key_file_says_what_is_wrong_and_tells_no_key(
    key_file: Any, text: str, says: str
) -> None:
    path = key_file(text.replace('"k"', '"canary-key"'))
    with pytest.raises(ConfigError) as found:
        ring(path)
    assert says in str(found.value)
    assert "canary" not in str(found.value)


def test_a_file_that_is_not_there_or_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the key file"):
        read_key_file(str(tmp_path / "none"))
    binary = tmp_path / "binary"
    binary.write_bytes(b'[[keys]]\nname = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_key_file(str(binary))
    large = tmp_path / "large"
    large.write_bytes(b"#" * (16 * 1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_key_file(str(large))


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_may_read_gives_a_warning(
    key_file: Any, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        read_key_file(key_file('[[keys]]\nname = "a"\nkey = "k"', mode))
    assert ("chmod 600" in caplog.text) is warns


def test_a_reload_takes_new_keys_and_a_broken_one_keeps_the_old(
    key_file: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = key_file('[[keys]]\nname = "a"\nkey = "one"')
    control = AccessControl(AccessSettings(api_key_file=path), ServerMetrics("model"))
    key_file('[[keys]]\nname = "a"\nkey = "two"')
    control.reload()
    assert control.keys.find(["one"]) is None
    assert control.keys.find(["two"]) is not None
    key_file('[[keys]]\nname = "a"')
    control.reload()
    assert control.keys.find(["two"]) is not None
    assert "The keys stay as they were" in caplog.text
    assert "must have either" in caplog.text


def test_a_key_is_either_an_admin_s_or_not() -> None:
    with pytest.raises(ConfigError, match="both as api_key and as admin_api_key"):
        AccessSettings(api_keys=("a",), admin_api_keys=("a",))
    assert len(load_keys(AccessSettings(api_keys=("a", "a")))) == 1


@pytest.mark.parametrize("given", [["first"], ["last"], ["none"], ["none", "first"], [""]])
def test_every_key_is_compared_in_constant_time_whichever_is_given(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    names = ["first", *map(str, range(20)), "last"]
    keys = KeyRing([Key(digest_of(name), Caller(name, name)) for name in names])
    found = keys.find(given)
    assert (found is not None) is bool({"first", "last"} & set(given))
    assert len(compared) == len(names) * len(given)
    assert {len(digest) for pair in compared for digest in pair} == {32}
