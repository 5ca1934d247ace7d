"""Offline use: the engine in this process, a list of prompts in, a list of answers out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from windlass import demo_model
from windlass.config import (
    BackendConfig,
    CacheConfig,
    DType,
    EngineConfig,
    KVCacheDType,
    LoadFormat,
    ModelConfig,
    ModelInfo,
    PoolingConfig,
    Quantization,
    RunnerKind,
    SchedulerConfig,
    check_config,
)
from windlass.engine.make import make_engine
from windlass.engine.outputs import EngineStats
from windlass.engine.request_limits import check_request
from windlass.errors import ConfigError, EngineDeadError, RequestError, RequestFailedError
from windlass.pooling import (
    Embedding,
    EmbeddingOutput,
    EmbedParams,
    PoolingOutput,
    PoolingRunner,
    Score,
    ScoreParams,
    ScoringOutput,
    floats,
)
from windlass.pooling_jobs import PoolingJobs
from windlass.progress import ProgressBar
from windlass.request import RequestOutput, SamplingParams
from windlass.step import ModelRunner
from windlass.text import (
    InputProcessor,
    OutputProcessor,
    ProcessedRequest,
    Prompt,
    Tokenizer,
    encode_chat,
    load_generation_defaults,
    render_chat,
)
from windlass.text.pairs import paired
from windlass.text.pooling_processor import PoolingJob, PoolingProcessor

Message = Mapping[str, Any]

T = TypeVar("T", int, SamplingParams)


def demo_or(model: str | None) -> str:
    """Return `model`, or the folder of the embedded demo model when there is none."""
    return str(demo_model.path()) if model is None else model


class LLM:
    """A model that answers lists of prompts. Close it, or use it in a `with` statement.

    Without `model` the embedded demo model is loaded. `gpu_memory_utilization` is another name
    of `memory_utilization`: the share of the device memory for weights and cache. `runner`
    "pooling" lets a model that could generate embed or score; `pooling` says more, and goes before.

    Raises:
        WindlassError: the model, the backend or a setting is wrong; the text says which.
    """

    def __init__(
        self,
        model: str | None = None,
        tokenizer: str | None = None,
        *,
        revision: str | None = None,
        dtype: DType = "auto",
        quantization: Quantization | None = None,
        load_format: LoadFormat = "auto",
        seed: int = 0,
        max_model_len: int | None = None,
        memory_utilization: float | None = None,
        gpu_memory_utilization: float | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        block_size: int | None = None,
        num_blocks: int | None = None,
        enable_prefix_caching: bool = True,
        kv_cache_dtype: KVCacheDType = "auto",
        backend: str = "auto",
        enforce_eager: bool = False,
        runner: RunnerKind = "auto",
        pooling: PoolingConfig | None = None,
    ) -> None:
        if memory_utilization is not None and gpu_memory_utilization is not None:
            raise ConfigError("memory_utilization and gpu_memory_utilization are one: give one")
        config = EngineConfig(
            model=ModelConfig(
                model=demo_or(model),
                tokenizer=tokenizer,
                revision=revision,
                dtype=dtype,
                quantization=quantization,
                load_format=load_format,
                max_model_len=max_model_len,
                seed=seed,
            ),
            cache=CacheConfig(
                block_size=block_size,
                num_blocks=num_blocks,
                memory_utilization=memory_utilization or gpu_memory_utilization,
                enable_prefix_caching=enable_prefix_caching,
                dtype=kv_cache_dtype,
            ),
            scheduler=SchedulerConfig(
                max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens
            ),
            backend=BackendConfig(backend=backend, enforce_eager=enforce_eager),
            pooling=pooling or PoolingConfig(runner=runner),
        )
        self._load(check_config(config))

    @classmethod
    def from_config(
        cls, config: EngineConfig, runner: ModelRunner | PoolingRunner | None = None
    ) -> LLM:
        """Make one from a whole configuration, on a runner of your own if you bring one."""
        llm = cls.__new__(cls)
        llm._load(check_config(config), runner)
        return llm

    def _load(
        self, config: EngineConfig, runner: ModelRunner | PoolingRunner | None = None
    ) -> None:
        model = config.model
        self.config = config
        self._tokenizer = Tokenizer.load(*model.tokenizer_location)
        self._default_sampling: dict[str, Any] = load_generation_defaults(
            model.model, model.revision
        )
        self._runner = _build_runner(config) if runner is None else runner
        try:
            with ProgressBar() as bar:
                self.info: ModelInfo = self._runner.load(bar.report)
            self._engine = make_engine(config, self.info, self._runner)
        except BaseException:
            self._runner.close()
            raise
        self._inputs = InputProcessor(self.info, self._tokenizer)
        self._texts: PoolingProcessor | None = None
        if self.info.pooling is not None:
            self._texts = PoolingProcessor(self.info, self._tokenizer, config.pooling)
        self._numbers = count()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the device memory; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._runner.close()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Answer prompts: text, token ids, dicts of one of them, or a list of such.

        Answers come in the order of the prompts. `sampling_params` and `priority` may give one
        value per prompt. A bar shows the progress on a terminal unless `use_tqdm` is False. An
        answer whose step failed has `finish_reason` "error"; the others are not touched by it.

        Raises:
            RequestError: a prompt or a parameter is wrong; nothing has run then.
        """
        listed = _as_list(prompts)
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        sampling = _one_each(listed, sampling_params, "sampling_params")
        priorities = _one_each(listed, 0 if priority is None else priority, "priority")
        processed = [
            self._process(*request) for request in zip(listed, sampling, priorities, strict=True)
        ]
        return self._run(processed, show_progress=use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        tools: list[dict[str, Any]] | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[RequestOutput]:
        """Answer one conversation or a list of them, rendered by the model's chat template.

        Without `sampling_params` an answer may be as long as the context allows.

        Raises:
            RequestError: a conversation cannot be rendered, or a parameter is wrong.
        """
        prompts: list[Prompt] = [
            encode_chat(
                self._tokenizer,
                render_chat(
                    self._tokenizer,
                    conversation,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    tools=tools,
                    chat_template=chat_template,
                    template_kwargs=chat_template_kwargs,
                ),
            )
            for conversation in _conversations(messages)
        ]
        if sampling_params is None:
            sampling_params = SamplingParams(**self._default_sampling, max_tokens=None)
        return self.generate(prompts, sampling_params, use_tqdm)

    def embed(
        self,
        prompts: str | list[int] | Sequence[str | list[int]],
        use_tqdm: bool = True,
        *,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate_prompt_tokens: int | None = None,
        prompt_name: str | None = None,
    ) -> list[EmbeddingOutput]:
        """Embed texts or token ids, in their order; see `windlass.pooling.EmbedParams`.

        Raises:
            RequestError: an input or a parameter is wrong; nothing has run then.
            RequestFailedError: an input made the model fail.
        """
        params = EmbedParams(
            dimensions=dimensions,
            normalize=normalize,
            truncate_prompt_tokens=truncate_prompt_tokens,
            prompt_name=prompt_name,
        )
        inputs = cast(list[str | list[int]], _as_list(cast(Prompt | Sequence[Prompt], prompts)))
        job = self._text_processor().embed(str(next(self._numbers)), inputs, params)
        vectors = self._run_job(job, show_progress=use_tqdm).vectors
        return [
            EmbeddingOutput(
                request_id=request.request_id,
                prompt_token_ids=request.prompt_token_ids,
                outputs=Embedding(floats(vector)),
            )
            for request, vector in zip(job.requests, vectors, strict=True)
        ]

    def score(
        self,
        text_1: str | Sequence[str],
        text_2: str | Sequence[str],
        use_tqdm: bool = True,
        *,
        truncate_prompt_tokens: int | None = None,
        max_document_tokens: int | None = None,
        instruction: str | None = None,
    ) -> list[ScoringOutput]:
        """Score one text against one or several, or several pairs of texts.

        By a cross-encoder, by a language model that answers yes or no, or by the cosine of two
        embeddings; see `windlass.pooling.ScoreParams`.

        Raises:
            RequestError: a text or a parameter is wrong; nothing has run then.
            RequestFailedError: a pair made the model fail.
        """
        params = ScoreParams(
            truncate_prompt_tokens=truncate_prompt_tokens,
            max_document_tokens=max_document_tokens,
            instruction=instruction,
        )
        request_id = str(next(self._numbers))
        job = self._text_processor().score(request_id, paired(text_1, text_2), params)
        scores = self._run_job(job, show_progress=use_tqdm).scores
        return [
            ScoringOutput(request_id=f"{request_id}-{index}", outputs=Score(score))
            for index, score in enumerate(scores)
        ]

    def get_tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer."""
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return what the model recommends, in place of our defaults."""
        return SamplingParams(**self._default_sampling)

    def reset_prefix_cache(self) -> bool:
        """Drop the cached blocks; False when that is not possible now."""
        return bool(self._engine.reset_prefix_cache())

    def get_metrics(self) -> EngineStats:
        """Return the engine's gauges and counters."""
        return self._engine.stats()

    def _process(self, prompt: Prompt, sampling: SamplingParams, priority: int) -> ProcessedRequest:
        return self._inputs.process(
            str(next(self._numbers)),
            prompt,
            sampling,
            priority=priority,
            arrival_time=time.monotonic(),
        )

    def _run(
        self, processed: list[ProcessedRequest], *, show_progress: bool
    ) -> list[RequestOutput]:
        self._check_open()
        if self.info.pooling is not None:
            raise RequestError("This model does not generate text.", code="unsupported_endpoint")
        self._prepare(processed)
        outputs = OutputProcessor(self._tokenizer)
        finished: dict[str, RequestOutput] = {}
        try:
            for request in processed:
                outputs.add(request, delta=False, final_only=True)
                for sequence in request.requests:
                    self._engine.add_request(sequence)
            with ProgressBar(enabled=show_progress) as bar:
                while len(finished) < len(processed):
                    results, stopped = outputs.update(self._engine.step())
                    if stopped:
                        self._engine.abort(stopped)
                    if results:
                        finished.update((result.request_id, result) for result in results)
                        bar.report(
                            f"Answered {len(finished)} of {len(processed)}",
                            len(finished) / len(processed),
                        )
        except EngineDeadError:
            self.close()
            raise
        finally:
            self._end([i for request in processed for i in outputs.abort(request.request_id)])
        return [finished[request.request_id] for request in processed]

    def _text_processor(self) -> PoolingProcessor:
        if self._texts is None:
            raise RequestError(
                "This model generates text; it does not embed or score.",
                code="unsupported_endpoint",
            )
        return self._texts

    def _run_job(self, job: PoolingJob, *, show_progress: bool) -> PoolingOutput:
        self._check_open()
        jobs = PoolingJobs()
        jobs.add(job)
        done, result = 0, None
        try:
            for request in job.requests:
                self._engine.add_request(request)
            with ProgressBar(enabled=show_progress) as bar:
                while result is None:
                    for output in self._engine.step():
                        if output.finish_reason == "error":
                            raise RequestFailedError(output.error or "a text could not be computed")
                        done += 1
                        result = jobs.take(output) or result
                    bar.report(f"{done} of {len(job.requests)} texts", done / len(job.requests))
        except EngineDeadError:
            self.close()
            raise
        finally:
            self._end([request.request_id for request in job.requests])
        return result

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDeadError("this LLM is closed: make a new one")

    def _prepare(self, processed: list[ProcessedRequest]) -> None:
        """Refuse requests of which the runner cannot do what they ask, before any of them runs."""
        prepare: Callable[[SamplingParams], Future[Any] | None] | None
        prepare = getattr(self._runner, "prepare", None)
        for request in processed:
            check_request(request.requests[0], self.info)
        if prepare is not None:
            for future in [prepare(request.sampling) for request in processed]:
                if future is not None:
                    future.result()

    def _end(self, sequence_ids: list[str]) -> None:
        """Give up what is unfinished, and collect the steps that run ahead."""
        self._engine.abort(sequence_ids)
        while not self._closed and self._engine.has_work:
            self._engine.step()


def _build_runner(config: EngineConfig) -> ModelRunner | PoolingRunner:
    from windlass.executor.build import build_runner

    return build_runner(config)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    single = isinstance(prompts, str | Mapping) or (
        isinstance(prompts, list) and bool(prompts) and isinstance(prompts[0], int)
    )
    return [cast(Prompt, prompts)] if single else list(cast(Sequence[Prompt], prompts))


def _conversations(
    messages: Sequence[Message] | Sequence[Sequence[Message]],
) -> Sequence[Sequence[Message]]:
    if messages and not isinstance(messages[0], Mapping):
        return cast(Sequence[Sequence[Message]], messages)
    return [cast(Sequence[Message], messages)]


def _one_each(prompts: list[Prompt], values: T | Sequence[T], name: str) -> list[T]:
    """Return a value per prompt; one value serves them all."""
    if not isinstance(values, Sequence):
        return [values] * len(prompts)
    if len(values) != len(prompts):
        raise RequestError(
            f"{name} has {len(values)} entries for {len(prompts)} prompts: give one for all, or "
            "one for each.",
            param=name,
        )
    return list(values)
