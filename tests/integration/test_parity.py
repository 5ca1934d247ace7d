"""The whole engine against transformers: the same tokens, however requests are batched.

Greedy tokens are checked by teacher forcing: transformers computes logits over prompt and output
in one pass, and each of our tokens must be its most probable one. By induction that is equality
with its greedy generation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from windlass.config import (
    BackendConfig,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from windlass.engine.core import EngineCore
from windlass.executor.build import build_runner
from windlass.request import Request, SamplingParams

NUM_PROMPTS, NUM_TOKENS = 32, 128
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": None,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama2": LlamaConfig(**{**SMALL, "num_key_value_heads": 4}),
    "llama3": LlamaConfig(**SMALL, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, sliding_window=48),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=32),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=6),
    "qwen3_moe": Qwen3MoeConfig(
        **{**SMALL, "num_hidden_layers": 3},
        head_dim=32,
        moe_intermediate_size=48,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    ),
}


@dataclass
class Answers:
    """What the engine gave for each request id."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[float]] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)


def run(
    core: EngineCore, requests: Sequence[Request], abort_after: dict[str, int] | None = None
) -> Answers:
    """Drive the engine until it is idle; `abort_after` maps request ids to steps."""
    answers = Answers()
    for request in requests:
        core.add_request(request)
    steps = 0
    while core.has_work:
        steps += 1
        core.abort([name for name, step in (abort_after or {}).items() if step == steps])
        for output in core.step():
            name = output.request_id
            answers.tokens.setdefault(name, []).extend(output.new_token_ids)
            answers.cached[name] = answers.cached.get(name, 0) + output.num_cached_tokens
            for token, entry in zip(output.new_token_ids, output.logprobs or [], strict=False):
                answers.logprobs.setdefault(name, []).append(entry[token].logprob)
            if output.finish_reason:
                answers.finished[name] = output.finish_reason
    stats = core.stats()
    assert stats.num_free_blocks == stats.num_blocks
    return answers


def prompts(count: int = NUM_PROMPTS) -> list[list[int]]:
    """Prompts of mixed length, from 1 to about 130 tokens."""
    generator = torch.Generator().manual_seed(7)
    lengths = [1 + (37 * i) % 131 for i in range(count)]
    return [torch.randint(0, 512, (n,), generator=generator).tolist() for n in lengths]


def make_requests(
    all_prompts: list[list[int]], max_tokens: int = NUM_TOKENS, prefix: str = "r"
) -> list[Request]:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=0, ignore_eos=True)
    return [
        Request(request_id=f"{prefix}{i}", prompt_token_ids=prompt, sampling=sampling)
        for i, prompt in enumerate(all_prompts)
    ]


@dataclass(frozen=True)
class Case:
    """One saved model, transformers' view of it, and engines over it."""

    folder: Path
    model: PreTrainedModel

    def engine(
        self, scheduler: SchedulerConfig, cache: CacheConfig, dtype: str = "float32"
    ) -> EngineCore:
        model = ModelConfig(model=str(self.folder), dtype=dtype)  # type: ignore[arg-type]
        config = EngineConfig(
            model=model, cache=cache, scheduler=scheduler, backend=BackendConfig(backend="cpu")
        )
        runner = build_runner(config)
        return EngineCore(config, runner.load(), runner)

    def distances(
        self, prompt: list[int], tokens: list[int], logprobs: list[float]
    ) -> tuple[int, float]:
        """(tokens that transformers would not have chosen, largest logprob difference)."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt + tokens])).logits[0].float()
        reference = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
        wrong = (reference.argmax(-1) != torch.tensor(tokens)).sum().item()
        theirs = reference.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        return int(wrong), (theirs - torch.tensor(logprobs)).abs().max().item()

    def check(self, answers: Answers, names_and_prompts: list[tuple[str, list[int]]]) -> None:
        for name, prompt in names_and_prompts:
            assert len(answers.tokens[name]) == NUM_TOKENS
            wrong, distance = self.distances(prompt, answers.tokens[name], answers.logprobs[name])
            assert wrong == 0, name
            assert distance < 2e-4, name


@pytest.fixture(scope="module", params=CONFIGS, ids=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float32)
    for name, parameter in model.named_parameters():
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        torch.nn.init.normal_(parameter, mean=mean, std=0.15)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return Case(folder, model.eval())


MANY = SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=4096)
PLENTY = CacheConfig(block_size=16, num_blocks=1024)


@pytest.fixture
def closing() -> Iterator[Callable[[EngineCore], EngineCore]]:
    engines: list[EngineCore] = []

    def keep(core: EngineCore) -> EngineCore:
        engines.append(core)
        return core

    yield keep
    for core in engines:
        core._runner.close()


Closing = Callable[[EngineCore], EngineCore]


def test_batched(case: Case, closing: Closing) -> None:
    answers = run(closing(case.engine(MANY, PLENTY)), make_requests(prompts()))
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(prompts())])


def test_alone(case: Case, closing: Closing) -> None:
    core = closing(case.engine(replace_scheduler(max_num_seqs=1), PLENTY))
    picked = prompts()[3:6]
    answers = run(core, make_requests(picked))
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked)])


def replace_scheduler(**changes: int) -> SchedulerConfig:
    return SchedulerConfig(**{"max_num_seqs": 64, "max_num_batched_tokens": 4096, **changes})


def test_chunked(case: Case, closing: Closing) -> None:
    core = closing(case.engine(replace_scheduler(max_num_batched_tokens=24), PLENTY))
    picked = prompts()[:16]
    answers = run(core, make_requests(picked))
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked)])


def test_preempted(case: Case, closing: Closing) -> None:
    core = closing(case.engine(MANY, CacheConfig(block_size=16, num_blocks=50)))
    picked = prompts()[:12]
    answers = run(core, make_requests(picked))
    assert core.stats().num_preemptions > 0
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked)])


def test_prefix_cached(case: Case, closing: Closing) -> None:
    core = closing(case.engine(MANY, PLENTY))
    picked = [prompt for prompt in prompts() if len(prompt) > 40][:8]
    run(core, make_requests(picked, max_tokens=3, prefix="first"))
    answers = run(core, make_requests(picked, prefix="again"))
    for i, prompt in enumerate(picked):
        assert answers.cached[f"again{i}"] == (len(prompt) - 1) // 16 * 16
    case.check(answers, [(f"again{i}", p) for i, p in enumerate(picked)])


def test_neighbours_are_aborted(case: Case, closing: Closing) -> None:
    core = closing(case.engine(MANY, PLENTY))
    picked = prompts()[:12]
    aborted = {f"r{i}": 3 + 5 * i for i in range(0, 12, 2)}
    answers = run(core, make_requests(picked), aborted)
    assert all(answers.finished[name] == "abort" for name in aborted)
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked) if i % 2])


def test_bfloat16_logprobs_are_close(case: Case, closing: Closing) -> None:
    core = closing(case.engine(MANY, PLENTY, dtype="bfloat16"))
    picked = prompts()[:8]
    answers = run(core, make_requests(picked, max_tokens=32))
    reference = replace(case, model=case.model.to(torch.bfloat16))
    try:
        distances = [
            reference.distances(prompt, answers.tokens[f"r{i}"], answers.logprobs[f"r{i}"])[1]
            for i, prompt in enumerate(picked)
        ]
    finally:
        case.model.to(torch.float32)
    # A rounding may send a token to another expert, so that one answer is far off.
    sparse = hasattr(case.model.config, "num_experts_per_tok")
    assert (median(distances) if sparse else max(distances)) < 0.25
    print(f"bfloat16: largest logprob distance {max(distances):.3f}")
