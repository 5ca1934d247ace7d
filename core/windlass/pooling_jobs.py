"""The embeddings and scores that a front end waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

from windlass.engine.outputs import SequenceOutput
from windlass.pooling import PoolingOutput
from windlass.request import RequestMetrics
from windlass.text.pooling_processor import PoolingJob


@dataclass(slots=True)
class _OpenJob:
    job: PoolingJob
    vectors: dict[str, bytes] = field(default_factory=dict)
    metrics: RequestMetrics | None = None


class PoolingJobs:
    """Gathers the vectors of each job; a job is given back when all are there."""

    def __init__(self) -> None:
        self._jobs: dict[str, _OpenJob] = {}
        self._owners: dict[str, _OpenJob] = {}

    def add(self, job: PoolingJob) -> None:
        """Expect a vector for each request of `job`."""
        opened = _OpenJob(job)
        self._jobs[job.request_id] = opened
        self._owners.update(dict.fromkeys((r.request_id for r in job.requests), opened))

    def take(self, output: SequenceOutput) -> PoolingOutput | None:
        """Take one vector in; the job's whole answer when it was the last one."""
        opened = self._owners.pop(output.request_id, None)
        if opened is None or output.pooled is None:
            return None
        opened.vectors[output.request_id] = output.pooled
        opened.metrics = _slowest(opened.metrics, output.metrics)
        requests = opened.job.requests
        if len(opened.vectors) < len(requests):
            return None
        self.drop(opened.job.request_id)
        vectors = [opened.vectors[request.request_id] for request in requests]
        return opened.job.output(vectors, opened.metrics)

    def drop(self, request_id: str) -> None:
        """Forget a job, known or not."""
        opened = self._jobs.pop(request_id, None)
        if opened is not None:
            for request in opened.job.requests:
                self._owners.pop(request.request_id, None)


def _slowest(known: RequestMetrics | None, new: RequestMetrics | None) -> RequestMetrics | None:
    """The times of a job are those of the text that was ready last."""
    if known is None or new is None:
        return known or new
    return new if new.total_time > known.total_time else known
