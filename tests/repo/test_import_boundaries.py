"""Who may import whom, what core may name, and what a cheap import may pull in."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core/windlass"
SOURCE_ROOTS = ["core", "server", "plugins/cpu", "plugins/cuda", "plugins/rocm", "plugins/xpu"]
HARDWARE = re.compile(r"cuda|rocm|hip|xpu|npu")
HEAVY = {"fastapi", "huggingface_hub", "numpy", "tokenizers", "torch", "transformers", "triton"}


def environment() -> dict[str, str]:
    """Variables with which Python finds the sources of this checkout."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in SOURCE_ROOTS)}


def core_files() -> list[Path]:
    """Python files of core that may not know any hardware."""
    return [path for path in CORE.rglob("*.py") if CORE / "testing" not in path.parents]


def test_the_import_contracts_of_the_rooms_hold() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def docstrings(tree: ast.AST) -> set[ast.expr]:
    """The docstring nodes of a module and of everything in it."""
    return {
        statement.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }


def hardware_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each string, attribute or import that names a hardware vendor's runtime."""
    ignored = docstrings(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if node not in ignored:
                if HARDWARE.fullmatch(text.partition(":")[0]):
                    yield node.lineno, repr(text)
            case ast.Attribute(value=ast.Name(id="torch"), attr=name):
                if HARDWARE.fullmatch(name):
                    yield node.lineno, f"torch.{name}"
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                modules = [alias.name for alias in names]
                if isinstance(node, ast.ImportFrom):
                    modules = [f"{node.module}.{name}" for name in modules]
                for module in modules:
                    if any(HARDWARE.fullmatch(part) for part in module.split(".")):
                        yield node.lineno, f"import {module}"


def test_core_names_no_hardware() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in core_files()
        for line, name in hardware_names(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('"""About cuda."""\nif device == "cuda": pass', ["'cuda'"]),
        ("x.to('xpu:0')", ["'xpu:0'"]),
        ("torch.cuda.synchronize()", ["torch.cuda"]),
        ("from torch import cuda", ["import torch.cuda"]),
        ("import torch.xpu", ["import torch.xpu"]),
        ("torch.accelerator.synchronize()", []),
        ("'a chip, a scuda, hips'", []),
    ],
)
def test_a_hardware_name_is_seen_wherever_it_hides(source: str, names: list[str]) -> None:
    assert [name for _, name in hardware_names(ast.parse(source))] == names


@pytest.mark.parametrize(
    "module", ["windlass", "windlass.plugin", "windlass.engine", "windlass.cli"]
)
def test_a_light_module_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, {module}; found = sys.modules.keys() & {HEAVY!r}; "
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{module} imports {done.stderr}"


def test_an_engine_module_imports_nothing_heavy_either() -> None:
    modules = [
        f"windlass.engine.{path.stem}"
        for path in (CORE / "engine").glob("*.py")
        if path.stem != "__init__"
    ]
    test_a_light_module_imports_nothing_heavy(", ".join(modules))
