"""Engines in turns: each loads the model, does all the work that fits into the time, and ends."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gpu_peers.floors import Ceilings, Costs
from gpu_peers.measure import Measurement
from gpu_peers.protocol import Settings
from gpu_peers.results import OURS, Failure, Sample
from gpu_peers.workloads import Work, fixed
from peers.worker import Worker, WorkerError

ENGINES = (OURS, "vllm", "transformers")
GPU_FOLDER = Path(__file__).parents[1]
# transformers' steps are slow and even: fewer of them tell as much. Loads of mixed lengths are not
# for a static batch.
SHORT_SPANS = (4, 36)
STATIC = ("decode", "prefill")
SECONDS_TO_REPORT = 5.0


@dataclass(frozen=True)
class Options:
    """What the command line says about all turns. `end` is on the monotonic clock."""

    python: str
    vllm_python: str
    vllm_path: str | None
    logs: Path
    repeats: int
    end: float

    @property
    def left(self) -> float:
        """Seconds until the work must be over."""
        return self.end - SECONDS_TO_REPORT - time.monotonic()


@dataclass
class Contest:
    """Open turns on one model; what fails is listed in `failures`, and skipped."""

    model: str
    settings: Settings
    costs: Costs
    options: Options
    say: Callable[[str], None]
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[dict[str, object]] = field(default_factory=list)
    ceilings: Ceilings = field(default_factory=lambda: Ceilings(math.nan, math.nan))

    def turn(self, engine: str, works: Sequence[Work], on_sample: Callable[[], None]) -> None:
        """Let an engine do its work, batches first and single arrivals after them."""
        number = len(self.notes)
        if engine == "transformers":
            works = [work for work in works if work.kind in STATIC]
        offline = [work for work in works if work.kind != "online"]
        online = [work for work in works if work.kind == "online"]
        for part, settings in (
            (offline, self.settings),
            (online, replace(self.settings, online=True)),
        ):
            if not part:
                continue
            try:
                self._part(engine, number, part, settings, on_sample)
            except WorkerError as error:
                self._fail(engine, "", error)

    def _part(
        self,
        engine: str,
        number: int,
        works: Sequence[Work],
        settings: Settings,
        on_sample: Callable[[], None],
    ) -> None:
        if self.options.left <= 0:
            raise WorkerError("no time left")
        worker = self._start(engine)
        try:
            self._load(worker, engine, settings)
            for work in works:
                self._work(worker, engine, number, work)
                on_sample()
        finally:
            worker.close()

    def _load(self, worker: Worker, engine: str, settings: Settings) -> None:
        self.say(f"loading {engine}")
        measured = worker.ask("ceilings", {"device": settings.device}, self.options.left)
        if measured:
            self.ceilings = Ceilings(**measured)
            self.say(
                f"copy {self.ceilings.bandwidth / 1e12:.2f} TB/s, "
                f"product {self.ceilings.flops / 1e12:.0f} TFLOP/s"
            )
        notes = worker.ask("load", asdict(settings), self.options.left)["notes"]
        self.notes.append({"engine": engine, "ceilings": measured, **notes})
        self.say(f"{engine}: {notes}")
        if not settings.online:
            worker.ask("run", asdict(fixed(2, 8, 4, "warm")), self.options.left)

    def _work(self, worker: Worker, engine: str, number: int, work: Work) -> None:
        spans = SHORT_SPANS if engine == "transformers" else (16, 144)

        def ask(command: str, payload: dict[str, object]) -> dict[str, object]:
            if self.options.left <= 0:
                raise WorkerError("no time left")
            return worker.ask(command, payload, self.options.left)

        measurement = Measurement(ask, self.costs, self.ceilings, self.settings.max_num_seqs, spans)
        repeats = self.options.repeats if work.kind == "decode" else 1
        for repetition in range(repeats):
            try:
                figures = measurement.run(work, f"{number} {repetition}")
            except (WorkerError, ValueError) as error:
                if not worker.alive:
                    raise
                self._fail(engine, work.name, error)
                return
            for figure in figures:
                sample = Sample(self.model, engine, number, work.name, **asdict(figure))
                self.samples.append(sample)
                share = sample.share_of_floor
                told = "" if share is None else f" ({share:.1%} of the floor)"
                self.say(f"{work.name} {engine}: {figure.value:.2f} {figure.metric}{told}")

    def _start(self, engine: str) -> Worker:
        python = self.options.vllm_python if engine == "vllm" else self.options.python
        paths = [str(GPU_FOLDER), str(GPU_FOLDER.parent / "cpu")]
        if engine == "vllm" and self.options.vllm_path:
            paths.insert(0, self.options.vllm_path)
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        variables = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        self.options.logs.mkdir(parents=True, exist_ok=True)
        log = self.options.logs / f"{engine}-{self.model}.log"
        module = f"gpu_peers.engines.{engine}"
        return Worker([python, "-P", "-m", module], variables, log, engine)

    def _fail(self, engine: str, work: str, error: Exception) -> None:
        self.failures.append(Failure(self.model, engine, work, str(error)))
        self.say(f"FAILED {engine} {work}: {error}")
        log = self.options.logs / f"{engine}-{self.model}.log"
        if log.exists():
            for line in log.read_text(errors="replace").splitlines()[-12:]:
                print(f"    {line[:300]}", file=sys.stderr)
