"""Two ranks of L6 as processes: how they are started, what they are told, what they answer."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Literal, NamedTuple

from windlass.config import BackendConfig
from windlass.testing.conformance.cases import Absent, Case, check_all
from windlass.testing.conformance.child import make_backend

if TYPE_CHECKING:
    from windlass.backend import Backend
    from windlass.testing.conformance.collective_checks import Rank

WORLD_SIZE = 2

TIMEOUT = 15.0
"""Seconds that a collective operation may wait for the other rank before that is an error."""

PATIENCE = 60.0
"""Seconds that the kit waits for a rank's answer: imports, a first connection, a whole case."""

END = "end without a word"
SURVIVE = "a rank that is gone is an error, not a wait"


class Answer(NamedTuple):
    """What a rank says of a case, or of joining: how it ended, why, and which cases there are.

    "refused": there is a backend, and its communication library does not take this group.
    """

    status: Literal["passed", "failed", "absent", "refused"]
    reason: str = ""
    cases: tuple[str, ...] = ()
    provider: str = ""


@dataclass(frozen=True)
class Member:
    """Which backend a rank uses; `store` is a file in which the ranks find each other."""

    backend: str
    plugin: str
    device: int
    rank: int
    store: str


@dataclass
class World:
    """The ranks' processes, and a connection to each."""

    processes: list[BaseProcess] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    def start(self, member: Member) -> None:
        """Start one more rank."""
        # Not forked: a device's runtime does not live through it.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_main, args=(there, member), daemon=True)
        process.start()
        there.close()  # else the end of the rank is not the end of the connection
        self.processes.append(process)
        self.connections.append(here)

    def ask(self, *cases: str) -> None:
        """Tell each rank its case."""
        for connection, case in zip(self.connections, cases, strict=True):
            connection.send(case)

    def answers(self, patience: float = PATIENCE) -> list[Answer | None]:
        """What each rank says; None when it says nothing within `patience` seconds or has ended."""
        end = time.monotonic() + patience
        found: list[Answer | None] = []
        for connection in self.connections:
            try:
                there = connection.poll(max(0.0, end - time.monotonic()))
                found.append(connection.recv() if there else None)
            except (EOFError, OSError):
                found.append(None)
        return found

    def waits(self, rank: int) -> bool:
        """Whether the rank's process goes on."""
        self.processes[rank].join(1.0)
        return self.processes[rank].exitcode is None

    def complaints(self, answers: list[Answer | None]) -> list[str]:
        """A sentence for each rank that did not say that all is well."""
        found = []
        for rank, answer in enumerate(answers):
            if answer is not None and answer.status != "passed":
                found.append(f"rank {rank}: {answer.reason}")
            elif answer is None and self.waits(rank):
                found.append(f"rank {rank} did not answer within {PATIENCE:g} s")
            elif answer is None:
                code = self.processes[rank].exitcode
                found.append(f"rank {rank} ended with exit status {code}")
        return found

    def end(self) -> None:
        """End the processes, whatever they do."""
        for process in self.processes:
            process.kill()
            process.join()
        for connection in self.connections:
            connection.close()


def _main(connection: Connection, member: Member) -> None:
    """Body of a rank's process: join, then run each case that is asked for."""
    try:
        backend = _backend(member)
    except Absent as absent:
        connection.send(Answer("absent", str(absent)))
        return
    except Exception as error:  # noqa: BLE001 - a stranger's code
        connection.send(Answer("failed", _text(error)))
        return
    try:
        rank, checks = _join(member, backend)
    except Exception as error:  # noqa: BLE001 - a stranger's library says no
        connection.send(Answer("refused", _text(error)))
        return
    connection.send(Answer("passed", "", tuple(checks), rank.collectives.name))
    from windlass.testing.conformance.collective_checks import outlive_the_others

    checks[SURVIVE] = outlive_the_others
    while (name := connection.recv()) != END:
        (outcome,) = check_all("L6", [Case(name, partial(checks[name], rank))])
        passed = outcome.status == "passed"
        connection.send(Answer("passed" if passed else "failed", outcome.reason))
    os._exit(1)  # no farewell to the group


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _backend(member: Member) -> Backend:
    config = BackendConfig(device_index=member.device)
    backend = make_backend(member.backend, member.plugin, config)
    if backend.runs_models:
        raise Absent("the backend runs models itself, and has no collectives")
    return backend


def _join(member: Member, backend: Backend) -> tuple[Rank, dict[str, Callable[[Rank], None]]]:
    """Enter the group; also the cases that the backend has."""
    import torch.distributed as dist

    from windlass.testing.conformance.collective_checks import Rank, checks_for, join

    backend.device.activate()
    store = dist.FileStore(member.store, WORLD_SIZE)  # type: ignore[attr-defined]
    collectives = backend.collectives
    collectives.init(member.rank, WORLD_SIZE, store, timeout=TIMEOUT)
    rank = Rank(
        collectives=collectives,
        device=backend.device,
        dtypes=backend.capabilities.dtypes,
        rank=member.rank,
        world_size=WORLD_SIZE,
        store=store,
    )
    join(rank)
    return rank, checks_for(rank)
