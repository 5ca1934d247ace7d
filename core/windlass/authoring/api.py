"""Reads the plugin API from its sources: every public name with its signature and docstring.

Nothing is imported, so the answer is the same wherever it is asked: it depends on no version of
torch, and on no device.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The package `windlass`."""

OPS_MODULE = "windlass.kernels.reference"
HOOKS_MODULE = "windlass.plugin.hookspecs"
MODULES = (
    "windlass.plugin",
    HOOKS_MODULE,
    "windlass.backend",
    OPS_MODULE,
    "windlass.kernels",
    "windlass.step",
    "windlass.checkpoint",
    "windlass.errors",
    "windlass.testing.conformance",
    "windlass.testing.offline",
)
"""What a plugin may rely on: the names that these modules export."""

_SHOWN_METHODS = ("__init__", "__call__", "__iter__", "__bool__")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One public name.

    `path` is the name within its module ("Capabilities.dtypes"), `kind` one of "function", "class",
    "field", "property", "constant". `signature` is one line that names all that a plugin can rely
    on, `code` the same as Python (of a class its first lines), `doc` the docstring. `abstract` says
    that a plugin has to write it. `parameters` are (name, annotation).
    """

    path: str
    kind: str
    signature: str
    code: str
    doc: str = ""
    abstract: bool = False
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def owner(self) -> str:
        """The class that it is part of, "" for a name of the module."""
        return self.path.rpartition(".")[0]


@cache
def describe(module: str) -> tuple[Entry, ...]:
    """The entries of a module, in the order in which it exports them.

    Raises:
        LookupError: the module exports a name that cannot be found in the sources.
    """
    return tuple(entry for name in _exported(module) for entry in _entries(*_find(module, name)))


def describe_all() -> dict[str, tuple[Entry, ...]]:
    """The entries of every module of the plugin API."""
    return {module: describe(module) for module in MODULES}


def bases_of(module: str, name: str) -> list[tuple[str, str]]:
    """Where each base class of a class stands that is Windlass's own: (module, name)."""
    home, node = _find(module, name)
    if not isinstance(node, ast.ClassDef):
        return []
    found = []
    for base in node.bases:
        if isinstance(base, ast.Name):
            try:
                found.append((_find(home, base.id)[0], base.id))
            except LookupError:  # another package's
                continue
    return found


def docstring_of(module: str) -> str:
    """The docstring of a module."""
    return ast.get_docstring(_tree(module)) or ""


def _file(module: str) -> Path | None:
    package, *parts = module.split(".")
    path = ROOT.joinpath(*parts)
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if package == ROOT.name and file.exists()), None)


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    if file is None:
        raise LookupError(f"{module} is no module of {ROOT.name}")
    return ast.parse(file.read_text(encoding="utf-8"))


def _exported(module: str) -> list[str]:
    """`__all__` where there is one; the keys of the table of ops; else what is defined here."""
    tree = _tree(module)
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=names)):
                return sorted(ast.literal_eval(ast.List(names, ast.Load())))
            case ast.AnnAssign(target=ast.Name(id="REFERENCES"), value=ast.Dict(values=values)):
                return [value.id for value in values if isinstance(value, ast.Name)]
    return [
        statement.name
        for statement in tree.body
        if isinstance(statement, ast.ClassDef | ast.FunctionDef)
        and not statement.name.startswith("_")
    ]


def _find(module: str, name: str) -> tuple[str, ast.stmt]:
    """The statement that defines a name, and its module, through imports of Windlass's own.

    Raises:
        LookupError: there is none.
    """
    for statement in _tree(module).body:
        match statement:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) if found == name:
                return module, statement
            case (
                ast.AnnAssign(target=ast.Name(id=found)) | ast.Assign(targets=[ast.Name(id=found)])
            ) if found == name:
                return module, statement
            case ast.ImportFrom(module=str(source), names=names) if _file(source):
                for alias in names:
                    if (alias.asname or alias.name) == name:
                        return _find(source, alias.name)
    raise LookupError(f"{module} exports {name}, and no source of {ROOT.name} defines it")


def _entries(module: str, node: ast.stmt) -> Iterator[Entry]:
    match node:
        case ast.FunctionDef():
            yield _function(node, "")
        case ast.ClassDef():
            yield from _class(node)
        case ast.AnnAssign() | ast.Assign():
            yield _constant(node, _following_doc(_tree(module).body, node))


def _class(node: ast.ClassDef) -> Iterator[Entry]:
    bases = [ast.unparse(base) for base in node.bases]
    dataclass_options = [
        ast.unparse(decorator) for decorator in node.decorator_list if _is_dataclass(decorator)
    ]
    head = [f"@{option}" for option in dataclass_options]
    head.append(f"class {node.name}" + (f"({', '.join(bases)})" if bases else ""))
    yield Entry(
        path=node.name,
        kind="class",
        signature=" ".join(head),
        code="\n".join(head) + ":",
        doc=ast.get_docstring(node) or "",
    )
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                yield _field(statement, node)
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
                yield _field(statement, node)
            case ast.FunctionDef(name=name) if not name.startswith("_") or name in _SHOWN_METHODS:
                yield _function(statement, node.name)


def _is_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "dataclass"


def _field(statement: ast.AnnAssign | ast.Assign, owner: ast.ClassDef) -> Entry:
    entry = _constant(statement, _following_doc(owner.body, statement))
    return replace(
        entry,
        path=f"{owner.name}.{entry.path}",
        kind="field",
        signature=f"{owner.name}.{entry.signature}",
    )


def _constant(statement: ast.AnnAssign | ast.Assign, doc: str) -> Entry:
    target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
    code = ast.unparse(statement)
    if _is_table(statement.value):
        code = code.partition(" = ")[0]
    return Entry(path=ast.unparse(target), kind="constant", signature=code, code=code, doc=doc)


def _is_table(value: ast.expr | None) -> bool:
    """A list of what there is, which may grow, and no value that anything is computed from."""
    match value:
        case ast.Dict():
            return True
        case ast.Tuple(elts=[ast.Constant(value=str()), _, *_]):
            return True
    return False


def _following_doc(body: list[ast.stmt], statement: ast.stmt) -> str:
    """The string under an assignment, which documents it."""
    place = body.index(statement) + 1
    match body[place : place + 1]:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return "\n".join(line.strip() for line in text.strip().splitlines())
    return ""


def _function(node: ast.FunctionDef, owner: str) -> Entry:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    path = f"{owner}.{node.name}" if owner else node.name
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = ast.unparse(node.args)
    shown = [name for name in ("property", "classmethod", "staticmethod") if name in decorators]
    marks = "".join(f"@{name} " for name in shown)
    signature = f"{marks}{path}({arguments}){returns}"
    if "property" in decorators:
        signature = f"{path}{returns.replace(' -> ', ': ', 1)}"
    return Entry(
        path=path,
        kind="property" if "property" in decorators else "function",
        signature=signature,
        code=f"{marks.replace(' ', chr(10))}def {node.name}({arguments}){returns}: ...",
        doc=ast.get_docstring(node) or "",
        abstract="abstractmethod" in decorators,
        parameters=tuple(_parameters(node.args)),
    )


def _parameters(arguments: ast.arguments) -> Iterable[tuple[str, str]]:
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        yield argument.arg, ast.unparse(argument.annotation) if argument.annotation else ""
