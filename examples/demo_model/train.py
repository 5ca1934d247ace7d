"""Train the demo model on the generated corpus: python train.py --out DIR."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from checks import failures
from corpus import documents
from tokens import BEGIN_ID, CONTEXT, END_ID, IGNORE, VOCABULARY, encode, plain, train_tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    steps: int
    minutes: float
    seed: int
    batch_tokens: int = 2048
    length: int = 256
    peak: float = 2e-3
    warmup: int = 100
    # The last steps use the whole context, so that late positions are learned too.
    long_part: float = 0.12


def new_model() -> LlamaForCausalLM:
    """Make the untrained model, of about 3.3 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=BEGIN_ID,
            eos_token_id=END_ID,
            pad_token_id=BEGIN_ID,
        )
    )


def windows(tokenizer: PreTrainedTokenizerFast, seed: int, length: int) -> Iterator[Batch]:
    """Pack documents into rows of one length; each row starts with a new document."""
    source = documents(seed)
    ids: list[int] = []
    labels: list[int] = []
    rows = 0
    while True:
        for tokens, targets in encode(tokenizer, list(islice(source, 512))):
            # Half of the rows start without the begin token: prompts come in both ways.
            if ids or rows % 2:
                ids.append(BEGIN_ID)
                labels.append(IGNORE)
            ids += tokens
            labels += targets
            if len(ids) >= length:
                yield torch.tensor(ids[:length]), torch.tensor(labels[:length])
                ids, labels, rows = [], [], rows + 1


def rate(plan: Plan, progress: float, step: int) -> float:
    """Give the learning rate: a short warm-up, then a cosine down to a twentieth."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return plan.peak * min(1.0, (step + 1) / plan.warmup) * (0.05 + 0.95 * cosine)


def optimizer_for(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """Decay the matrices, but not the norms."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> float:
    """Train until the steps or the minutes are used up, and return the mean loss at the end."""
    optimizer = optimizer_for(model)
    short = windows(tokenizer, plan.seed + 1, plan.length)
    long = windows(tokenizer, plan.seed + 2, CONTEXT)
    start, mean, tokens, progress, step = time.monotonic(), 0.0, 0, 0.0, 0
    model.train()
    while progress < 1.0:
        source, length = (long, CONTEXT) if progress > 1 - plan.long_part else (short, plan.length)
        rows = list(islice(source, plan.batch_tokens // length))
        inputs, labels = (torch.stack(part) for part in zip(*rows, strict=True))
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, progress, step)
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == 0 else 0.97 * mean + 0.03 * loss.item()
        step, tokens = step + 1, tokens + inputs.numel()
        seconds = time.monotonic() - start
        progress = max(step / plan.steps, seconds / 60 / plan.minutes)
        if step % 20 == 0 or progress >= 1.0:
            speed = tokens / seconds
            print(
                f"step {step:5d}  loss {mean:.4f}  {seconds:6.0f} s  {speed:6.0f} tok/s", flush=True
            )
    return mean


def write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save the model in bfloat16 with its tokenizer and generation settings."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
        pad_token_id=BEGIN_ID,
        do_sample=True,
        temperature=0.7,
        top_p=0.95,
    )
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> int:
    """Train, save and check; fail when the saved model does not pass the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--steps", type=int, default=1500, help="the most steps to train")
    parser.add_argument("--minutes", type=float, default=20.0, help="the most minutes to train")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(plain(d) for d in islice(documents(options.seed), 20_000))
    model = new_model()
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    loss = train(model, tokenizer, Plan(options.steps, options.minutes, options.seed))
    write(model, tokenizer, options.out)
    problems = failures(options.out)
    print(f"loss {loss:.4f}, {len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
