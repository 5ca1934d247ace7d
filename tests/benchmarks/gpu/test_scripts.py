"""The scripts themselves, on the CPU plugin with tiny models."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks/gpu"
TINY = ["--model", "tiny", "--device", "cpu", "--dtype", "float32", "--memory", "0.02"]
TINY += ["--max-num-seqs", "8", "--max-model-len", "512", "--context", "100"]


def script(name: str) -> ModuleType:
    """A script as a module; another folder on the path may hold one of the same name."""
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_profile_measures_steps_and_prefill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profile.json"
    own = ["--batches", "4", "--profiled", "2", "--prefill", "64", "--out", str(out)]
    assert script("decode_profile").main([*TINY, *own]) == 0
    (report,) = json.loads(out.read_text())
    assert [entry["batch"] for entry in report["decode"]] == [4]
    step, rate = report["decode"][0]["figures"]
    assert rate["value"] == pytest.approx(4e3 / step["value"])
    assert report["decode"][0]["host"]["period"] > 0
    assert report["first_token_seconds"] >= report["load_seconds"]
    assert "decode@4" in capsys.readouterr().out


@pytest.mark.slow
def test_windlass_takes_its_turns_and_ends_in_time(tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    own = ["--engines", "windlass", "--batches", "2", "--tests", "decode", "prefix"]
    own += ["--shrink", "64", "--repeats", "1", "--folder", str(tmp_path), "--out", str(out)]
    assert script("versus_peers").main([*TINY, *own]) == 0
    (report,) = json.loads(out.read_text())
    assert not report["failures"]
    assert [s["work"] for s in report["samples"]] == ["decode@2", "decode@2", "prefix"]
    assert report["turns"][0]["ceilings"]["bandwidth"] > 0


def test_without_time_left_nothing_is_started_and_that_is_told(tmp_path: Path) -> None:
    own = ["--engines", "windlass", "--deadline", "0", "--folder", str(tmp_path)]
    assert script("versus_peers").main([*TINY, *own]) == 1
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_a_model_is_checked_against_transformers(tmp_path: Path) -> None:
    from gpu_peers.checks import check_model

    checks = check_model("qwen3-64", tmp_path, "cpu", requests=4, tokens=3)
    assert [check.name for check in checks if check.passed is False] == []
    assert sum(check.passed is True for check in checks) >= 5


def test_a_wrong_model_is_found(tmp_path: Path) -> None:
    """Of what the checks compare, a rotation by another base must not pass."""
    from gpu_peers.checks import ModelChecks
    from gpu_peers.reference import Reference, make_checkpoint

    folder = make_checkpoint("llama-64", tmp_path)
    checks = ModelChecks("llama-64", folder, "cpu", requests=2, tokens=3)
    right = Reference(folder, checks.fp32._model.dtype, "cpu")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    (folder / "config.json").write_text(json.dumps(config))
    checks.__dict__["fp32"] = right
    checks._try("fp32 eager", lambda: checks._exact("eager", {}))
    (found,) = checks.found
    assert found.passed is False
    assert "tokens equal" in found.figures


def test_one_call_runs_the_parts_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = " ".join([*TINY[2:], "--batches", "2", "--profiled", "2", "--prefill", "64"])
    own = ["--only", "profile", "--model", "tiny", f"--common={common}", "--out", str(tmp_path)]
    assert script("everything").main([*own, "--deadline", "120"]) == 0
    assert json.loads((tmp_path / "profile.json").read_text())[0]["model"] == "tiny"
    assert "== profile: code 0" in capsys.readouterr().out


def test_a_part_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--only", "profile", "--model", "tiny", "--common=--no-such-flag"]
    assert script("everything").main([*own, "--out", str(tmp_path)]) == 1
    assert "failed: profile" in capsys.readouterr().out
