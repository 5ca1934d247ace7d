"""A third party's plugin, installed into a fresh environment, is found and serves a model."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests/sample_plugin"

SAME_TOKENS = """
from windlass import LLM, SamplingParams
from windlass_sample.backend import calls

greedy = SamplingParams(temperature=0.0, max_tokens=16)
answers = []
for backend in ("cpu", "sample"):
    assert not calls
    with LLM(dtype="float32", backend=backend) as llm:
        answers.append(llm.generate(["What is Windlass?"], greedy)[0].outputs[0].token_ids)
assert len(answers[0]) > 1
assert answers[0] == answers[1], answers
print(calls["silu_mul"])
"""


class Environment:
    """A fresh virtual environment with Windlass and the sample plugin.

    What they require (torch above all) is borrowed from the environment that runs the tests.
    """

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / "bin"
        self.variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"]
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed"]
        self.run(*pip, *options, str(ROOT), str(SAMPLE))

    def run(self, *command: str) -> str:
        """Standard output of a command; fails with its standard error."""
        done = subprocess.run(
            command, env=self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("fresh") / "venv")


def test_the_doctor_sees_the_plugin_its_device_and_its_op(environment: Environment) -> None:
    command = (str(environment.bin / "windlass"), "doctor", "--json", "--backend", "sample")
    report: dict[str, Any] = json.loads(environment.run(*command))
    assert report["selected"] == "sample"
    plugins = {row["name"]: row for row in report["plugins"]}
    assert set(plugins) == {"cpu", "cuda", "rocm", "xpu", "sample"}
    sample = plugins["sample"]
    assert (sample["distribution"], sample["version"]) == ("windlass-backend-sample", "1.0.0")
    assert (sample["status"], sample["devices"][0]["name"]) == ("available", "sample device")
    ops = {row["op"]: row["chosen"] for row in report["ops"]}
    assert (ops["silu_mul"], ops["rms_norm"]) == ("sample", "reference")


def test_auto_leaves_a_plugin_of_lower_priority_alone(environment: Environment) -> None:
    report = json.loads(environment.run(str(environment.bin / "windlass"), "doctor", "--json"))
    assert report["selected"] != "sample"


def test_the_plugin_runs_its_own_op_and_gives_the_cpus_tokens(environment: Environment) -> None:
    calls = environment.run(str(environment.bin / "python"), "-c", SAME_TOKENS)
    assert int(calls.split()[-1]) > 0


def test_the_installed_plugin_is_proven_by_the_conformance_kit(environment: Environment) -> None:
    printed = environment.run(str(environment.bin / "windlass"), "conformance", "sample")
    assert "sample: proven" in printed


@contextmanager
def server(environment: Environment, log: Path) -> Iterator[str]:
    """The address of `windlass serve` with the sample backend; it must end well on SIGTERM."""
    command = [str(environment.bin / "windlass"), "serve", "--backend", "sample", "--port", "0"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env=environment.variables, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("Windlass serves"):
                    assert " on sample (" in line
                    yield line.split()[-1]
                    break
            else:
                pytest.fail(f"the server ended before it was ready:\n{log.read_text()}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    assert process.returncode == 0, log.read_text()


def test_the_plugin_serves_a_model_over_http(environment: Environment, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "Hello!"}], "model": "windlass-demo"}
    with server(environment, tmp_path / "server.log") as address:
        request = urllib.request.Request(
            f"{address}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            completion = json.load(answer)
    assert completion["choices"][0]["message"]["content"].strip()
    assert completion["usage"]["completion_tokens"] > 0
