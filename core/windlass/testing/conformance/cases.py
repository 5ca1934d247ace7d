"""A case of the kit, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

Status = Literal["passed", "failed", "skipped"]


class Skipped(Exception):
    """The backend says that it does not do what the case asks for; the text is its reason."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one case ended. `provider` is what computed the result, as far as there is a choice."""

    level: str
    case: str
    status: Status
    reason: str = ""
    provider: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Case:
    """A named check. It returns when it holds, raises `Skipped`, or any other exception."""

    name: str
    check: Callable[[], None]
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
    try:
        case.check()
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
    )
