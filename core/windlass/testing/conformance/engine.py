"""L4: whole models, as the engine runs them, against transformers.

The reference is transformers on the host, in float32 and without a cache: it shares no code with
the core, so that nothing is right only because it is wrong in the same way on both sides. A backend
with a model runner of its own is proved by the same cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from windlass.backend import Backend, GraphSupport
from windlass.config import (
    BackendConfig,
    CacheConfig,
    DType,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from windlass.engine.core import EngineCore
from windlass.errors import UnsupportedError
from windlass.executor.build import runner_for
from windlass.step import ModelRunner
from windlass.testing.conformance.cases import Case, Skipped, expect
from windlass.testing.conformance.compare import short
from windlass.testing.engine_harness import Generation
from windlass.testing.parity import Distance, distance, greedy_requests, run_requests
from windlass.testing.tiny_models import VOCABULARY, write_tiny_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODELS = {
    "qwen3": "Qwen3: norms of heads",
    "llama3": "Llama 3: tied embedding, stretched rotation",
    "qwen3_moe": "Qwen3-MoE: experts",
    "mistral": "Mistral: sliding window",
}
"""Families of `windlass.testing.tiny_models`, and what each adds."""

TOLERANCE = {torch.float32: 2e-4, torch.float16: 3e-2, torch.bfloat16: 0.15}
"""How far a log-probability may be from the reference's in float32."""

SPARSE = frozenset({"qwen3_moe"})
"""A rounding may send a token to another expert, so in 16 bits the median generation counts."""

_NUM_TOKENS = 20
_MAX_NUM_SEQS = 8
_PLENTY = 64
"""Blocks of the cache that no case fills."""
_CHUNK = 19
"""Tokens of a step that cuts prompts, at no border of a block."""

Measured = dict[str, float]
MakeBackend = Callable[[BackendConfig], Backend]


def engine_cases(
    make_backend: MakeBackend, folder: Path, models: Sequence[str] = tuple(MODELS)
) -> Iterator[Case]:
    """The cases of L4; models are written into `folder`, and each engine has a backend of its own.

    The dtype in which every case runs is float32 where the backend has it; in its others a batch.
    Cases of one setting share an engine, for a device may take seconds to make one.
    The host's part runs on one thread: steps this small spend their time waking others.
    """
    torch.set_num_threads(1)
    capabilities = make_backend(BackendConfig()).capabilities
    exact = torch.float32 in capabilities.dtypes
    main = torch.float32 if exact else capabilities.dtypes[0]
    sizes = capabilities.head_dims
    head_dim = 64 if not sizes or 64 in sizes else sizes[0]
    checks = dict(_CHECKS)
    if capabilities.graph >= GraphSupport.DECODE_UNIFORM:
        checks["a batch, without graphs"] = partial(_batch, enforce_eager=True)
    for family in models:
        model = _Model(make_backend, family, folder / family, head_dim)
        try:
            for name, check in checks.items():
                yield Case(f"{family} {short(main)}: {name}", partial(check, model, main))
            for dtype in capabilities.dtypes:
                if dtype is not main:
                    yield Case(f"{family} {short(dtype)}: a batch", partial(_batch, model, dtype))
        finally:
            model.close()


@dataclass(frozen=True)
class _Setting:
    """What an engine is made for; `token_budget` is of a step (None: the backend's)."""

    dtype: torch.dtype
    num_blocks: int = _PLENTY
    token_budget: int | None = None
    enforce_eager: bool = False


@dataclass(frozen=True)
class _Engine:
    setting: _Setting
    core: EngineCore
    runner: ModelRunner
    block_size: int


class _Model:
    """One saved model, transformers' view of it, and the engine over it that was used last."""

    def __init__(self, make_backend: MakeBackend, family: str, folder: Path, head_dim: int) -> None:
        self._make_backend = make_backend
        self._family = family
        self._folder = folder
        self._head_dim = head_dim
        self._last: _Engine | None = None

    @cached_property
    def reference(self) -> PreTrainedModel:
        """The model, written when the first case needs it."""
        return write_tiny_model(self._family, self._folder, head_dim=self._head_dim)

    @contextmanager
    def engine(self, setting: _Setting) -> Iterator[tuple[EngineCore, int]]:
        """An engine without cached prefixes, and its block size; kept for the next case.

        Raises:
            Skipped: the backend says that it cannot run this model.
        """
        if self._last is None or self._last.setting != setting:
            self.close()
            self._last = self._make(setting)
        engine = self._last
        engine.core.reset_prefix_cache()
        try:
            yield engine.core, engine.block_size
        except BaseException:
            self.close()  # who knows what it left behind
            raise

    def close(self) -> None:
        """Close the engine, if there is one."""
        if self._last is not None:
            self._last.runner.close()
            self._last = None

    def _make(self, setting: _Setting) -> _Engine:
        assert self.reference is not None
        eager = setting.enforce_eager
        backend = self._make_backend(BackendConfig(enforce_eager=eager))
        name: DType = short(setting.dtype)  # type: ignore[assignment]
        config = EngineConfig(
            model=ModelConfig(model=str(self._folder), dtype=name),
            cache=CacheConfig(num_blocks=setting.num_blocks),
            scheduler=SchedulerConfig(
                max_num_seqs=_MAX_NUM_SEQS, max_num_batched_tokens=setting.token_budget
            ),
            backend=BackendConfig(backend=backend.spec.name, enforce_eager=eager),
        )
        runner = runner_for(config, backend)
        try:
            info = runner.load()
        except UnsupportedError as error:
            raise Skipped(str(error)) from error
        return _Engine(setting, EngineCore(config, info, runner), runner, info.block_size)

    def judge(
        self,
        dtype: torch.dtype,
        prompts: Sequence[Sequence[int]],
        said: Sequence[Generation],
    ) -> Measured:
        """Fail unless every generation is the reference's, within the tolerance of `dtype`."""
        found = []
        for number, (prompt, generation) in enumerate(zip(prompts, said, strict=True)):
            expect(not generation.error, f"request {number}: {generation.error}")
            given = len(generation.token_ids)
            expect(given == _NUM_TOKENS, f"request {number}: {given} tokens, not {_NUM_TOKENS}")
            found.append(distance(self.reference, prompt, generation))
        if self._family in SPARSE and dtype is not torch.float32:
            regrets, logprobs = ([getattr(d, x) for d in found] for x in ("regret", "logprob"))
            found = [Distance(0, median(regrets), median(logprobs))]
        allowed = TOLERANCE[dtype]
        for number, off in enumerate(found):
            who = f"request {number}: "
            # Two tokens may be as probable as each other, within what a number may be off.
            text = f"{off.wrong} tokens are not the most probable (by {off.regret:.4g})"
            expect(off.regret <= 2 * allowed, who + text)
            text = f"a log-probability is off by {off.logprob:.4g}, {allowed:g} is allowed"
            expect(off.logprob <= allowed, who + text)
        return {"log-probability off by": max(off.logprob for off in found)}


def _prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


MIXED = (1, 40, 7, 67, 16, 2, 33)
"""Prompt lengths: a single token, full blocks, and more than the window."""


def _batch(model: _Model, dtype: torch.dtype, *, enforce_eager: bool = False) -> Measured:
    prompts = _prompts(*MIXED)
    requests = greedy_requests(prompts, max_tokens=_NUM_TOKENS, logprobs=3, prompt_logprobs=1)
    with model.engine(_Setting(dtype, enforce_eager=enforce_eager)) as (core, _):
        said = run_requests(core, requests)
        core.reset_prefix_cache()
        # Without log-probabilities a backend may choose tokens where it computes logits.
        bare = greedy_requests(prompts, max_tokens=_NUM_TOKENS, prefix="bare", logprobs=None)
        said |= run_requests(core, bare)
    return model.judge(dtype, prompts * 2, list(said.values()))


def _alone(model: _Model, dtype: torch.dtype) -> Measured:
    prompts = _prompts(1, 67, 33)
    requests = greedy_requests(prompts, max_tokens=_NUM_TOKENS, logprobs=3)
    with model.engine(_Setting(dtype)) as (core, _):
        said = [run_requests(core, [one])[one.request_id] for one in requests]
    return model.judge(dtype, prompts, said)


def _chunked(model: _Model, dtype: torch.dtype) -> Measured:
    prompts = _prompts(*MIXED)
    requests = greedy_requests(prompts, max_tokens=_NUM_TOKENS, logprobs=3, prompt_logprobs=0)
    with model.engine(_Setting(dtype, token_budget=_CHUNK)) as (core, _):
        said = run_requests(core, requests)
        expect(core.stats().num_steps > sum(MIXED) // _CHUNK, "no prompt was cut into chunks")
    return model.judge(dtype, prompts, list(said.values()))


def _prefix_cached(model: _Model, dtype: torch.dtype) -> Measured:
    with model.engine(_Setting(dtype)) as (core, size):
        first = _prompts(2 * size + 3, size + 1, size - 1)
        # Again, and behind a common prefix something else.
        again = [*first, first[0][: size + 5] + first[1][:9]]
        run_requests(core, greedy_requests(first, max_tokens=3))
        requests = greedy_requests(again, max_tokens=_NUM_TOKENS, prefix="again", logprobs=3)
        said = list(run_requests(core, requests).values())
    cached = [generation.num_cached_tokens for generation in said]
    expected = [2 * size, size, 0, size]
    expect(cached == expected, f"{cached} tokens came from the cache, not {expected}")
    return model.judge(dtype, again, said)


def _preempted(model: _Model, dtype: torch.dtype) -> Measured:
    """Requests that fill a block each, and want a second one when there is none left."""
    count = 6
    with model.engine(_Setting(dtype, num_blocks=count + 2)) as (core, size):
        prompts = _prompts(*(max(1, size - 3 - i) for i in range(count)))
        requests = greedy_requests(prompts, max_tokens=_NUM_TOKENS, logprobs=3)
        said = run_requests(core, requests)
        expect(core.stats().num_preemptions > 0, "no request was preempted")
    return model.judge(dtype, prompts, list(said.values()))


def _neighbours_aborted(model: _Model, dtype: torch.dtype) -> Measured:
    prompts = _prompts(*MIXED)
    requests = greedy_requests(prompts, max_tokens=_NUM_TOKENS, logprobs=3)
    aborted = {f"r{i}": 3 + 2 * i for i in range(0, len(prompts), 2)}
    late = greedy_requests(prompts[:2], max_tokens=_NUM_TOKENS, prefix="late", logprobs=3)
    with model.engine(_Setting(dtype)) as (core, _):
        said = run_requests(core, requests, aborted)
        # These take the blocks and rows that the others left.
        said |= run_requests(core, late)
    reasons = {said[name].finish_reason for name in aborted}
    expect(reasons == {"abort"}, f"aborted requests ended with {reasons}")
    left = [f"r{i}" for i in range(1, len(prompts), 2)] + ["late0", "late1"]
    kept = [*prompts[1::2], *prompts[:2]]
    return model.judge(dtype, kept, [said[name] for name in left])


_CHECKS: dict[str, Callable[[_Model, torch.dtype], Measured]] = {
    "a batch": _batch,
    "alone": _alone,
    "a prefix from the cache": _prefix_cached,
    "neighbours are aborted": _neighbours_aborted,
    "chunked prefill": _chunked,
    "after preemption": _preempted,
}
