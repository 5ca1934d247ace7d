"""`windlass plugin new`: what it writes is installed, found, clean, and conforms, unmodified."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from windlass.authoring.new_plugin import new_plugin, write_plugin
from windlass.cli import main
from windlass.config import BackendConfig
from windlass.errors import ConfigError
from windlass.plugin import API_VERSION, Status, discover


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints; fails with all that it said."""
    quick = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | quick, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("acme")
    write_plugin(new_plugin("acme", "cpu"), folder)
    return folder


@pytest.fixture(scope="module")
def installed(written: Path) -> Path:
    """A folder with the plugin's wheel unpacked, as `pip install --target` leaves it."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", "dist", ".", folder=written)
    (wheel,) = (written / "dist").glob("windlass_backend_acme-0.1.0-*.whl")
    site = written / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_the_installed_plugin_is_found_as_a_third_partys(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    (found,) = discover(BackendConfig(backend="acme"))
    assert found.source.distribution == "windlass-backend-acme"
    assert not found.source.trusted
    assert found.availability.status is Status.AVAILABLE
    assert found.availability.devices[0].total_bytes > 0
    assert found.spec is not None
    assert found.spec.api == API_VERSION
    assert (installed / "windlass_acme/py.typed").exists()


def test_its_own_tests_pass_unmodified(
    written: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick ones of them; an integration test runs every level."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    printed = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-k", "probe or hygiene or device_and_allocator"),
        folder=written,
    )
    assert "4 passed" in printed


@pytest.mark.parametrize(("name", "device_type"), [("acme", "cpu"), ("zen_chip", "zen")])
def test_what_is_written_is_clean(tmp_path: Path, name: str, device_type: str) -> None:
    write_plugin(new_plugin(name, device_type), tmp_path)
    ruff = [sys.executable, "-m", "ruff"]
    run(*ruff, "check", "--no-cache", ".", folder=tmp_path)
    run(*ruff, "format", "--no-cache", "--check", ".", folder=tmp_path)
    assert "$" not in (tmp_path / "README.md").read_text()


def test_a_device_is_looked_for_among_the_files_of_its_driver(tmp_path: Path) -> None:
    write_plugin(new_plugin("zen_chip", "zen"), tmp_path)
    probe = (tmp_path / "windlass_zen_chip/probe.py").read_text()
    assert 'DEVICE_FILES = "/dev/zen[0-9]*"' in probe
    run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_probe.py"),
        folder=tmp_path,
    )


def test_the_command_writes_into_a_folder_of_the_distributions_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["plugin", "new", "zen_chip", "--device-type", "zen", "--device-files", "/dev/zc*"]
    assert main(command) == 0
    assert "windlass conformance zen_chip" in capsys.readouterr().out
    written = tmp_path / "windlass-backend-zen-chip"
    assert '"/dev/zc*"' in (written / "windlass_zen_chip/probe.py").read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        write_plugin(new_plugin("acme", "cpu"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "device_type", "device_files", "says"),
    [
        ("Acme", "cpu", "", "NAME must be small letters"),
        ("2fast", "cpu", "", "start with a letter"),
        ("acme-2", "cpu", "", "underscores"),
        ("auto", "cpu", "", "has a meaning already"),
        ("lambda", "cpu", "", "has a meaning already"),
        ("a" * 33, "cpu", "", "33 characters, at most 32"),
        ("cpu", "cpu", "", "windlass brings a backend 'cpu'"),
        ("server", "cpu", "", "windlass_server can be imported"),
        ("acme", "zen:0", "", "--device-type must be"),
        ("acme", "zen", "zen0", "--device-files must be an absolute path"),
        ("acme", "zen", '/dev/"', "--device-files must be"),
    ],
)
def test_what_cannot_work_is_refused(
    name: str, device_type: str, device_files: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        new_plugin(name, device_type, device_files)
