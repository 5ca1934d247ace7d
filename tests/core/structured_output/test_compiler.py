"""Constraints are judged in processes that may die of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from windlass import demo_model
from windlass.config import StructuredOutputConfig
from windlass.errors import EngineDeadError, RequestError
from windlass.request import SamplingParams, StructuredOutputs
from windlass.structured_output import compiler as module
from windlass.structured_output.compiler import GrammarCompiler
from windlass.structured_output.vocabulary import Vocabulary
from windlass.text import Tokenizer

pytestmark = pytest.mark.anyio

# What the matcher needs long for: every word of a few hundred, in any order, anywhere.
HARD = StructuredOutputs(
    grammar="start: T\nT: "
    + " & ".join(f"/(?s:.*)(a.{{{i}}}b|c.{{{2 * i}}}d)(?s:.*)/" for i in range(2, 40))
    + "\n"
)


def vocabulary() -> Vocabulary:
    tokenizer = Tokenizer.load(str(demo_model.path()))
    return Vocabulary.read(tokenizer, 2048, (2,))


def schema(schema: Any) -> SamplingParams:
    return SamplingParams(structured_outputs=StructuredOutputs(json=schema))


def worker_pids() -> list[int]:
    children = psutil.Process().children()
    return [child.pid for child in children if "worker_process" in " ".join(child.cmdline())]


@pytest.fixture
async def compiler() -> AsyncIterator[GrammarCompiler]:
    made = GrammarCompiler(vocabulary, StructuredOutputConfig(num_workers=1))
    yield made
    await asyncio.to_thread(made.close)
    assert worker_pids() == []


async def refusal(compiler: GrammarCompiler, sampling: SamplingParams) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await compiler.check(sampling)
    return caught.value


async def test_what_is_not_constrained_starts_no_process(compiler: GrammarCompiler) -> None:
    await compiler.check(SamplingParams())
    assert worker_pids() == []


async def test_a_constraint_is_accepted_or_refused_with_its_reason(
    compiler: GrammarCompiler,
) -> None:
    await compiler.check(schema({"type": "integer"}))
    error = await refusal(compiler, schema({"not": {}}))
    assert (error.param, error.code) == ("structured_outputs", "unsupported_json_schema")
    assert "'not'" in error.message
    await compiler.check(SamplingParams(bad_words=["a"]))


async def test_results_are_remembered_and_the_memory_is_bounded() -> None:
    limits = StructuredOutputConfig(num_workers=1, cache_bytes=1024)
    compiler = GrammarCompiler(vocabulary, limits)
    asked = [schema({"type": "integer", "minimum": i}) for i in range(6)]
    for sampling in asked:
        await compiler.check(sampling)
    await asyncio.to_thread(compiler.close)
    # The last ones need no process any more.
    for sampling in asked[3:]:
        await compiler.check(sampling)
    with pytest.raises(EngineDeadError):
        await compiler.check(asked[0])


async def test_equal_constraints_at_once_are_judged_once(compiler: GrammarCompiler) -> None:
    same = schema({"type": "integer", "maximum": 3})
    judged = 0
    judge = compiler._judge

    def counted(sampling: SamplingParams) -> Any:
        nonlocal judged
        judged += 1
        return judge(sampling)

    compiler._judge = counted  # type: ignore[method-assign]
    await asyncio.gather(*(compiler.check(same) for _ in range(8)))
    assert judged == 1


async def test_a_killed_process_costs_its_own_request_and_is_started_again(
    compiler: GrammarCompiler,
) -> None:
    await compiler.check(schema({"type": "integer"}))
    (pid,) = worker_pids()
    os.kill(pid, signal.SIGSTOP)
    waiting = asyncio.create_task(refusal(compiler, schema({"type": "string"})))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    assert (await waiting).code == "grammar_too_complex"
    # It was nobody's fault that is known, so it is tried again.
    await compiler.check(schema({"type": "string"}))
    assert worker_pids() != [pid]


async def test_a_constraint_is_not_blamed_for_the_end_of_the_compiler(
    compiler: GrammarCompiler,
) -> None:
    await compiler.check(schema({"type": "integer"}))
    (pid,) = worker_pids()
    os.kill(pid, signal.SIGSTOP)
    judged = asyncio.create_task(compiler.check(schema({"type": "number"})))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(compiler.close)
    with pytest.raises(EngineDeadError):
        await judged


async def test_processor_time_is_bounded() -> None:
    limits = StructuredOutputConfig(num_workers=1, cpu_seconds=0.2)
    compiler = GrammarCompiler(vocabulary, limits)
    hard = SamplingParams(structured_outputs=HARD)
    error = await refusal(compiler, hard)
    assert error.code == "grammar_too_complex"
    assert "0.2 s" in error.message
    await compiler.check(schema({"type": "integer"}))
    await asyncio.to_thread(compiler.close)
    # That is remembered: nobody can keep the processes busy with it.
    assert (await refusal(compiler, hard)).code == "grammar_too_complex"


async def test_memory_is_bounded() -> None:
    limits = StructuredOutputConfig(num_workers=1, memory_bytes=1 << 20)
    compiler = GrammarCompiler(vocabulary, limits)
    large = {"enum": [f"value {i}" * 5 for i in range(18000)]}
    assert (await refusal(compiler, schema(large))).code == "grammar_too_complex"
    await asyncio.to_thread(compiler.close)


async def test_several_are_judged_in_parallel_and_the_loop_goes_on() -> None:
    compiler = GrammarCompiler(vocabulary, StructuredOutputConfig(num_workers=2))
    await asyncio.gather(*(compiler.check(schema({"minimum": i})) for i in range(4)))
    first, second = worker_pids()
    os.kill(first, signal.SIGSTOP)
    os.kill(second, signal.SIGSTOP)
    waiting = [asyncio.create_task(compiler.check(schema({"maximum": i}))) for i in range(4)]
    await asyncio.sleep(0.05)  # the loop is free while both processes stand still
    assert not any(task.done() for task in waiting)
    os.kill(second, signal.SIGCONT)
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    os.kill(first, signal.SIGCONT)
    await asyncio.gather(*waiting)
    await asyncio.to_thread(compiler.close)


async def test_too_many_that_wait_are_turned_away(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    checks = [compiler.check(schema({"minimum": i})) for i in range(3)]
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        "NoneType",
        "NoneType",
        "QueueFullError",
    ]


async def test_a_model_without_an_end_cannot_be_constrained() -> None:
    endless = vocabulary()
    endless = Vocabulary(endless.tokenizer, 2048, endless.special_ids, ())
    compiler = GrammarCompiler(lambda: endless, StructuredOutputConfig(num_workers=1))
    assert "no end-of-text token" in (await refusal(compiler, schema({}))).message
    await asyncio.to_thread(compiler.close)


async def test_memory_of_a_process_is_flat_over_many_constraints(
    compiler: GrammarCompiler,
) -> None:
    def resident() -> int:
        return psutil.Process(worker_pids()[0]).memory_info().rss

    async def judge(start: int, count: int) -> None:
        for i in range(start, start + count):
            properties = {f"p{i}_{j}": {"type": "string", "maxLength": i} for j in range(5)}
            await compiler.check(schema({"type": "object", "properties": properties}))

    await judge(0, 50)
    before = resident()
    await judge(50, 200)
    assert resident() - before < 20 << 20
