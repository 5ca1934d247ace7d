"""Decode steps as graphs, on a device that records and replays torch operations."""

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import LlamaForCausalLM

from windlass.executor.decode_graphs import graph_sizes
from windlass.request import SamplingParams
from windlass.testing.recorded_graph import HostReadError, NoHostReads, RecordedGraph

if TYPE_CHECKING:
    from conftest import Driver, GraphBackend

GREEDY = SamplingParams(temperature=0.0)
PROMPTS = {"a": [5, 17, 99, 3, 42], "b": [64, 8, 23], "c": [77, 11, 5, 9]}


def graphs_of(driver: "Driver") -> dict[object, RecordedGraph]:
    backend: GraphBackend = driver.runner._backend  # type: ignore[assignment]
    return backend.recording_device.recorded.graphs


def test_sizes_cover_every_number_of_rows() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(7) == [1, 2, 4, 7]
    sizes = graph_sizes(300)
    assert sizes[-1] == 300
    assert sizes == sorted(set(sizes))
    padded = {rows: min(size for size in sizes if size >= rows) for rows in range(9, 301)}
    assert max(size / rows for rows, size in padded.items()) < 1.8


def test_a_batch_is_padded_to_the_next_graph_and_replayed(
    graph_driver: "Driver", reference_model: LlamaForCausalLM
) -> None:
    started = [
        graph_driver.start(name, prompt, GREEDY, row=2 * i)
        for i, (name, prompt) in enumerate(PROMPTS.items())
    ]
    first = graph_driver.step([row for _, row in started], [new for new, _ in started])
    got = {name: [first.tokens[name]] for name in PROMPTS}
    for i in range(1, 8):
        result = graph_driver.step([graph_driver.decode(name, i) for name in PROMPTS])
        for name in PROMPTS:
            got[name].append(result.tokens[name])
    for name, prompt in PROMPTS.items():
        model_output = reference_model.generate(
            torch.tensor([prompt]), max_new_tokens=8, min_new_tokens=8, do_sample=False
        )
        assert got[name] == model_output[0, len(prompt) :].tolist()
    replays = {key: graph.replays for key, graph in graphs_of(graph_driver).items()}
    assert replays[("decode", 4)] == 7
    assert sum(replays.values()) == 7


def test_padding_rows_change_nothing(graph_driver: "Driver") -> None:
    new, row = graph_driver.start("a", PROMPTS["a"], GREEDY, row=3)
    graph_driver.step([row], [new])
    table = graph_driver.runner._table
    before = table.position.clone()
    # Two rows are served by the graph of two; three by that of four, with one row of padding.
    for count, name in ((2, "b"), (3, "c")):
        new, row = graph_driver.start(name, PROMPTS[name], GREEDY, row=count)
        if count == 3:
            new.row = row.row = graph_driver.rows[name] = 5
        graph_driver.step([row], [new])
    graph_driver.step([graph_driver.decode(name, 1) for name in PROMPTS])
    assert table.position[table.padding_row] == before[table.padding_row] == 0
    assert table.position[[3, 2, 5]].tolist() == [6, 4, 5]


def test_a_decode_step_never_waits_for_the_device(graph_driver: "Driver") -> None:
    special = SamplingParams(
        temperature=0.8,
        seed=3,
        top_p=0.9,
        logprobs=2,
        presence_penalty=0.5,
        logit_bias={7: 2.0},
    )
    watch, queue = NoHostReads(), graph_driver.runner._queue
    new, row = graph_driver.start("a", PROMPTS["a"], special, row=0)
    graph_driver.step([row], [new])
    # The worker thread queues the work; the host as a device has it done at once.
    queue.submit(watch.__enter__).result()
    handles = [graph_driver.launch([graph_driver.decode("a", i)]) for i in (1, 2, 3)]
    queue.submit(lambda: watch.__exit__(None, None, None)).result()
    assert all(len(handle.collect().logprobs["a"]) in (2, 3) for handle in handles)


def test_a_model_that_reads_on_the_host_cannot_be_captured(
    graph_driver: "Driver", monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = graph_driver.runner
    logits = runner._decoder.logits

    def reading(hidden: torch.Tensor) -> torch.Tensor:
        return logits(hidden) * float(hidden.abs().max() >= 0)

    monkeypatch.setattr(runner._decoder, "logits", reading)
    with pytest.raises(HostReadError, match="makes the host wait"):
        runner._capture(64, None)
