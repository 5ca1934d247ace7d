"""Discovery finds what is installed, and one plugin's fault stays its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from windlass.config import BackendConfig
from windlass.plugin import (
    API_VERSION,
    Availability,
    BackendSpec,
    FoundPlugin,
    Status,
    discover,
    hookimpl,
)
from windlass.plugin.discovery import discover_ops

WritePlugin = Callable[..., str]

IN_TREE = {"cpu", "cuda", "rocm", "xpu"}


def found(name: str, **arguments: object) -> FoundPlugin:
    """Discover everything, see that the cpu plugin stayed usable, and return plugin `name`."""
    plugins = {plugin.name: plugin for plugin in discover(**arguments)}  # type: ignore[arg-type]
    assert plugins["cpu"].usable
    return plugins[name]


def test_in_tree_plugins_are_found_through_the_entry_points_of_windlass() -> None:
    plugins = {plugin.name: plugin for plugin in discover()}
    assert set(plugins) >= IN_TREE
    for name in IN_TREE:
        assert plugins[name].source.distribution == "windlass"
        assert plugins[name].spec is not None
    assert plugins["cpu"].availability.devices


def test_a_third_partys_plugin_is_found_but_not_imported_here(write_plugin: WritePlugin) -> None:
    module = write_plugin("good", version="2.5")
    plugin = found("good")
    assert plugin.usable
    assert plugin.availability.devices[0].name == "a good device"
    assert (plugin.source.distribution, plugin.source.version) == ("acme-good", "2.5")
    assert plugin.spec is not None
    assert plugin.spec.priority == 200
    assert module not in sys.modules


def test_discovery_imports_no_torch(write_plugin: WritePlugin) -> None:
    write_plugin("good")
    program = (
        "import sys; from windlass.plugin import discover; found = discover(); "
        "assert len(found) >= 5, found; "
        "heavy = {'torch', 'triton', 'numpy', 'transformers'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import libacme_missing", "ModuleNotFoundError: No module named 'libacme_missing'"),
        ("raise SystemExit(127)", "import failed: it tried to exit with 127"),
        ("def f(:", "SyntaxError"),
        ("import os; os._exit(3)", "probe ended with exit status 3"),
        (
            "import os, signal; print('dying words'); os.kill(os.getpid(), signal.SIGSEGV)",
            "probe was ended by SIGSEGV",
        ),
        ("x = 1", "it implements no windlass_backend hook"),
    ],
    ids=["import error", "exit", "syntax error", "hard exit", "segfault", "no hook"],
)
def test_a_plugin_that_breaks_is_reported_and_stops_no_other(
    write_plugin: WritePlugin, source: str, reason: str
) -> None:
    write_plugin("bad", source)
    write_plugin("good")
    plugins = {plugin.name: plugin for plugin in discover()}
    assert plugins["bad"].availability.status is Status.BROKEN
    assert reason in plugins["bad"].availability.reason
    assert plugins["good"].usable
    assert plugins["cpu"].usable


HANGS_ON_IMPORT = "import time; time.sleep(600)"
HANGS_IN_PROBE = """
    import time
    from windlass.plugin import BackendSpec, hookimpl

    @hookimpl
    def windlass_backend():
        return BackendSpec(name="{name}", target="a:b", device_type="cpu", priority=1)

    @hookimpl
    def windlass_probe():
        time.sleep(600)
"""


@pytest.mark.parametrize("source", [HANGS_ON_IMPORT, HANGS_IN_PROBE], ids=["import", "probe"])
def test_a_plugin_that_hangs_is_given_up_at_the_time_limit(
    write_plugin: WritePlugin, source: str
) -> None:
    write_plugin("stuck", source)
    said = found("stuck", probe_timeout=0.5).availability
    assert said.status is Status.BROKEN
    assert said.reason == "probe did not answer within 0.5 s"
    assert said.hint


def test_a_process_that_a_plugin_leaves_behind_does_not_hold_discovery_up(
    write_plugin: WritePlugin, tmp_path: Path
) -> None:
    source = (
        "import subprocess, sys, pathlib\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(r'{folder}/pid').write_text(str(left.pid))\n"
    )
    write_plugin("parent", source)
    try:
        assert "no windlass_backend hook" in found("parent").availability.reason
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_what_a_plugin_prints_does_not_spoil_its_answer(write_plugin: WritePlugin) -> None:
    source = "import os\nprint('hello')\nos.system('echo from a child')\n"
    from_good = """
from windlass.plugin import BackendSpec, hookimpl

@hookimpl
def windlass_backend():
    print("and again")
    return BackendSpec(name="{name}", target="a:b", device_type="cpu", priority=1)
"""
    write_plugin("chatty", source + from_good)
    assert found("chatty").usable


def test_two_distributions_with_one_name_are_both_named(write_plugin: WritePlugin) -> None:
    write_plugin("twin", distribution="acme-one")
    write_plugin("twin", distribution="acme-two", version="3.1")
    said = found("twin").availability
    assert said.status is Status.BROKEN
    assert said.reason == "acme-one 1.0 and acme-two 3.1 both bring a backend named 'twin'"


def test_a_third_party_cannot_take_the_name_of_an_in_tree_plugin(
    write_plugin: WritePlugin,
) -> None:
    write_plugin("xpu", distribution="acme-takeover")
    said = found("xpu").availability
    assert said.status is Status.BROKEN
    assert "acme-takeover 1.0 and windlass" in said.reason


def plugin_with(body: str, **spec: object) -> str:
    fields = {"name": "{name}", "target": "a:b", "device_type": "cpu", "priority": 1} | spec
    arguments = ", ".join(f"{field}={value!r}" for field, value in fields.items())
    return (
        "from windlass.plugin import Availability, BackendSpec, hookimpl\n\n"
        f"@hookimpl\ndef windlass_backend():\n    return BackendSpec({arguments})\n\n{body}\n"
    )


@pytest.mark.parametrize(
    ("api", "hint"),
    [
        ((API_VERSION[0] + 1, 0), "upgrade windlass"),
        ((API_VERSION[0], API_VERSION[1] + 1), "upgrade windlass"),
        (
            (API_VERSION[0] - 1, 9),
            "upgrade the distribution that brings the plugin 'other'",
        ),
    ],
)
def test_a_plugin_for_another_api_version_is_incompatible(
    write_plugin: WritePlugin, api: tuple[int, int], hint: str
) -> None:
    write_plugin("other", plugin_with("", api=api))
    plugin = found("other")
    assert plugin.availability.status is Status.INCOMPATIBLE
    assert plugin.availability.hint == hint
    assert f"it needs plugin API {api[0]}.{api[1]}" in plugin.availability.reason


def test_a_hook_with_an_argument_that_is_not_in_the_contract_is_incompatible(
    write_plugin: WritePlugin,
) -> None:
    write_plugin("odd", plugin_with("@hookimpl\ndef windlass_probe(moon_phase):\n    pass"))
    said = found("odd").availability
    assert said.status is Status.INCOMPATIBLE
    assert "moon_phase" in said.reason


def test_a_hook_of_a_newer_windlass_is_only_a_warning(
    write_plugin: WritePlugin, caplog: pytest.LogCaptureFixture
) -> None:
    write_plugin("newer", plugin_with("@hookimpl\ndef windlass_teleport():\n    pass"))
    with caplog.at_level(logging.WARNING):
        plugin = found("newer")
    assert plugin.usable
    assert "windlass_teleport" in plugin.findings.warnings[0]
    assert "plugin newer (acme-newer 1.0)" in caplog.text


@pytest.mark.parametrize(
    ("body", "spec", "reason"),
    [
        ("", {"name": "liar"}, "its entry point is named 'bad', its BackendSpec 'liar'"),
        ("", {"priority": "high"}, "windlass_backend returned a bad BackendSpec"),
        (
            "@hookimpl\ndef windlass_probe():\n    return True",
            {},
            "windlass_probe returned a bool, not a Availability",
        ),
        (
            "@hookimpl\ndef windlass_probe():\n    raise OSError('libacme.so: no such file')",
            {},
            "windlass_probe failed: OSError: libacme.so: no such file",
        ),
        ("", {"requires": ("not a requirement !",)}, "its requirement 'not a requirement !'"),
    ],
)
def test_an_answer_outside_the_contract_is_broken(
    write_plugin: WritePlugin, body: str, spec: dict[str, object], reason: str
) -> None:
    write_plugin("bad", plugin_with(body, **spec))
    said = found("bad").availability
    assert said.status is Status.BROKEN
    assert reason in said.reason


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("acme-kernels>=2", "acme-kernels is not installed"),
        ("pluggy>=9999", "is installed, it needs pluggy>=9999"),
    ],
)
def test_a_missing_requirement_comes_with_the_command_that_installs_it(
    write_plugin: WritePlugin, requirement: str, reason: str
) -> None:
    write_plugin("needy", plugin_with("", requires=(requirement,)))
    said = found("needy").availability
    assert said.status is Status.NOT_INSTALLED
    assert reason in said.reason
    assert said.hint == f"pip install '{requirement}'"


def test_a_requirement_for_another_platform_is_not_needed(write_plugin: WritePlugin) -> None:
    requirement = "acme-kernels; platform_system == 'Plan9'"
    write_plugin("portable", plugin_with("", requires=(requirement, "pluggy>=1")))
    assert found("portable").usable


LEAVES_A_MARK = "import pathlib; pathlib.Path(r'{folder}/{name}.imported').touch()"


def test_a_disabled_plugin_is_listed_and_never_imported(
    write_plugin: WritePlugin, tmp_path: Path
) -> None:
    write_plugin("off", LEAVES_A_MARK)
    plugin = found("off", config=BackendConfig(disabled_plugins=("off",)))
    assert plugin.availability.status is Status.DISABLED
    assert not (tmp_path / "off.imported").exists()


def test_a_named_backend_is_the_only_one_imported(
    write_plugin: WritePlugin, tmp_path: Path
) -> None:
    write_plugin("wanted", LEAVES_A_MARK)
    write_plugin("other", LEAVES_A_MARK)
    assert [plugin.name for plugin in discover(BackendConfig(backend="wanted"))] == ["wanted"]
    assert (tmp_path / "wanted.imported").exists()
    assert not (tmp_path / "other.imported").exists()


def test_a_plugin_of_this_process_needs_no_distribution() -> None:
    @hookimpl
    def windlass_backend() -> BackendSpec:
        return BackendSpec(name="here", target="a:b", device_type="cpu", priority=1)

    @hookimpl
    def windlass_probe() -> Availability:
        return Availability(status=Status.NO_DEVICE, reason=f"asked in process {os.getpid()}")

    hooks = SimpleNamespace(windlass_backend=windlass_backend, windlass_probe=windlass_probe)
    plugin = found("here", extra={"here": hooks})
    assert plugin.availability.reason == f"asked in process {os.getpid()}"
    assert plugin.source.origin == "this process"


def test_nothing_is_found_where_nothing_is_installed() -> None:
    assert discover(entry_points=()) == ()


def test_op_plugins_offer_providers_and_a_broken_one_is_left_out_with_a_warning(
    write_plugin: WritePlugin, caplog: pytest.LogCaptureFixture
) -> None:
    offers = """
        from windlass.plugin import OpProvider, hookimpl

        @hookimpl
        def windlass_op_providers(backend, arch):
            return [OpProvider(op="rms_norm", name=f"fast-{backend}-{arch}", target="a:b")]
    """
    write_plugin("fast", offers, group="windlass.ops")
    write_plugin("off", offers, group="windlass.ops")
    write_plugin("slow", "raise RuntimeError('no compiler')", group="windlass.ops")
    write_plugin("mad", "import os; os._exit(9)", group="windlass.ops")
    config = BackendConfig(disabled_plugins=("off",))
    providers = discover_ops(config, "cpu", "avx2")
    assert [provider.name for provider in providers] == ["fast-cpu-avx2"]
    assert "op plugin slow (acme-slow 1.0): import failed: RuntimeError: no compiler" in caplog.text
    assert "op plugin mad (acme-mad 1.0): probe ended with exit status 9" in caplog.text
