"""`schemathesis` makes requests from our `/openapi.json`: none is answered with a 5xx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("schemathesis", reason="the extra 'clients' is not installed")

if TYPE_CHECKING:
    from tests.clients.conftest import Served


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_is_answered_with_a_server_error(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"]
    command += ["--checks", "not_a_server_error", "--max-examples", "20", "--seed", "1"]
    command += ["--header", f"Authorization: Bearer {served.key}", "--request-timeout", "60"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
