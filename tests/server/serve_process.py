"""A real `windlass serve` process with the demo model, for tests of what only a process has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

MODEL = "demo"


class ServeProcess:
    """Started at once; `url` is what it printed when it was ready, `log` its standard error.

    Raises:
        AssertionError: it ended before it was ready.
    """

    def __init__(self, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "windlass.cli", "serve", "--port", "0"]
        if "--models" not in flags:
            command += ["--served-model-name", MODEL]
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [*command, *flags],
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.url = self._wait_for_address()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    def _wait_for_address(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r" at (https?://\S+)$", line.rstrip())
            if found:
                return found[1]
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        raise AssertionError("the server did not start:\n" + "".join(self.log))

    def stop(self) -> int:
        """End it with SIGTERM; returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self._reader.join(10)
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        code = self.stop()
        if kind is None:
            assert code == 0, "".join(self.log)[-8000:]


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until `condition` holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
