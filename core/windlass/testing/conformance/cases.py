"""A case of the kit, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

Status = Literal["passed", "failed", "skipped", "absent"]
"""Absent: what the level is about does not exist here, so there is nothing that could be proved."""


WHOLE_LEVEL = "all"
"""The case of an outcome that stands for a level of which no case ran."""


class Skipped(Exception):
    """The backend says that it does not do what the case asks for; the text is its reason."""


class Absent(Skipped):
    """What the whole level is about does not exist: graphs, a second device, kernels to compile."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one case ended. `provider` is what computed the result, as far as there is a choice.

    `measured` holds numbers by name with their unit ("bytes per second"), of a case that measures.
    """

    level: str
    case: str
    status: Status
    reason: str = ""
    provider: str = ""
    seconds: float = 0.0
    measured: dict[str, float] = {}


@dataclass(frozen=True)
class Case:
    """A named check. It returns when it holds, raises `Skipped`, or any other exception.

    What it returns, if anything, are the numbers that it measured.
    """

    name: str
    check: Callable[[], Mapping[str, float] | None]
    provider: str = ""


def check_all(
    level: str,
    cases: Iterable[Case],
    *,
    begin: Callable[[str], None] = lambda name: None,
    skip: Collection[str] = (),
) -> Iterable[Outcome]:
    """Run the cases in turn but those named in `skip`; `begin` is told each name beforehand."""
    for case in cases:
        if case.name in skip:
            continue
        begin(case.name)
        yield _check(level, case)


def expect(holds: bool, otherwise: str) -> None:
    """Fail the case with a reason unless `holds`; an assertion that `python -O` keeps."""
    if not holds:
        raise AssertionError(otherwise)


def _check(level: str, case: Case) -> Outcome:
    begun = time.perf_counter()
    status: Status = "passed"
    reason = ""
    measured: Mapping[str, float] | None = None
    try:
        measured = case.check()
    except Absent as absent:
        status, reason = "absent", str(absent)
    except Skipped as skipped:
        status, reason = "skipped", str(skipped)
    except AssertionError as error:
        status, reason = "failed", str(error) or "an assertion failed"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code; one case fails
        status, reason = "failed", f"{type(error).__name__}: {error}"
    return Outcome(
        level=level,
        case=case.name,
        status=status,
        reason=" ".join(reason.split()),
        provider=case.provider,
        seconds=round(time.perf_counter() - begun, 4),
        measured=dict(measured or {}),
    )
