"""The tokenizer of the demo model and how documents become tokens."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from world.base import Document

BEGIN, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
BEGIN_ID, TURN_ID, END_ID = 0, 1, 2
VOCABULARY = 2048
CONTEXT = 1024
IGNORE = -100

TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}"
    "{{- message['content'] }}"
    "{%- else %}"
    "{%- for part in message['content'] if part['type'] == 'text' %}"
    "{{- part['text'] }}"
    "{%- endfor %}"
    "{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE vocabulary: every text has tokens, so none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    # A number has the same token after a space as without one: half as much to learn.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, TURN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=BEGIN,
        additional_special_tokens=[TURN],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def plain(document: Document) -> str:
    """Join all text of a document, for the training of the tokenizer."""
    return "\n".join(
        [document.system, document.text, *(part for t in document.turns for part in t)]
    )


def spans(document: Document) -> list[tuple[str, bool]]:
    """Cut a document into pieces of text, each with whether the model shall learn it."""
    if document.text:
        return [(document.text + END, True), ("\n", False)]
    pieces = [(f"{TURN}system\n{document.system}{END}\n", False)] if document.system else []
    for question, answer in document.turns:
        pieces.append((f"{TURN}user\n{question}{END}\n{TURN}assistant\n", False))
        pieces.append((answer + END, True))
        pieces.append(("\n", False))
    return pieces


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> list[tuple[list[int], list[int]]]:
    """Turn documents into tokens and labels; what users say is not learned."""
    cut = [spans(document) for document in documents]
    flat = [text for pieces in cut for text, _ in pieces]
    coded = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    result = []
    for pieces in cut:
        ids: list[int] = []
        labels: list[int] = []
        for _, learned in pieces:
            part = next(coded)
            ids += part
            labels += part if learned else [IGNORE] * len(part)
        result.append((ids, labels))
    return result
