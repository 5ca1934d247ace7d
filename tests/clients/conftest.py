"""A `windlass serve` process with the demo model, for clients that others wrote.

The clients are in the extra `clients`; a test whose client is not installed is skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

MODEL = "demo"
KEY = "client-key"


class Served:
    """Where the server is, and the key it asks for."""

    model, key = MODEL, KEY

    def __init__(self, url: str) -> None:
        self.url = url
        self.api = f"{url}/v1"


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """One server for all clients."""
    command = [sys.executable, "-X", "faulthandler", "-m", "windlass.cli", "serve", "--port", "0"]
    command += ["--served-model-name", MODEL, "--api-key", KEY, "--strict-params"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as batches:
        command += ["--batch-dir", batches]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            found = re.search(r" at (http://[0-9.:]+)$", line.rstrip())
            if found:
                break
        if found is None:
            log.seek(0)
            raise AssertionError(f"the server did not start:\n{log.read()}")
        yield Served(found[1])
        process.terminate()
        code = process.wait(60)
        log.seek(0)
        assert code == 0, f"the server ended with {code}:\n{log.read()[-8000:]}"
        process.stdout.close()
