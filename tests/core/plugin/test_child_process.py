"""A third party's plugin answers from a process of its own, a copy of the host or a fresh one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

WritePlugin = Callable[..., str]

can_fork = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="copies are made on Linux")
WAYS = [pytest.param("fork", marks=can_fork), "spawn"]

PROGRAM = """
import json, socket, sys
from windlass.plugin import Status, child_process, discover

if sys.argv[1] == "spawn":
    child_process.may_fork = lambda: False
started = []
starts = ("os.fork", "subprocess.Popen")
sys.addaudithook(lambda event, _: event in starts and started.append(event))
host = socket.socket()
sys.stdout.write("what the host had not yet written ")
before = set(sys.modules)
found = {plugin.name: plugin for plugin in discover(probe_timeout=float(sys.argv[2]))}
names = found.keys() - {"cpu", "cuda", "rocm", "xpu"}
print(json.dumps({
    "started": started,
    "in-tree": [found["cpu"].usable],
    "said": {name: found[name].availability.reason for name in sorted(names)},
    "imported": sorted(name for name in set(sys.modules) - before if name.startswith("acme")),
    "heavy": sorted({"torch", "triton", "numpy", "transformers"} & set(sys.modules)),
}))
"""
BODY = """
    import os, signal, stat, sys
    from windlass.plugin import Availability, BackendSpec, hookimpl

    @hookimpl
    def windlass_backend():
        return BackendSpec(name="{name}", target="a:b", device_type="cpu", priority=1)

    @hookimpl
    def windlass_probe():
        PROBE
"""
ANSWERS = "return Availability.available(reason='here')"
COUNTS_SOCKETS = """
        open_files = [os.fstat(n) for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}")]
        sockets = [file for file in open_files if stat.S_ISSOCK(file.st_mode)]
        return Availability.available(reason=f"{len(sockets)} sockets of the host")
"""


def discovered(way: str, timeout: float = 10.0) -> dict[str, Any]:
    """What a fresh process finds; `way` is how it starts others: "fork" or "spawn"."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, way, str(timeout)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    once, _, report = done.stdout.partition("{")
    assert once == "what the host had not yet written "
    answer: dict[str, Any] = json.loads("{" + report)
    assert answer["in-tree"] == [True]
    assert not answer["imported"]
    assert not answer["heavy"]
    return answer


@can_fork
def test_six_plugins_cost_two_copies_of_the_process_and_no_interpreter(
    write_plugin: WritePlugin,
) -> None:
    for name in ("one", "two"):
        write_plugin(name, BODY.replace("PROBE", ANSWERS))
    answer = discovered("fork")
    assert answer["started"] == ["os.fork", "os.fork"]
    assert answer["said"] == {"one": "here", "two": "here"}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_plugin_does_stays_in_its_process(write_plugin: WritePlugin, way: str) -> None:
    write_plugin("crashes", BODY.replace("PROBE", "os.kill(os.getpid(), signal.SIGSEGV)"))
    write_plugin("exits", BODY.replace("PROBE", "os._exit(3)"))
    write_plugin("prints", BODY.replace("PROBE", f"print('to nobody'); {ANSWERS}"))
    write_plugin("raises", BODY.replace("PROBE", "raise KeyboardInterrupt"))
    write_plugin("sockets", BODY.replace("PROBE", COUNTS_SOCKETS.strip()))
    answer = discovered(way)
    assert {start.split(".")[1] for start in answer["started"]} == {
        "fork" if way == "fork" else "Popen"
    }
    assert "KeyboardInterrupt" in answer["said"].pop("raises")
    assert answer["said"] == {
        "crashes": "probe was ended by SIGSEGV",
        "exits": "probe ended with exit status 3",
        "prints": "here",
        "sockets": "0 sockets of the host",
    }


@pytest.mark.parametrize("way", WAYS)
def test_plugins_that_hang_are_given_up_together(write_plugin: WritePlugin, way: str) -> None:
    """Each has its own process and the same limit: three take no longer than one."""
    probe = "import time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    for name in ("one", "two", "three"):
        write_plugin(name, BODY.replace("PROBE", probe))
    answer = discovered(way, timeout=2.0)
    assert set(answer["said"].values()) == {"probe did not answer within 2 s"}


MAY_FORK = """
import sys, threading
from windlass.plugin.child_process import may_fork
alone = may_fork()
end = threading.Event()
thread = threading.Thread(target=end.wait)
thread.start()
beside_a_thread = may_fork()
end.set()
thread.join()
sys.modules["torch"] = sys
print([alone, beside_a_thread, may_fork()])
"""


@can_fork
def test_a_process_with_threads_or_torch_is_not_copied() -> None:
    command = [sys.executable, "-c", MAY_FORK]
    assert subprocess.check_output(command, text=True).strip() == "[True, False, False]"
