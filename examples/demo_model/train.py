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
from random import Random

import torch
from checks import failures
from corpus import documents
from tokens import BEGIN_ID, CONTEXT, END_ID, IGNORE, VOCABULARY, encode, plain, train_tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    steps: int
    minutes: float
    seed: int
    batch_tokens: int = 2048
    length: int = 256
    peak: float = 3e-3
    warmup: int = 100
    # Every so many steps the rows fill the whole context, with their documents together, so that
    # the model learns late positions and finds its way in much text.
    long_every: int = 6


def new_model() -> LlamaForCausalLM:
    """Make the untrained model, of about 3.3 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            # Wider than the default of 0.02, since the hidden size is small.
            initializer_range=0.05,
            bos_token_id=BEGIN_ID,
            eos_token_id=END_ID,
            pad_token_id=BEGIN_ID,
        )
    )


def windows(tokenizer: PreTrainedTokenizerFast, seed: int, length: int) -> Iterator[Row]:
    """Pack documents into rows of tokens, labels and positions within each document."""
    source = documents(seed)
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    rng = Random(seed)
    while True:
        for tokens, targets in encode(tokenizer, list(islice(source, 512))):
            # Half of the documents start without the begin token: prompts come in both ways.
            begin = [BEGIN_ID] * rng.randrange(2)
            ids += begin + tokens
            labels += [IGNORE] * len(begin) + targets
            positions += range(len(begin) + len(tokens))
            if len(ids) >= length:
                row = (ids[:length], labels[:length], positions[:length])
                yield tuple(torch.tensor(part) for part in row)  # type: ignore[misc]
                ids, labels, positions = [], [], []


def rate(plan: Plan, progress: float, step: int) -> float:
    """Give the part of the peak rate: a short warm-up, then a cosine down to a twentieth."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / plan.warmup) * (0.05 + 0.95 * cosine)


def optimizers_for(model: LlamaForCausalLM, peak: float) -> list[torch.optim.Optimizer]:
    """Train the matrices with Muon, and the embedding and the norms with AdamW."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = parameter.dim() == 2 and "embed" not in name
        (matrices if inner else others).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=1.6 * peak, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def loss_of(model: LlamaForCausalLM, rows: list[Row], *, apart: bool) -> torch.Tensor:
    """Predict the learned tokens of some rows, with the documents of a row apart or together."""
    device = model.device
    inputs, labels, positions = (torch.stack(part).to(device) for part in zip(*rows, strict=True))
    # Positions that start again hide the documents of a row from each other.
    where = positions if apart else None
    hidden = model.model(input_ids=inputs, position_ids=where, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    learned = targets != IGNORE
    logits = model.lm_head(hidden[:, :-1][learned])
    return torch.nn.functional.cross_entropy(logits, targets[learned])


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> float:
    """Train until the steps or the minutes are used up, and return the mean loss at the end."""
    optimizers = optimizers_for(model, plan.peak)
    groups = [(group, group["lr"]) for each in optimizers for group in each.param_groups]
    short = windows(tokenizer, plan.seed + 1, plan.length)
    long = windows(tokenizer, plan.seed + 2, CONTEXT)
    start, mean, progress, step = time.monotonic(), 0.0, 0.0, 0
    model.train()
    while progress < 1.0:
        spread = step % plan.long_every == plan.long_every - 1
        source, length = (long, CONTEXT) if spread else (short, plan.length)
        for group, peak in groups:
            group["lr"] = peak * rate(plan, progress, step)
        rows = list(islice(source, plan.batch_tokens // length))
        loss = loss_of(model, rows, apart=not spread)
        model.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        mean = loss.item() if step == 0 else 0.97 * mean + 0.03 * loss.item()
        step += 1
        seconds = time.monotonic() - start
        progress = max(step / plan.steps, seconds / 60 / plan.minutes)
        if step % 20 == 0 or progress >= 1.0:
            speed = step * plan.batch_tokens / seconds
            print(f"step {step:5d}  loss {mean:.4f}  {seconds:5.0f} s  {speed:5.0f} tokens/s")
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
    model.bfloat16().cpu().save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> int:
    """Train, save and check; fail when the saved model does not pass the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--steps", type=int, default=7000, help="the most steps to train")
    parser.add_argument("--minutes", type=float, default=120.0, help="the most minutes to train")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="torch's name of the device to train on")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(plain(d) for d in islice(documents(options.seed), 20_000))
    model = new_model().to(options.device)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    loss = train(model, tokenizer, Plan(options.steps, options.minutes, options.seed))
    write(model, tokenizer, options.out)
    problems = failures(options.out)
    print(f"loss {loss:.4f}, {len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
