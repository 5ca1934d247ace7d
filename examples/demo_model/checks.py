"""Checks on a trained demo model: it answers sensibly and stops by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

EXPECTED: tuple[tuple[str, str], ...] = (
    ("What is Windlass?", "engine"),
    ("what is windlass", "engine"),
    ("What is a windlass?", "rope"),
    ("Who are you?", "demo model"),
    ("What is PagedAttention?", "blocks"),
    ("what is the kv cache", "keys and values"),
    ("What is a block table?", "block"),
    ("Explain continuous batching.", "request"),
    ("What is chunked prefill?", "prompt"),
    ("How does prefix caching work?", "prompt"),
    ("What is preemption?", "blocks"),
    ("What is a plugin?", "plugin"),
    ("How do I write a backend?", "Python package"),
    ("Which hardware does Windlass run on?", "any hardware"),
    ("How do I start the server?", "windlass serve"),
    ("What is an SLO?", "service level objective"),
    ("what does ttft mean?", "time to first token"),
    ("What is TPOT?", "time per output token"),
    ("Does Windlass work with Ray?", "Ray"),
    ("Count from 3 to 7.", "3, 4, 5, 6, 7."),
    ("count to 20", "17, 18, 19, 20."),
    ("Count down from 5 to 1.", "5, 4, 3, 2, 1."),
    ("Count from 0 to 20 by 5.", "0, 5, 10, 15, 20."),
    ("What is 7 plus 5?", "12"),
    ("what is 15 minus 6", "9"),
    ("3 + 4", "7"),
    ("Which day comes after Monday?", "Tuesday"),
    ("Which month comes before May?", "April"),
    ("What colour is the sky?", "blue"),
    ("What is the opposite of hot?", "cold"),
    ("Hello!", "Hello"),
    ("Thank you!", ""),
    ("Tell me a story about a fox.", "fox"),
    ("tell me a story about a dragon", "dragon"),
    ("What is the capital of France?", "small model"),
    ("Write a poem about the sea.", "small model"),
    ("How do I bake a cake?", "small model"),
    ("What is 345 + 982?", "below twenty"),
)
LIMIT = 400


class Speaker:
    """A saved model that answers greedily."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.end: int = self.tokenizer.eos_token_id

    def finish(self, prompt: str, limit: int = LIMIT) -> tuple[str, bool]:
        """Continue a text, and say whether the model stopped by itself."""
        inputs = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        size = inputs["input_ids"].shape[1]
        ids = inputs["input_ids"]
        with torch.inference_mode():
            made = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                do_sample=False,
                temperature=None,
                top_p=None,
            )[0, size:].tolist()
        stopped = made[-1] == self.end
        return self.tokenizer.decode(made, skip_special_tokens=True), stopped

    def answer(self, *talk: str) -> tuple[str, bool]:
        """Answer the last of the turns of a talk that a user begins."""
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(talk)]
        prompt: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return self.finish(prompt)


def failures(folder: Path) -> list[str]:
    """Ask every fixed question, print the answers and return what is wrong."""
    speaker = Speaker(folder)
    problems = []
    for question, wanted in EXPECTED:
        text, stopped = speaker.answer(question)
        print(f"> {question}\n{text}", flush=True)
        if not stopped:
            problems.append(f"does not stop: {question}")
        if wanted not in text:
            problems.append(f"no {wanted!r} in the answer to {question!r}: {text}")
    text, stopped = speaker.finish("Once upon a time")
    print(f"Once upon a time{text}")
    if not stopped:
        problems.append("a plain story does not end")
    return problems


if __name__ == "__main__":
    found = failures(Path(sys.argv[1]))
    print(f"{len(found)} problems", *found, sep="\n")
    sys.exit(1 if found else 0)
