"""The model runner for every torch device: plans in, tokens out, in two phases."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from windlass.backend import (
    AttentionBatch,
    Backend,
    Event,
    ForwardContext,
    GraphSupport,
    KVPool,
)
from windlass.config import EngineConfig, ModelInfo
from windlass.executor.decode_graphs import DecodeGraphs
from windlass.executor.device_queue import DeviceQueue
from windlass.executor.kv_cache import allocate_kv_cache
from windlass.executor.logits_processors import LogitsProcessors
from windlass.executor.request_table import RequestTable
from windlass.executor.sampler import SampledStep, Sampler
from windlass.executor.step_upload import StepUploader, UploadedStep
from windlass.executor.token_masks import TokenMasks
from windlass.executor.transfers import Transfers
from windlass.executor.warm_up import WARM_UP_TOKENS, warm_up_plans
from windlass.loader import load_decoder
from windlass.models.decoder import Decoder
from windlass.request import Logprob, SamplingParams, TokenLogprobs
from windlass.step import ScheduledRow, StepHandle, StepPlan, StepResult
from windlass.structured_output.matcher import Matchers, is_constrained
from windlass.structured_output.vocabulary import Vocabulary
from windlass.text.tokenizer import Tokenizer

_PROMPT_LOGPROB_ROWS = 256
"""Prompt positions whose logits are held at once when prompt log-probabilities are wanted."""

_Logprobs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class _Launched:
    """A step whose work is queued on the device, and the host copies it will fill."""

    plan: StepPlan
    event: Event
    sampled: list[ScheduledRow]
    tokens: torch.Tensor
    logprob_counts: dict[int, int]
    logprobs: _Logprobs | None
    prompt_logprobs: dict[str, tuple[list[int], _Logprobs]]
    errors: dict[int, str]


class TorchModelRunner:
    """Implements `windlass.step.ModelRunner` on a backend.

    On a device that runs kernels asynchronously `launch` queues them and returns. On any other
    device one worker thread plays the part of the stream, so that the engine plans the next step
    while this one runs.
    """

    def __init__(self, config: EngineConfig, backend: Backend):
        self._config = config
        self._backend = backend
        self._device = backend.device.torch_device
        self._graphs: DecodeGraphs | None = None
        self._matchers: Matchers | None = None
        self._queue = DeviceQueue(asynchronous=backend.capabilities.asynchronous)

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Load weights, size and reserve the KV cache, warm up."""
        return self._queue.submit(lambda: self._load(progress)).result()

    def _load(self, progress: Callable[[str, float], None] | None) -> ModelInfo:
        started = time.monotonic()
        self._backend.device.activate()
        loaded = load_decoder(self._config.model, self._backend, progress)
        self._decoder: Decoder = loaded.decoder
        cache = allocate_kv_cache(self._config, self._backend, loaded)
        self._pool: KVPool = cache.pool
        max_seqs = self._config.scheduler.max_num_seqs
        max_blocks = -(-cache.max_model_len // self._pool.block_size)
        vocab_size = loaded.decoder_config.vocab_size
        self._table = RequestTable(max_seqs, max_blocks, self._device)
        self._transfers = Transfers(self._backend)
        self._masks = self._token_masks(vocab_size, loaded.eos_token_ids)
        self._sampler = Sampler(
            self._backend, self._table, vocab_size, self._transfers, self._masks
        )
        self._uploader = StepUploader(self._backend)
        self._backend.warmup(weight_bytes=loaded.weight_bytes)
        self._graphs = self._capture(cache.max_model_len, progress)
        self._warm_up(cache.max_model_len)
        return ModelInfo(
            model=self._config.model.model,
            architecture=loaded.architecture,
            backend=self._backend.spec.name,
            device=str(self._device),
            dtype=str(loaded.dtype).removeprefix("torch."),
            vocab_size=vocab_size,
            max_model_len=cache.max_model_len,
            block_size=self._pool.block_size,
            num_blocks=self._pool.num_blocks,
            max_num_seqs=max_seqs,
            max_num_batched_tokens=self._config.scheduler.token_budget(
                self._backend.capabilities.preferred_token_budget
            ),
            num_parameters=loaded.num_parameters,
            weight_bytes=loaded.weight_bytes,
            kv_cache_bytes=self._pool.buffer.nbytes,
            load_seconds=time.monotonic() - started,
            eos_token_ids=loaded.eos_token_ids,
            kv_cache_dtype=cache.dtype,
            quantization=self._config.model.quantization,
            structured_outputs=True,
            logits_processors=self._config.logits_processors,
        )

    def _token_masks(self, vocab_size: int, eos_token_ids: tuple[int, ...]) -> TokenMasks:
        config = self._config
        self._processors = LogitsProcessors(config.logits_processors, vocab_size)

        def vocabulary() -> Vocabulary:
            tokenizer = Tokenizer.load(*config.model.tokenizer_location)
            return Vocabulary.read(tokenizer, vocab_size, eos_token_ids)

        self._matchers = Matchers(vocabulary, config.structured_output)
        return TokenMasks(
            self._backend, vocab_size, self._transfers, self._matchers, self._processors
        )

    def prepare(self, sampling: SamplingParams) -> Future[Any] | None:
        """Begin what a request needs before it may run, on other threads; None for nothing.

        The result raises RequestError where the request cannot be served.

        Raises:
            RequestError: a logits processor refuses its argument.
        """
        if sampling.extra_args:
            self._processors.make(sampling.extra_args)
        if self._matchers is None or not is_constrained(sampling):
            return None
        return self._matchers.prepare(sampling)

    @torch.inference_mode()
    def _capture(
        self, max_model_len: int, progress: Callable[[str, float], None] | None
    ) -> DecodeGraphs | None:
        """Graphs of the decode step, where the backend captures them and nobody said not to."""
        backend = self._backend
        graphs = backend.device.graph_pool()
        uniform = backend.capabilities.graph >= GraphSupport.DECODE_UNIFORM
        if graphs is None or not uniform or self._config.backend.enforce_eager:
            return None
        decode_graphs = DecodeGraphs(
            backend, graphs, self._decoder, self._pool, self._table, max_model_len
        )
        decode_graphs.capture(progress)
        return decode_graphs

    def _warm_up(self, max_model_len: int) -> None:
        """Let an asynchronous device compile what eager steps need, and forget the steps."""
        if not self._backend.capabilities.asynchronous or max_model_len < WARM_UP_TOKENS:
            return
        for plan in warm_up_plans(self._table.padding_row):
            self._run(plan)
            # Nobody collects these: without waiting, staging buffers would be used too soon.
            self._backend.device.synchronize()
        self._forget()

    def launch(self, plan: StepPlan) -> StepHandle:
        """Start a step."""
        return _Handle(self._queue.submit(lambda: self._run(plan)))

    def reset(self) -> None:
        """Forget every row."""
        self._queue.submit(self._forget).result()

    def _forget(self) -> None:
        self._uploader.reset()
        self._masks.clear()
        for row in range(self._table.padding_row):
            self._sampler.remove_row(row)

    def close(self) -> None:
        """Release the KV cache and the worker thread."""
        self._queue.close()
        if self._graphs is not None:
            self._graphs.close()
        if self._matchers is not None:
            self._matchers.close()
        self._backend.allocator.release("kv_cache")
        self._backend.close()

    @torch.inference_mode()
    def _run(self, plan: StepPlan) -> _Launched:
        for row in plan.freed_rows:
            self._sampler.remove_row(row)
        for new in plan.new_rows:
            self._sampler.add_row(new)
        step = self._uploader.upload(plan)
        if step.new_rows is not None:
            self._table.fill_rows(step.new_rows)
        if step.new_blocks is not None:
            self._table.append_blocks(step.new_blocks)
        if self._graphs is not None and not len(step.prefill_tokens):
            return self._replay(plan, step, self._graphs)
        hidden = self._forward(plan, step)
        prompt_logprobs = self._prompt_logprobs(plan, hidden)
        return self._launched(plan, *self._sample(plan, step, hidden), prompt_logprobs)

    def _replay(self, plan: StepPlan, step: UploadedStep, graphs: DecodeGraphs) -> _Launched:
        """A decode step as a graph; rows with special wishes choose once more, from its logits."""
        output, count = graphs.run(step.rows), len(plan.rows)
        result = SampledStep(output.tokens[:count])
        if self._sampler.needs_logits(plan.rows):
            result = self._sampler.sample(output.logits[:count], step.rows, plan.rows)
        return self._launched(plan, plan.rows, result, {})

    def _forward(self, plan: StepPlan, step: UploadedStep) -> torch.Tensor:
        """Hidden states `[T, H]`, op by op; counts the step's tokens in the table."""
        num_tokens, table, pool = plan.num_tokens, self._table, self._pool
        num_decodes = num_tokens - len(step.prefill_tokens)
        longest = max(row.start + row.num_tokens for row in plan.rows)
        num_columns = -(-longest // pool.block_size)
        if num_decodes == num_tokens:
            inputs = self._backend.ops.begin_decode(
                step.rows,
                table.last_token,
                table.position,
                table.block_table,
                num_columns,
                pool.block_size,
                pool.layout.slot_dtype,
            )
        else:
            inputs = self._mixed_inputs(step, num_decodes, num_tokens, num_columns)
        token_ids, positions, seq_lens, slots, block_table = inputs
        batch = AttentionBatch(
            cu_seqlens_q=step.cu_seqlens_q,
            seq_lens=seq_lens,
            block_table=block_table,
            slot_mapping=slots,
            num_decodes=num_decodes,
            max_query_len=max(row.num_tokens for row in plan.rows),
            max_seq_len=longest,
            cu_seqlens_q_cpu=_prefix_sum([row.num_tokens for row in plan.rows]),
            seq_lens_cpu=[row.start + row.num_tokens for row in plan.rows],
        )
        attention = self._backend.attention
        attention_plan = attention.plan(batch, pool)
        attention.plan_in_graph(attention_plan)
        context = ForwardContext(attention, pool, attention_plan, batch.slot_mapping)
        return self._decoder.forward(token_ids, positions, context)

    def _mixed_inputs(
        self, step: UploadedStep, num_decodes: int, num_tokens: int, num_columns: int
    ) -> tuple[torch.Tensor, ...]:
        """What `begin_decode` gives, for decodes followed by chunks of prompts."""
        table = self._table
        block_table = table.block_table[:, :num_columns].index_select(0, step.rows)
        computed = table.position.index_select(0, step.rows)
        decoded = table.last_token.index_select(0, step.rows[:num_decodes])
        token_ids = torch.cat((decoded, step.prefill_tokens))
        request = torch.repeat_interleave(step.query_lens, output_size=num_tokens)
        within = torch.arange(num_tokens, device=self._device) - step.cu_seqlens_q[request]
        positions = computed[request] + within
        slots = self._slots(block_table, request, positions)
        seq_lens = (computed + step.query_lens).to(torch.int32)
        table.advance(step.rows, step.query_lens)
        return token_ids, positions, seq_lens, slots, block_table

    def _slots(
        self, block_table: torch.Tensor, request: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Slot of each position of its request."""
        size = self._pool.block_size
        blocks = block_table[request, positions // size]
        slots = blocks.long() * size + positions % size
        return slots.to(self._pool.layout.slot_dtype)

    def _sample(
        self, plan: StepPlan, step: UploadedStep, hidden: torch.Tensor
    ) -> tuple[list[ScheduledRow], SampledStep]:
        """The rows that sample, and what they sampled."""
        scheduled = [row for row in plan.rows if row.samples]
        if not scheduled:
            return scheduled, SampledStep(step.rows.new_zeros(0, dtype=torch.int64))
        # In almost every step every row samples.
        every = len(scheduled) == len(plan.rows)
        rows = step.rows if every else step.rows[step.sampled]
        if len(scheduled) < plan.num_tokens:
            ends = step.cu_seqlens_q[1:] if every else step.cu_seqlens_q[1:][step.sampled]
            hidden = hidden[ends.long() - 1]
        return scheduled, self._sampler.sample(self._decoder.logits(hidden), rows, scheduled)

    def _launched(
        self,
        plan: StepPlan,
        sampled: list[ScheduledRow],
        result: SampledStep,
        prompt_logprobs: dict[str, tuple[list[int], _Logprobs]],
    ) -> _Launched:
        """Queue the way back to the host."""
        tokens = self._transfers.download(result.tokens)
        logprobs = result.logprobs and _map(self._transfers.download, result.logprobs)
        event = self._backend.device.event()
        event.record()
        self._masks.launched(sampled, tokens, event)
        return _Launched(
            plan,
            event,
            sampled,
            tokens,
            result.logprob_counts,
            logprobs,
            prompt_logprobs,
            result.errors,
        )

    def _prompt_logprobs(
        self, plan: StepPlan, hidden: torch.Tensor
    ) -> dict[str, tuple[list[int], _Logprobs]]:
        """Log-probabilities of prompt tokens, a few positions at a time."""
        found = {}
        start = 0
        for row in plan.rows:
            targets = row.prompt_targets
            if targets:
                num_top = self._sampler.num_prompt_logprobs(row.row)
                states = hidden[start : start + len(targets)]
                parts = [
                    self._target_logprobs(part, targets[i : i + len(part)], num_top)
                    for i, part in zip(
                        range(0, len(targets), _PROMPT_LOGPROB_ROWS),
                        torch.split(states, _PROMPT_LOGPROB_ROWS),
                        strict=True,
                    )
                ]
                joined = tuple(
                    self._transfers.download(torch.cat(column))
                    for column in zip(*parts, strict=True)
                )
                found[row.request_id] = (targets, (joined[0], joined[1], joined[2], joined[3]))
            start += row.num_tokens
        return found

    def _target_logprobs(self, hidden: torch.Tensor, targets: list[int], num_top: int) -> _Logprobs:
        ids = self._transfers.upload(targets, torch.int64)
        result: _Logprobs = self._backend.ops.token_logprobs(
            self._decoder.logits(hidden), ids, num_top
        )
        return result


class _Handle:
    """A launched step."""

    def __init__(self, future: Future[_Launched]):
        self._future = future

    def done(self) -> bool:
        """Whether the device has finished."""
        return self._future.done() and (
            self._future.exception() is not None or self._future.result().event.query()
        )

    def collect(self) -> StepResult:
        """Wait for the device, then read the host copies."""
        launched = self._future.result()
        launched.event.synchronize()
        tokens = launched.tokens.tolist()
        result = StepResult(step_id=launched.plan.step_id, tokens={})
        for i, (scheduled, token) in enumerate(zip(launched.sampled, tokens, strict=True)):
            if i in launched.errors:
                result.errors[scheduled.request_id] = launched.errors[i]
            elif token >= 0:
                result.tokens[scheduled.request_id] = token
            else:
                result.errors[scheduled.request_id] = (
                    "the model produced numbers that are not finite"
                )
        if launched.logprobs is not None:
            ids = [tokens[i] for i in launched.logprob_counts]
            entries = _token_logprobs(
                ids, launched.logprobs, list(launched.logprob_counts.values())
            )
            for i, entry in zip(launched.logprob_counts, entries, strict=True):
                result.logprobs[launched.sampled[i].request_id] = entry
        for request_id, (targets, logprobs) in launched.prompt_logprobs.items():
            num_top = logprobs[2].shape[-1]
            result.prompt_logprobs[request_id] = _token_logprobs(
                targets, logprobs, [num_top] * len(targets)
            )
        return result


def _token_logprobs(
    token_ids: list[int], logprobs: _Logprobs, num_top: list[int]
) -> list[TokenLogprobs]:
    """Per position: the token itself first, then the alternatives by rank."""
    chosen, ranks, top_ids, top = (part.tolist() for part in logprobs)
    entries = []
    for i, token in enumerate(token_ids):
        entry = {token: Logprob(chosen[i], ranks[i])}
        for rank, other in enumerate(top_ids[i][: num_top[i]], start=1):
            entry.setdefault(other, Logprob(top[i][rank - 1], rank))
        entries.append(entry)
    return entries


def _prefix_sum(lens: list[int]) -> list[int]:
    sums = [0]
    for length in lens:
        sums.append(sums[-1] + length)
    return sums


def _map(function: Callable[[torch.Tensor], torch.Tensor], parts: _Logprobs) -> _Logprobs:
    a, b, c, d = (function(part) for part in parts)
    return a, b, c, d
