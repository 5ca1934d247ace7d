"""Nothing in the program runs code that came in as data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "server", "plugins")
MODULES = {"cloudpickle", "dill", "marshal", "pickle", "shelve"}
BUILTINS = {"__import__", "compile", "eval", "exec"}
ATTRIBUTES = {
    "joblib.load",
    "os.popen",
    "os.system",
    "torch.hub.load",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
}


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each import or call that could run foreign code."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield from dangerous_import(node, alias.name)
            case ast.ImportFrom(module=str(module), names=names):
                yield from dangerous_import(node, module)
                for alias in names:
                    yield from dangerous_import(node, f"{module}.{alias.name}", ATTRIBUTES)
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                yield node.lineno, name
            case ast.Attribute() if ast.unparse(node) in ATTRIBUTES:
                yield node.lineno, ast.unparse(node)
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                yield node.value.lineno, "shell=True"


def dangerous_import(
    node: ast.stmt, name: str, forbidden: set[str] = MODULES
) -> Iterator[tuple[int, str]]:
    """The import of `name` when it, or the package it is in, is forbidden."""
    if name in forbidden or name.partition(".")[0] in forbidden:
        yield node.lineno, f"import {name}"


def test_no_source_runs_code_that_came_in_as_data() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for line, name in dangers(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import pickle", ["import pickle"]),
        ("from pickle import loads", ["import pickle"]),
        ("from torch import load", ["import torch.load"]),
        ("torch.load(path)", ["torch.load"]),
        ("eval(text)", ["eval"]),
        ("model.eval()", []),
        ("run(line, shell=True)", ["shell=True"]),
        ("re.compile(text)", []),
        ("json.load(file)", []),
    ],
)
def test_a_dangerous_call_is_seen(source: str, names: list[str]) -> None:
    assert [name for _, name in dangers(ast.parse(source))] == names
