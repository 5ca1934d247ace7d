"""Engines of one model and precision, loaded side by side, that run in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from peers.environments import make_environment, python_of, variables_of
from peers.floors import Ceilings, floors
from peers.protocol import Batch, Settings, Timings
from peers.results import OURS, Failure, Sample, too_slow
from peers.shapes import Shape
from peers.worker import Worker, WorkerError
from peers.workloads import LOWER_IS_BETTER, Work, figures, make_batch

PRECISIONS = ("bf16", "int8")
MAX_MODEL_LEN = 4096
MAX_NUM_SEQS = 64
LOAD_TIMEOUT, RUN_TIMEOUT = 1200.0, 900.0
IDLE_LIMIT = 0.02


@dataclass(frozen=True)
class Contestant:
    """An engine; without `works` it takes part in all of them."""

    name: str
    precisions: tuple[str, ...]
    works: tuple[str, ...] = ()


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(OURS, PRECISIONS),
        Contestant("vllm", ("bf16",)),
        Contestant("openvino", PRECISIONS),
        Contestant("llama_cpp", PRECISIONS, ("W1", "W2@16", "W3", "W5")),
        Contestant("transformers", ("bf16",), ("W1", "W2@16", "W3")),
    )
}


@dataclass(frozen=True)
class Options:
    """What the command line says about all contests. `folder` keeps everything that is made."""

    folder: Path
    windlass_python: str
    threads: int
    cpus: list[int]
    kv_tokens: int
    every_pair: bool
    repeat_all: bool


class Contest:
    """Open it, run workloads, close it. What fails is listed in `failures`, and skipped."""

    def __init__(
        self, shape: Shape, precision: str, options: Options, say: Callable[[str], None]
    ) -> None:
        self.shape, self.precision, self.options, self.say = shape, precision, options, say
        self.samples: list[Sample] = []
        self.failures: list[Failure] = []
        self.notes: dict[str, dict[str, object]] = {}
        self._workers: dict[str, Worker] = {}
        self._settings = Settings(
            model=str(model_folder(options.folder, shape)),
            precision=precision,
            threads=options.threads,
            cpus=options.cpus,
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=MAX_NUM_SEQS,
            kv_tokens=options.kv_tokens,
            kv_bytes=options.kv_tokens * shape.kv_bytes_per_token,
        )
        self._probe = self._start("probe")
        self._probe.ask("threads", {"threads": options.threads}, RUN_TIMEOUT)
        self._probe.pause()

    def prepare(self, engines: Sequence[str]) -> None:
        """Make environments and files, and load nothing."""
        for engine in self._able(engines):
            try:
                self.say(f"preparing {engine}")
                self._prepare(engine)
            except WorkerError as error:
                self._fail(engine, "", error)

    def open(self, engines: Sequence[str]) -> None:
        """Prepare and load the engines one after another."""
        for engine in self._able(engines):
            try:
                self.say(f"loading {engine}")
                self._prepare(engine)
                self._load(engine)
            except WorkerError as error:
                self._fail(engine, "", error)

    def run(self, work: Work, repeats: int) -> None:
        """All engines in turn, with a probe between any two, as often as asked for."""
        taking_part = [engine for engine in self._workers if self._takes_part(engine, work)]
        for repetition in range(repeats):
            batch = make_batch(work, repetition)
            before = self._ceilings()
            turn = repetition % max(1, len(taking_part))
            for engine in taking_part[turn:] + taking_part[:turn]:
                try:
                    timings = self._answer(engine, batch, RUN_TIMEOUT)
                    values = figures(work, batch, timings)
                except (WorkerError, ValueError) as error:
                    self._fail(engine, work.name, error)
                    taking_part.remove(engine)
                    continue
                after = self._ceilings()
                self._note(work, batch, engine, repetition, values, (before, after))
                before = after
            taking_part = self._worth_repeating(taking_part, work)

    def close(self) -> None:
        """End all workers; an engine that did not rest while others ran is reported."""
        for engine, worker in self._workers.items():
            if worker.idle_use > IDLE_LIMIT:
                self.say(f"WARNING: {engine} used {worker.idle_use:.1%} of a processor while idle")
            worker.close()
        self._probe.close()
        self._workers.clear()

    def _able(self, engines: Sequence[str]) -> list[str]:
        return [name for name in engines if self.precision in CONTESTANTS[name].precisions]

    def _prepare(self, engine: str) -> None:
        if engine != OURS:
            make_environment(engine, self.options.folder)
        # In a process of its own, so that what a conversion leaves in memory goes with it.
        worker = self._start(engine)
        try:
            worker.ask("prepare", asdict(self._settings), LOAD_TIMEOUT)
        finally:
            worker.close()

    def _load(self, engine: str) -> None:
        worker = self._start(engine)
        try:
            loaded = worker.ask("load", asdict(self._settings), LOAD_TIMEOUT)
            for batch in warm_up_batches():
                worker.ask("run", asdict(batch), RUN_TIMEOUT)
        except WorkerError:
            worker.kill()
            raise
        worker.pause()
        self._workers[engine] = worker
        self.notes[engine] = loaded
        self.say(f"{engine} loaded in {loaded['load_seconds']:.1f} s")

    def _start(self, engine: str) -> Worker:
        options = self.options
        own = engine in {OURS, "probe"}
        python = options.windlass_python if own else str(python_of(engine, options.folder))
        module = "peers.probe" if engine == "probe" else f"peers.engines.{engine}"
        log = options.folder / "logs" / f"{engine}-{self.shape.name}-{self.precision}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = variables_of(
            engine, Path(python), options.threads, options.cpus, options.folder / "compiled"
        )
        return Worker([python, "-P", "-m", module], variables, log, engine)

    def _takes_part(self, engine: str, work: Work) -> bool:
        works = CONTESTANTS[engine].works
        return self.options.every_pair or not works or work.name in works

    def _answer(self, engine: str, batch: Batch, timeout: float) -> Timings:
        worker = self._workers[engine]
        worker.resume()
        try:
            answer = worker.ask("run", asdict(batch), timeout)
        except WorkerError:
            if not worker.alive:
                del self._workers[engine]
            raise
        finally:
            worker.pause()
        return Timings(**answer)

    def _ceilings(self) -> Ceilings:
        self._probe.resume()
        answer = self._probe.ask("probe", {}, RUN_TIMEOUT)
        self._probe.pause()
        return Ceilings(answer["bandwidth"], answer["flops"])

    def _note(
        self,
        work: Work,
        batch: Batch,
        engine: str,
        repetition: int,
        values: dict[str, float],
        probes: tuple[Ceilings, Ceilings],
    ) -> None:
        around = Ceilings(
            bandwidth=sum(probe.bandwidth for probe in probes) / 2,
            flops=sum(probe.flops for probe in probes) / 2,
        )
        sample = Sample(
            model=self.shape.name,
            precision=self.precision,
            work=work.name,
            engine=engine,
            repetition=repetition,
            figures=values,
            floors=floors(work, self.shape, self.precision, batch, around),
            bandwidth=around.bandwidth,
            flops=around.flops,
        )
        self.samples.append(sample)
        told = ", ".join(
            f"{value:.1f} {metric} ({sample.times_floor(metric):.2f} x floor)"
            for metric, value in values.items()
        )
        self.say(
            f"{work.name} #{repetition + 1} {engine}: {told} "
            f"[{around.bandwidth / 1e9:.1f} GB/s, {around.flops / 1e9:.0f} GFLOP/s]"
        )

    def _fail(self, engine: str, work: str, error: Exception) -> None:
        self.failures.append(
            Failure(self.shape.name, self.precision, work, engine, str(error)[:500])
        )
        self.say(f"{engine} failed{' on ' + work if work else ''}: {error}")

    def _worth_repeating(self, engines: list[str], work: Work) -> list[str]:
        metric = next(m for m in work.metrics if m not in LOWER_IS_BETTER)
        samples = [sample for sample in self.samples if sample.work == work.name]
        slow = set() if self.options.repeat_all else too_slow(samples, metric)
        return [engine for engine in engines if engine not in slow]


def model_folder(folder: Path, shape: Shape) -> Path:
    """Where a model and its conversions are kept."""
    return folder / "models" / f"{shape.name}-{shape.layers}-layers"


def warm_up_batches() -> list[Batch]:
    """Short requests, one and several, for whatever an engine does on its first steps."""
    prompts = [[2 + (i + 7 * j) % 1000 for j in range(128)] for i in range(16)]
    return [Batch(prompts[:1], [8]), Batch([p[::-1] for p in prompts], [4] * 16)]
