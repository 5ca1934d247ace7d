"""The plugin API as a list of lines that is kept with the sources, and what a change to it breaks.

    python -m windlass.authoring.contract FILE

writes the list anew, after names were added.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from windlass.authoring.api import HOOKS_MODULE, Entry, describe_all

_HOOKS_CLASS = "WindlassHooks"
_VERSION = "windlass.plugin API_VERSION"


def contract() -> dict[str, str]:
    """Every public name, as "module name", and its signature.

    A hook's arguments stand in lines of their own, for a hook may gain arguments.
    """
    return {
        f"{module} {name}": line
        for module, entries in describe_all().items()
        for entry in entries
        for name, line in _lines(module, entry)
    }


def _lines(module: str, entry: Entry) -> Iterator[tuple[str, str]]:
    if module != HOOKS_MODULE:
        mark = "abstract " if entry.abstract else ""
        yield entry.path, mark + entry.signature
    elif entry.owner == _HOOKS_CLASS:
        hook = entry.path.removeprefix(f"{_HOOKS_CLASS}.")
        yield hook, f"hook {hook}{entry.signature[entry.signature.rindex(' -> ') :]}"
        for argument, annotation in entry.parameters[1:]:
            yield f"{hook}.{argument}", f"argument {argument}: {annotation}"


def write(lines: Mapping[str, str]) -> str:
    """The text of the file: a heading for each module, a line for each name."""
    text, last = "", ""
    for key, line in lines.items():
        module, _, name = key.partition(" ")
        if module != last:
            text += f"\n# {module}\n" if text else f"# {module}\n"
            last = module
        text += f"{name} | {line}\n"
    return text


def read(text: str) -> dict[str, str]:
    """The lines of such a file."""
    lines, module = {}, ""
    for line in text.splitlines():
        if line.startswith("# "):
            module = line.removeprefix("# ")
        elif line:
            name, _, signature = line.partition(" | ")
            lines[f"{module} {name}"] = signature
    return lines


def broken_promises(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What of a change no minor version may do, each with the rule that it breaks.

    The rules stand in docs/plugins.md, "Versions". A new major version may do anything.
    """
    if _major(before) != _major(now):
        return []
    problems = []
    for key in before.keys() - now.keys():
        problems.append(f"{key} was removed: a minor version only adds")
    for key in before.keys() & now.keys():
        if before[key] != now[key] and key != _VERSION:
            problems.append(
                f"{key} was changed, from\n    {before[key]}\nto\n    {now[key]}\n"
                "a minor version only adds: what was called or implemented so must stay so"
            )
    for key in now.keys() - before.keys():
        problem = _why_not_added(key, now[key], before)
        if problem:
            problems.append(f"{key} was added: {problem}")
    return sorted(problems)


def _major(lines: Mapping[str, str]) -> int:
    version: tuple[int, int] = ast.literal_eval(lines[_VERSION].partition(" = ")[2])
    return version[0]


def _why_not_added(key: str, line: str, before: Mapping[str, str]) -> str:
    """Which rule an addition breaks; "" for none. What a new class has is as new as the class."""
    owner, dot, _ = key.rpartition(".")
    if not dot or owner not in before:
        return ""
    if line.startswith("abstract "):
        return "a new method needs a default, or no backend of before can be made"
    is_data = before[owner].startswith("@dataclass") or "Struct)" in before[owner]
    is_field = ":" in line and "(" not in line.partition(":")[0]
    if is_data and is_field and " = " not in line:
        return "a new field needs a conservative default, or no plugin of before can fill it"
    return ""


def main() -> None:
    """Write the contract of these sources into the file that is named."""
    Path(sys.argv[1]).write_text(write(contract()), encoding="utf-8")


if __name__ == "__main__":
    main()
