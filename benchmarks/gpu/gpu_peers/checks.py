"""The checks of one model; see `correctness.py`."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_peers.reference import Reference
    from windlass import LLM
    from windlass.request import RequestOutput

# Below this distance of two logits fp32 may choose either.
TIE = 1e-3
# Log-probabilities in fp32: sums in another order differ by 1e-5, tf32 by 1e-2.
FP32_DISTANCE = 1e-3
# In bf16, against fp32: so many times as far as transformers is in bf16, plus a little.
BF16_MEAN, BF16_MOST = (1.5, 0.005), (3.0, 0.05)
# Mean distance of the chosen token's log-probability from fp32: about twice what the formats cost
# these models on the CPU plugin.
QUANTIZED_MEAN = {"kv fp8": 0.4, "fp8": 0.5, "int8": 0.3, "int4": 2.0}
BLOCKS = 256
MAX_SEQS = 16
CHUNK = 64

Settings = dict[str, Any]
Answers = list[tuple[int, ...]]


@dataclass(frozen=True)
class Check:
    """One line of the table; `passed` is None where the backend does not offer it."""

    model: str
    name: str
    passed: bool | None
    figures: str


def check_model(model: str, folder: Path, backend: str, requests: int, tokens: int) -> list[Check]:
    """Make the model and check it."""
    from gpu_peers.reference import make_checkpoint

    checks = ModelChecks(model, make_checkpoint(model, folder), backend, requests, tokens)
    checks.run()
    return checks.found


@dataclass
class ModelChecks:
    """Runs checks, each on an engine of its own; an exception is a failed check."""

    model: str
    folder: Path
    backend: str
    requests: int
    tokens: int
    found: list[Check] = field(default_factory=list)

    def run(self) -> None:
        """All checks."""
        sampled: dict[str, Answers] = {}
        for name in ("graphs", "eager"):
            self._try(f"fp32 {name}", partial(self._exact, name, sampled))
        if len(sampled) == 2:
            equal = sampled["graphs"] == sampled["eager"]
            self._add("seeded sampling, graphs = eager", equal, f"{len(sampled['eager'])} answers")
        self._try("fp32 chunked prefill, prefix cache, crowd", self._crowd)
        self._try("bf16", self._bf16)
        for name in QUANTIZED_MEAN:
            self._try(f"bf16, {name}", partial(self._quantized, name))

    @cached_property
    def fp32(self) -> Reference:
        """transformers in fp32."""
        return self._reference("float32")

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Of lengths around blocks and tiles, and a few long ones."""
        draw = random.Random(1)
        lengths = [1, 2, 15, 16, 17, 31, 63, 64, 65, 127, 130, 200, 257, 300]
        return [self._draw(draw, length) for length in lengths]

    def _exact(self, name: str, sampled: dict[str, Answers]) -> tuple[bool, str]:
        """Greedy tokens, log-probabilities, and what sampling with seeds gives."""
        with self._llm(dtype="float32", eager=name == "eager") as llm:
            greedy = self._generate(llm, self.prompts)
            told = self._generate(llm, self.prompts, logprobs=5, prompt_logprobs=2)
            sampled[name] = [
                tuple(output.outputs[0].token_ids)
                for output in self._generate(
                    llm, self.prompts, temperature=0.8, top_p=0.95, top_k=200, seeded=True
                )
            ]
        wrong, ties, count = self._compare(greedy)
        same = [o.outputs[0].token_ids for o in greedy] == [o.outputs[0].token_ids for o in told]
        most = self._distance(told)[1]
        text = (
            f"{count - wrong} of {count} tokens equal ({ties} ties), logprobs within {most:.1e}"
            + ("" if same else ", other tokens when logprobs are asked for")
        )
        return not wrong and same and most < FP32_DISTANCE, text

    def _crowd(self) -> tuple[bool, str]:
        """More requests than run at once, in chunks, some with a common beginning, twice."""
        draw = random.Random(2)
        prefix = self._draw(draw, 130)
        prompts = []
        for i in range(self.requests):
            own = self._draw(draw, draw.randint(1, 300))
            prompts.append(prefix + own if i % 3 == 0 else own)
        with self._llm(dtype="float32", eager=False, max_num_batched_tokens=CHUNK) as llm:
            first = self._generate(llm, prompts)
            second = self._generate(llm, prompts)
        wrong, ties, count = map(sum, zip(self._compare(first), self._compare(second), strict=True))
        cached = sum(output.num_cached_tokens for output in second)
        text = (
            f"{count - wrong} of {count} tokens equal ({ties} ties), {cached} prompt tokens cached"
        )
        return not wrong and cached > 0, text

    def _bf16(self) -> tuple[bool, str]:
        with self._llm(dtype="bfloat16", eager=False) as llm:
            told = self._generate(llm, self.prompts, logprobs=5, prompt_logprobs=2)
        mean, most = self._distance(told)
        theirs = self._reference("bfloat16")
        peer_mean, peer_most = self._distance(told, theirs)
        passed = (
            mean <= BF16_MEAN[0] * peer_mean + BF16_MEAN[1]
            and most <= BF16_MOST[0] * peer_most + BF16_MOST[1]
        )
        return passed, (
            f"logprobs from fp32: mean {mean:.4f}, most {most:.3f}; transformers in bf16 "
            f"{peer_mean:.4f}, {peer_most:.3f}"
        )

    def _quantized(self, name: str) -> tuple[bool, str]:
        settings: Settings = (
            {"kv_cache_dtype": "fp8"} if name == "kv fp8" else {"quantization": name}
        )
        with self._llm(dtype="bfloat16", eager=False, **settings) as llm:
            told = self._generate(llm, self.prompts, logprobs=1)
        mean, most = self._distance(told, chosen_only=True)
        return mean <= QUANTIZED_MEAN[name], (
            f"chosen logprob from fp32: mean {mean:.3f} (at most {QUANTIZED_MEAN[name]}), "
            f"most {most:.2f}"
        )

    def _compare(self, outputs: Sequence[RequestOutput]) -> tuple[int, int, int]:
        """(wrong, ties, all): every token against the best one after its own beginning."""
        wrong = ties = count = 0
        for output in outputs:
            tokens = list(output.outputs[0].token_ids)
            if len(tokens) != self.tokens:
                wrong += self.tokens - len(tokens)
            start = len(output.prompt_token_ids) - 1
            logits = self.fp32.logits(output.prompt_token_ids + tokens)[start:-1]
            for row, token in zip(logits, tokens, strict=True):
                behind = float(row.max() - row[token])
                wrong += behind > TIE
                ties += 0 < behind <= TIE
            count += self.tokens
        return wrong, ties, count

    def _distance(
        self,
        outputs: Sequence[RequestOutput],
        other: Reference | None = None,
        *,
        chosen_only: bool = False,
    ) -> tuple[float, float]:
        """Mean and largest distance of log-probabilities from fp32; those of `other` where it is
        given, else those in the outputs.

        Raises:
            ValueError: a log-probability is not finite.
        """
        distances = []
        for output in outputs:
            tokens = list(output.outputs[0].token_ids)
            ids = output.prompt_token_ids + tokens
            exact = self.fp32.logits(ids).log_softmax(-1)
            theirs = other.logits(ids).log_softmax(-1) if other else None
            for position, token, logprob in _told(output, chosen_only=chosen_only):
                value = logprob if theirs is None else float(theirs[position, token])
                distances.append(abs(value - float(exact[position, token])))
        most = max(distances)
        if not most < float("inf"):
            raise ValueError("a log-probability is not finite")
        return sum(distances) / len(distances), most

    def _generate(
        self,
        llm: LLM,
        prompts: Sequence[list[int]],
        *,
        seeded: bool = False,
        temperature: float = 0.0,
        **others: Any,  # noqa: ANN401 - fields of SamplingParams
    ) -> list[RequestOutput]:
        from windlass import SamplingParams

        params = [
            SamplingParams(
                temperature=temperature,
                max_tokens=self.tokens,
                ignore_eos=True,
                detokenize=False,
                seed=i if seeded else None,
                **others,
            )
            for i in range(len(prompts))
        ]
        listed = [{"prompt_token_ids": prompt} for prompt in prompts]
        return llm.generate(listed, params, use_tqdm=False)  # type: ignore[arg-type]

    @contextmanager
    def _llm(
        self,
        *,
        dtype: str,
        eager: bool,
        max_num_batched_tokens: int = 512,
        kv_cache_dtype: str = "auto",
        quantization: str | None = None,
    ) -> Iterator[LLM]:
        from windlass import LLM
        from windlass.config import (
            BackendConfig,
            CacheConfig,
            EngineConfig,
            ModelConfig,
            SchedulerConfig,
        )

        model: Settings = {"dtype": dtype, "quantization": quantization}
        cache: Settings = {"num_blocks": BLOCKS, "dtype": kv_cache_dtype}
        config = EngineConfig(
            model=ModelConfig(model=str(self.folder), max_model_len=512, **model),
            cache=CacheConfig(**cache),
            scheduler=SchedulerConfig(
                max_num_seqs=MAX_SEQS, max_num_batched_tokens=max_num_batched_tokens
            ),
            backend=BackendConfig(backend=self.backend, enforce_eager=eager),
            step_timeout=300.0,
        )
        with LLM.from_config(config) as llm:
            yield llm

    def _reference(self, dtype: str) -> Reference:
        import torch

        from gpu_peers.reference import Reference

        return Reference(self.folder, getattr(torch, dtype), self.backend)

    def _draw(self, draw: random.Random, count: int) -> list[int]:
        return [draw.randrange(2, 2048) for _ in range(count)]

    def _try(self, name: str, check: Callable[[], tuple[bool, str]]) -> None:
        from windlass.errors import UnsupportedError

        try:
            self._add(name, *check())
        except UnsupportedError as error:
            self._add(name, None, str(error)[:160])
        except Exception as error:  # noqa: BLE001 - it is told, and the next check runs
            traceback.print_exc()
            self._add(name, False, f"{type(error).__name__}: {error}"[:300])

    def _add(self, name: str, passed: bool | None, figures: str) -> None:
        self.found.append(Check(self.model, name, passed, figures))


def _told(output: RequestOutput, *, chosen_only: bool) -> Iterator[tuple[int, int, float]]:
    """(position whose next token it is, token, log-probability) of everything in an output."""
    length = len(output.prompt_token_ids)
    steps = list(enumerate(output.outputs[0].logprobs or [], length - 1))
    if output.prompt_logprobs and not chosen_only:
        steps += [(i - 1, entry) for i, entry in enumerate(output.prompt_logprobs) if entry]
    for position, entry in steps:
        for rank, (token, logprob) in enumerate(entry.items()):
            if not chosen_only or rank == 0:
                yield position, token, logprob.logprob
