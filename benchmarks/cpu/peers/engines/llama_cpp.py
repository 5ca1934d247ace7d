"""llama.cpp, by its low-level interface: batched decoding of several sequences.

Its high-level interface answers one request at a time. Here a small scheduler of our own fills
every batch with one token of each sequence that decodes and prompt tokens of the others, as
llama.cpp's server does.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy

from peers.gguf_file import write_gguf
from peers.protocol import Batch, Settings, Stopwatch, Timings, serve_engine

BATCH_TOKENS = 2048
WARNING = 3


@llama_cpp.llama_log_callback
def _log(level: int, text: bytes, _: object) -> None:
    """Pass on warnings and errors; the rest is thousands of lines for each context."""
    if WARNING <= level <= WARNING + 1:
        sys.stderr.write(text.decode(errors="replace"))


@dataclass
class Sequence:
    """A request in a slot: `tokens` wait to be computed from `position` on."""

    index: int
    slot: int
    tokens: list[int]
    position: int
    remaining: int


class LlamaCppEngine:
    """The model stays loaded; a context is made for each batch, outside of the time."""

    def prepare(self, settings: Settings) -> None:
        """Write the GGUF file: bf16, or int8 in blocks of 32 (Q8_0)."""
        path = _gguf(settings)
        if not path.exists():
            write_gguf(Path(settings.model), path, settings.precision)

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Map the file."""
        llama_cpp.llama_log_set(_log, None)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(_gguf(settings)).encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {_gguf(settings)}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.settings = settings
        system = llama_cpp.llama_print_system_info().decode()
        return {"llama_cpp": llama_cpp.__version__, "system": system}

    def run(self, batch: Batch) -> Timings:
        """All requests at once, as many in slots as the KV cache has room for."""
        longest = max(
            len(prompt) + length
            for prompt, length in zip(batch.prompts, batch.output_lens, strict=True)
        )
        slots = min(len(batch.prompts), max(1, self.settings.kv_tokens // longest))
        context = self._context(slots, longest)
        tokens = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        try:
            return _Run(self, context, tokens, batch, slots).to_the_end()
        finally:
            llama_cpp.llama_batch_free(tokens)
            llama_cpp.llama_free(context)

    def _context(self, slots: int, longest: int) -> llama_cpp.llama_context_p:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = slots * (-(-longest // 256) * 256)
        parameters.n_batch = BATCH_TOKENS
        parameters.n_seq_max = slots
        parameters.n_threads = parameters.n_threads_batch = self.settings.threads
        context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context of {parameters.n_ctx} tokens")
        return context


class _Run:
    """One batch of requests."""

    def __init__(
        self,
        engine: LlamaCppEngine,
        context: llama_cpp.llama_context_p,
        tokens: llama_cpp.llama_batch,
        batch: Batch,
        slots: int,
    ) -> None:
        self.context, self.tokens, self.batch, self.vocab = context, tokens, batch, engine.vocab
        self.memory = llama_cpp.llama_get_memory(context)
        self.free = list(range(slots))
        self.waiting = list(range(len(batch.prompts)))
        self.running: list[Sequence] = []
        self.watch = Stopwatch(len(batch.prompts))

    def to_the_end(self) -> Timings:
        if self.batch.shared_prefix:
            self._compute_prefix()
        while self.waiting or self.running:
            while self.waiting and self.free:
                self._admit(self.waiting.pop(0))
            self._step()
        return self.watch.timings()

    def _compute_prefix(self) -> None:
        """Compute the shared prefix once, and copy it to every slot."""
        self._decode([(t, i, 0, False) for i, t in enumerate(self._prefix())])
        for slot in self.free[1:]:
            llama_cpp.llama_memory_seq_cp(self.memory, 0, slot, -1, -1)

    def _prefix(self) -> list[int]:
        return self.batch.prompts[0][: self.batch.shared_prefix]

    def _admit(self, index: int) -> None:
        known = self.batch.shared_prefix
        prompt = self.batch.prompts[index][known:]
        slot = self.free.pop(0)
        llama_cpp.llama_memory_seq_rm(self.memory, slot, known, -1)
        self.running.append(Sequence(index, slot, prompt, known, self.batch.output_lens[index]))

    def _step(self) -> None:
        """One batch; every sequence whose prompt is complete gets a token."""
        entries: list[tuple[int, int, int, bool]] = []
        complete: list[tuple[Sequence, int]] = []
        for sequence in sorted(self.running, key=lambda s: len(s.tokens)):
            room = BATCH_TOKENS - len(entries)
            part, sequence.tokens = sequence.tokens[:room], sequence.tokens[room:]
            for token in part:
                entries.append((token, sequence.position, sequence.slot, False))
                sequence.position += 1
            if part and not sequence.tokens:
                entries[-1] = (*entries[-1][:3], True)
                complete.append((sequence, len(entries) - 1))
        self._decode(entries)
        for sequence, row in complete:
            self._take_token(sequence, self._greedy(row))

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        batch = self.tokens
        batch.n_tokens = len(entries)
        for i, (token, position, slot, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.logits[i] = 1, wanted
            batch.seq_id[i][0] = slot
        code = llama_cpp.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode of {len(entries)} tokens failed with {code}")

    def _greedy(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        array = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * self.vocab)).contents
        return int(numpy.frombuffer(array, dtype=numpy.float32).argmax())

    def _take_token(self, sequence: Sequence, token: int) -> None:
        self.watch.tokens(sequence.index, 1)
        sequence.remaining -= 1
        sequence.tokens = [token]
        if not sequence.remaining:
            self.running.remove(sequence)
            self.free.append(sequence.slot)


def _gguf(settings: Settings) -> Path:
    return Path(settings.model) / f"{settings.precision}.gguf"


if __name__ == "__main__":
    serve_engine(LlamaCppEngine())
