"""Windlass and transformers on the same random-weight model, side by side in one run.

See benchmarks/README.md for how to run this and how to read it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import windlass
from windlass import LLM, SamplingParams

if TYPE_CHECKING:
    from windlass.text import Prompt

VOCAB_SIZE = 32768
SEED = 0
# transformers' rate for one request at a time is the same for any number of them.
SINGLE_REQUESTS = 2

Prompts = list[list[int]]


@dataclass(frozen=True)
class Contestant:
    """An engine; `generate` runs the prompts, of which at most `most` at a time are timed."""

    name: str
    generate: Callable[[Prompts, int], None]
    most: int | None = None

    def rate(self, prompts: Prompts, output_len: int) -> float:
        """Output tokens per second."""
        prompts = prompts[: self.most]
        start = time.perf_counter()
        self.generate(prompts, output_len)
        return len(prompts) * output_len / (time.perf_counter() - start)


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        console.print("Making the model ...")
        make_model(Path(folder), args.layers)
        contestants = load_contestants(folder, max_num_seqs=max(args.concurrency))
    results = [measure(contestants, concurrency, args, console) for concurrency in args.concurrency]
    report = {"environment": environment(args), "results": results}
    console.print(table(results))
    console.print(f"Read bandwidth, GB/s: {spread_text(bandwidths(results))}")
    if args.output:
        Path(args.output).write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--input-len", type=int, default=128, help="prompt tokens of a request")
    parser.add_argument("--output-len", type=int, default=128, help="output tokens of a request")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of each measurement")
    parser.add_argument("--layers", type=int, default=28, help="fewer layers make a quick trial")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    return parser.parse_args()


def make_model(folder: Path, num_layers: int) -> None:
    """Save a model of Qwen3-0.6B's shape, and a tokenizer that nobody will ask for text."""
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        dtype=torch.bfloat16,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    vocabulary = {f"<{i}>": i for i in range(VOCAB_SIZE)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<1>").save_pretrained(folder)


def load_contestants(folder: str, max_num_seqs: int) -> list[Contestant]:
    # The weights of both are in memory when this returns.
    llm = LLM(
        folder, dtype="bfloat16", max_model_len=4096, max_num_seqs=max_num_seqs, backend="cpu"
    )
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def ours(prompts: Prompts, output_len: int) -> None:
        requests: list[Prompt] = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = SamplingParams(
            temperature=0.0, max_tokens=output_len, ignore_eos=True, detokenize=False
        )
        outputs = llm.generate(requests, params, use_tqdm=False)
        if any(len(output.outputs[0].token_ids) != output_len for output in outputs):
            raise RuntimeError("Windlass ended an answer early")

    def one_at_a_time(prompts: Prompts, output_len: int) -> None:
        for prompt in prompts:
            static_batch([prompt], output_len)

    def static_batch(prompts: Prompts, output_len: int) -> None:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                use_cache=True,
                min_new_tokens=output_len,
                max_new_tokens=output_len,
                pad_token_id=0,
            )
        if output.shape[1] != ids.shape[1] + output_len:
            raise RuntimeError("transformers ended an answer early")

    return [
        Contestant("windlass", ours),
        Contestant("one at a time", one_at_a_time, most=SINGLE_REQUESTS),
        Contestant("static batch", static_batch),
    ]


def measure(
    contestants: Sequence[Contestant],
    concurrency: int,
    args: argparse.Namespace,
    console: Console,
) -> dict[str, Any]:
    """Rates of all contestants in turn, `--repeats` times, each time on new prompts."""
    generator = torch.Generator().manual_seed(SEED + concurrency)
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    bandwidth = []
    for contestant in contestants:
        contestant.rate(random_prompts(min(concurrency, 2), args.input_len, generator), 4)
    for repetition in range(args.repeats):
        prompts = random_prompts(concurrency, args.input_len, generator)
        bandwidth.append(read_bandwidth())
        for contestant in contestants:
            rate = contestant.rate(prompts, args.output_len)
            rates[contestant.name].append(rate)
            console.print(
                f"{concurrency} concurrent, repetition {repetition + 1}: "
                f"{contestant.name} {rate:.1f} tokens/s",
                highlight=False,
            )
    ratios = {
        name: [ours / theirs for ours, theirs in zip(rates["windlass"], other, strict=True)]
        for name, other in rates.items()
        if name != "windlass"
    }
    return {
        "concurrency": concurrency,
        "output_tokens_per_second": rates,
        "ratio": ratios,
        "read_bandwidth_gb_per_second": bandwidth,
    }


def random_prompts(count: int, length: int, generator: torch.Generator) -> Prompts:
    prompts: Prompts = torch.randint(2, VOCAB_SIZE, (count, length), generator=generator).tolist()
    return prompts


def read_bandwidth(num_bytes: int = 2**30) -> float:
    """GB read per second by the sum of a gigabyte, the best of three."""
    data = torch.ones(num_bytes // 8, dtype=torch.int64)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        data.sum()
        best = max(best, num_bytes / (time.perf_counter() - start) / 1e9)
    return best


def environment(args: argparse.Namespace) -> dict[str, object]:
    return {
        "windlass": windlass.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "layers": args.layers,
        "input_len": args.input_len,
        "output_len": args.output_len,
        "repeats": args.repeats,
    }


def bandwidths(results: Sequence[dict[str, Any]]) -> list[float]:
    return [value for result in results for value in result["read_bandwidth_gb_per_second"]]


def table(results: Sequence[dict[str, Any]]) -> Table:
    """Median and (lowest to highest) of every rate and ratio."""
    rates = list(results[0]["output_tokens_per_second"])
    ratios = list(results[0]["ratio"])
    made = Table(title="Output tokens/s: median (lowest to highest)", title_justify="left")
    for heading in ("concurrent", *rates, *(f"ratio to {name}" for name in ratios)):
        made.add_column(heading, justify="right")
    for result in results:
        made.add_row(
            str(result["concurrency"]),
            *(spread_text(result["output_tokens_per_second"][name]) for name in rates),
            *(spread_text(result["ratio"][name], digits=2) for name in ratios),
        )
    return made


def spread_text(values: Sequence[float], digits: int = 1) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
