"""`guidellm` measures the server through each of the APIs that it speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("guidellm", reason="the extra 'clients' is not installed")

from windlass import demo_model

if TYPE_CHECKING:
    from tests.clients.conftest import Served

REQUESTS = 8


@pytest.mark.slow
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_every_request_of_a_benchmark_succeeds(served: Served, tmp_path: Path, route: str) -> None:
    report = tmp_path / "report.json"
    target = f"target={served.url},model={served.model},api_key={served.key}"
    options = {
        "--backend": f"kind=openai_http,{target},request_format={route}",
        "--profile": "kind=concurrent,streams=4",
        "--constraint": f"kind=max_requests,count={REQUESTS}",
        "--tokenizer": f"kind=huggingface_auto,model={demo_model.path()}",
        "--data": "kind=synthetic_text,prompt_tokens=32,output_tokens=16",
        "--output": f"kind=json,path={report}",
    }
    words = [word for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "guidellm", "run", *words, "--disable-console"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert len(requests["successful"]) == REQUESTS
    assert not requests["errored"]
    for request in requests["successful"]:
        assert request["output_tokens"] == 16
