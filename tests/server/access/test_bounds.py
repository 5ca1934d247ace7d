"""Bounds of requests: accepted at the limit, refused one beyond it, and each flag has its test."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from limited_calls import GENERATING, MODEL

from windlass.errors import RequestError
from windlass.request import MAX_LOGIT_BIAS, SamplingParams
from windlass_server.command import add_arguments
from windlass_server.protocol.tokenization import MAX_TOKENS

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]

TESTS = {
    "--max-body-bytes": "test_access.py::test_a_body_is_accepted_at_the_limit_and_refused_above",
    "--max-messages": "chat/test_tools.py::test_the_number_of_messages_is_bounded",
    "--max-tools": "chat/test_tools.py::test_the_number_and_size_of_tools_are_bounded",
    "--max-tool-bytes": "chat/test_tools.py::test_the_number_and_size_of_tools_are_bounded",
    "--template-timeout": (
        "chat/test_render.py::test_a_trusted_template_of_a_client_is_rendered_killed_and_bounded"
    ),
    "--max-stored-responses": (
        "responses/test_store.py::test_at_the_limit_of_number_the_longest_unused_goes"
    ),
    "--max-stored-response-bytes": (
        "responses/test_store.py"
        "::test_at_the_limit_of_bytes_the_longest_unused_goes_and_a_larger_one_is_not_kept"
    ),
    "--response-ttl": "responses/test_store.py::test_a_response_expires_after_its_last_use",
    "--max-background-responses": "test_responses.py::test_background_responses_are_bounded",
    "--key-requests-per-minute": "access/test_rate_limits.py::test_requests_of_a_minute",
    "--key-tokens-per-minute": (
        "access/test_rate_limits.py::test_tokens_are_estimated_at_first_and_settled_at_the_end"
    ),
    "--key-max-concurrent-requests": (
        "access/test_limits.py::test_so_many_calls_of_a_key_run_at_a_time"
    ),
    "--queue-timeout": (
        "access/test_deadlines.py::test_the_first_output_ends_the_wait_and_the_whole_time_goes_on"
    ),
    "--request-timeout": "access/test_deadlines.py::test_the_shortest_time_holds",
    "--max-file-bytes": (
        "batches/test_files.py::test_a_file_is_accepted_at_the_limit_and_refused_above"
    ),
    "--max-files": "batches/test_files.py::test_the_number_of_files_is_bounded",
    "--max-stored-file-bytes": "batches/test_files.py::test_the_bytes_of_all_files_are_bounded",
    "--file-ttl": "batches/test_files.py::test_an_expired_file_is_gone_at_once_and_its_bytes_soon",
    "--max-batch-lines": "batches/test_batches.py::test_the_lines_of_a_batch_are_bounded",
    "--max-batches": "batches/test_batches.py::test_the_batches_that_wait_are_bounded",
    "--batch-concurrency": ("batches/test_worker.py::test_at_most_so_many_lines_run_at_a_time"),
    "--max-pooling-inputs": (
        "pooling/test_embeddings.py::test_limits_of_inputs_and_of_their_tokens"
    ),
    "--max-pooling-tokens": (
        "pooling/test_embeddings.py::test_limits_of_inputs_and_of_their_tokens"
    ),
    "--max-loaded-models": "models/test_arguments.py::test_limits_of_the_swap",
    "--max-waiting-for-models": "models/test_pool.py::test_so_many_may_wait_and_no_more",
    "--shutdown-timeout": "test_lifecycle.py::test_what_does_not_finish_in_time_ends_with_an_error",
    "--log-request-bytes": (
        "operations/test_request_log.py::test_what_a_request_asks_for_is_told_without_its_texts"
    ),
    "--max-model-len": (
        "access/test_bounds.py::test_the_longest_prompt_fits_and_one_more_token_does_not"
    ),
    "--max-num-seqs": (
        "../core/engine/test_scheduler.py::test_rows_bound_admission_and_are_reused_after_an_end"
    ),
    "--max-num-batched-tokens": (
        "../core/engine/test_scheduler.py"
        "::test_prompt_is_cut_into_chunks_of_the_budget_and_samples_once"
    ),
    "--max-num-queued-reqs": (
        "../core/test_async_engine.py::test_a_full_queue_refuses_and_an_idle_engine_takes_anything"
    ),
    "--max-num-queued-tokens": (
        "../core/test_async_engine.py::test_a_bound_on_queued_tokens_refuses_only_while_they_wait"
    ),
    "--step-timeout": (
        "../core/engine/test_client.py"
        "::test_a_step_that_never_ends_is_killed_and_the_engine_replaced"
    ),
    "--max-constraint-bytes": (
        "../core/structured_output/test_json_schema.py::test_length_is_bounded"
    ),
    "--max-schema-depth": ("../core/structured_output/test_json_schema.py::test_depth_is_bounded"),
    "--compile-cpu-seconds": (
        "../core/structured_output/test_compiler.py::test_processor_time_is_bounded"
    ),
    "--compile-memory-bytes": (
        "../core/structured_output/test_compiler.py::test_memory_is_bounded"
    ),
    "--compile-cache-bytes": (
        "../core/structured_output/test_compiler.py"
        "::test_results_are_remembered_and_the_memory_is_bounded"
    ),
}
"""Flag -> where it is tested at its limit and beyond, from this file's parent folder."""
LIMITS = re.compile(
    r"--(max-|key-)|(-timeout|-ttl|-bytes|-tokens|-seconds|-inputs|-depth|-concurrency)$"
)


def test_every_flag_that_is_a_limit_has_its_test() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {flag for flag in flags if LIMITS.search(flag)} == TESTS.keys()


@pytest.mark.parametrize("flag", TESTS)
def test_the_test_of_a_limit_exists(flag: str) -> None:
    file, _, name = TESTS[flag].partition("::")
    text = (ROOT / "tests/server" / file).read_text()
    assert f"def {name}(" in text


def chat(**change: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {**GENERATING["/v1/chat/completions"], **change}


def logprobs(count: int) -> tuple[str, dict[str, Any]]:
    return chat(logprobs=True, top_logprobs=count)


def text(**change: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {**GENERATING["/v1/completions"], **change}


def response(**change: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {**GENERATING["/v1/responses"], **change}


def detokenize(**change: Any) -> tuple[str, dict[str, Any]]:
    return "/detokenize", {**MODEL, **change}


def parts(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "a"}] * count}]


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 1


def named(length: int) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f" * length}}]}


BOUNDS: list[tuple[str, Any, Any, str | None]] = [
    ("n", chat(n=128), chat(n=129), "n"),
    ("n of completions", text(n=128), text(n=129), "n"),
    ("prompts", text(prompt=["a"] * 1024), text(prompt=["a"] * 1025), "prompt"),
    ("n times prompts", text(prompt=["a"] * 8, n=128), text(prompt=["a"] * 9, n=128), "prompt"),
    ("top_logprobs", logprobs(20), logprobs(21), "top_logprobs"),
    ("logprobs", text(logprobs=20), text(logprobs=21), "logprobs"),
    ("top_logprobs of responses", response(top_logprobs=20), response(top_logprobs=21), None),
    ("prompt_logprobs", text(prompt_logprobs=20), text(prompt_logprobs=21), "prompt_logprobs"),
    ("stop", chat(stop=["x"] * 16), chat(stop=["x"] * 17), "stop"),
    ("bytes of stop", chat(stop="ä" * 512), chat(stop="ä" * 513), "stop"),
    ("bad_words", chat(bad_words=["x"] * 128), chat(bad_words=["x"] * 129), "bad_words"),
    ("bytes of bad_words", text(bad_words=["x" * 1024]), text(bad_words=["x" * 1025]), "bad_words"),
    ("temperature", chat(temperature=2), chat(temperature=2.01), "temperature"),
    ("penalties", chat(presence_penalty=-2), chat(presence_penalty=-2.01), "presence_penalty"),
    ("min_p", chat(min_p=1), chat(min_p=1.01), "min_p"),
    ("logit_bias", chat(logit_bias={"1": 100}), chat(logit_bias={"1": 100.1}), "logit_bias"),
    ("seed", chat(seed=2**63 - 1), chat(seed=2**63), "seed"),
    ("cache_salt", chat(cache_salt="x" * 1024), chat(cache_salt="x" * 1025), "cache_salt"),
    ("name of a tool", chat(**named(128)), chat(**named(129)), "tools[0].function.name"),
    (
        "metadata of responses",
        response(metadata={f"k{i}": "v" for i in range(16)}),
        response(metadata={f"k{i}": "v" for i in range(17)}),
        "metadata",
    ),
    ("depth", chat(metadata={"a": deep(126)}), chat(metadata={"a": deep(127)}), None),
    ("tokens", detokenize(tokens=[1] * 4096), detokenize(tokens=[1] * (MAX_TOKENS + 1)), "tokens"),
    ("timeout", chat(timeout=1e-3 + 60), chat(timeout=0), "timeout"),
]


@pytest.mark.parametrize(
    ("good", "wrong", "param"), [row[1:] for row in BOUNDS], ids=[row[0] for row in BOUNDS]
)
async def test_accepted_at_the_limit_and_refused_beyond(
    client: httpx.AsyncClient, engine: FakeEngine, good: Any, wrong: Any, param: str | None
) -> None:
    engine.widen(100_000)
    engine.answer = "Yes."
    route, body = good
    accepted = await client.post(route, json=body)
    assert accepted.status_code == 200, accepted.text
    route, body = wrong
    refused = await client.post(route, json=body)
    assert refused.status_code == 400
    assert param is None or refused.json()["error"]["param"] == param


async def test_a_message_may_have_many_parts(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.widen(100_000)
    for count in (1, 1000):
        route, body = chat(messages=parts(count))
        assert (await client.post(route, json=body)).status_code == 200


async def test_the_longest_prompt_fits_and_one_more_token_does_not(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    longest = engine.info.max_model_len - 1
    for length, status in ((longest, 200), (longest + 1, 400)):
        route, body = text(prompt=[5] * length, max_tokens=1)
        answer = await client.post(route, json=body)
        assert answer.status_code == status
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_entries_of_a_logit_bias() -> None:
    SamplingParams(logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS), 1.0))
    with pytest.raises(RequestError):
        SamplingParams(logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 1.0))
