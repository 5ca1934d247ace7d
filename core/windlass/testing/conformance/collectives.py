"""L6: every collective operation between two ranks, each a process of its own.

The level's process tells both ranks the name of a case and waits for what they say. Ranks that a
case left at different places are ended, and the next case gets new ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial

from windlass.testing.conformance.cases import Absent, Case, expect
from windlass.testing.conformance.ranks import (
    END,
    PATIENCE,
    SURVIVE,
    TIMEOUT,
    WORLD_SIZE,
    Answer,
    Member,
    World,
)

JOIN = "the ranks join"


def collective_cases(backend: str, plugin: str, num_devices: int) -> Iterator[Case]:
    """The cases of L6 for a backend by name (and its plugin's module where it is not installed).

    Each rank has a device of its own where `num_devices` are enough, else they share the first.

    Raises:
        Absent: the backend has no collectives, or the ranks would have to share a device and
            cannot.
    """
    worlds = _Worlds(backend, plugin, own_devices=num_devices >= WORLD_SIZE)
    try:
        names, provider = worlds.begin()
        yield Case(JOIN, worlds.check_join, provider)
        for name in names:
            yield Case(name, partial(worlds.check, name), provider)
        if names:
            yield Case(SURVIVE, worlds.check_survivor, provider)
    finally:
        worlds.end()


class _Worlds:
    """The world that cases run in: made when one is needed, thrown away when it may be broken."""

    def __init__(self, backend: str, plugin: str, *, own_devices: bool) -> None:
        self._backend = backend
        self._plugin = plugin
        self._own_devices = own_devices
        self._world: World | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="windlass-ranks-")
        self._made = 0
        self._never_joined = ""

    def begin(self) -> tuple[tuple[str, ...], str]:
        """The names of the cases, and what the communication library is called.

        None for ranks that cannot join; `check_join` then fails.
        """
        world, answers = self._start()
        first, complaints = answers[0], world.complaints(answers)
        if first is not None and not complaints:
            return first.cases, first.provider
        self.end_world()
        if first is not None and first.status == "absent":
            raise Absent(first.reason)
        refused = any(answer is not None and answer.status == "refused" for answer in answers)
        if refused and not self._own_devices:
            raise Absent(f"two ranks cannot share the one device that is here: {complaints[0]}")
        self._never_joined = "; ".join(complaints)
        return (), ""

    def check_join(self) -> None:
        """Whether `begin` made a world.

        Raises:
            AssertionError: it could not.
        """
        expect(not self._never_joined, self._never_joined)

    def check(self, name: str) -> None:
        """Run a case on every rank.

        Raises:
            AssertionError: it does not hold on a rank, or a rank does not say.
        """
        world = self._world or self._joined()
        world.ask(*[name] * WORLD_SIZE)
        complaints = world.complaints(world.answers())
        if complaints:
            self.end_world()
            raise AssertionError("; ".join(complaints))

    def check_survivor(self) -> None:
        """End one rank without a word: the other must notice, by an error or by ending too.

        Raises:
            AssertionError: it waits, or has a result.
        """
        world = self._world or self._joined()
        try:
            world.ask(SURVIVE, END)
            answer = world.answers(TIMEOUT + PATIENCE)[0]
            if answer is None and world.waits(0):
                raise AssertionError(f"it still waits after {TIMEOUT + PATIENCE:g} s")
            if answer is not None and answer.status != "passed":
                raise AssertionError(answer.reason)
        finally:
            self.end_world()

    def end_world(self) -> None:
        """End the ranks, if there are any."""
        if self._world is not None:
            self._world.end()
            self._world = None

    def end(self) -> None:
        """End everything."""
        self.end_world()
        self._folder.cleanup()

    def _joined(self) -> World:
        world, answers = self._start()
        complaints = world.complaints(answers)
        if complaints:
            self.end_world()
            raise AssertionError("; ".join(complaints))
        return world

    def _start(self) -> tuple[World, list[Answer | None]]:
        self._made += 1
        store = os.path.join(self._folder.name, str(self._made))
        self._world = world = World()
        for rank in range(WORLD_SIZE):
            device = rank if self._own_devices else 0
            world.start(Member(self._backend, self._plugin, device, rank, store))
        return world, world.answers()
