"""What `import windlass` gives, and what it must not cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

import windlass

PUBLIC = {
    "AsyncEngine",
    "CompletionOutput",
    "EngineConfig",
    "LLM",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputs",
    "__version__",
}


def test_the_public_names_are_listed_sorted_and_importable() -> None:
    assert set(windlass.__all__) == PUBLIC
    assert windlass.__all__ == sorted(windlass.__all__)
    assert dir(windlass) == windlass.__all__
    for name in windlass.__all__:
        assert getattr(windlass, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        windlass.Nothing  # noqa: B018


def test_importing_windlass_and_its_front_ends_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys, windlass\n"
        "windlass.LLM, windlass.AsyncEngine, windlass.SamplingParams\n"
        "import windlass.executor.engine_process\n"
        "print(sorted({'torch', 'transformers', 'fastapi', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
