"""Windlass, offline in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

import windlass
from peers.protocol import Batch, Settings, Timings, serve_engine
from windlass import LLM, SamplingParams
from windlass.text import Prompt

BLOCK_SIZE = 32


class WindlassEngine:
    """`LLM` on the CPU plugin; the times are those of the requests' own metrics."""

    def prepare(self, settings: Settings) -> None:
        """Nothing: the checkpoint is loaded as it is."""

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load on torch's threads, which the kernels share."""
        torch.set_num_threads(settings.threads)
        int8 = settings.precision == "int8"
        self.llm = LLM(
            settings.model,
            dtype="bfloat16",
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            block_size=BLOCK_SIZE,
            num_blocks=-(-settings.kv_tokens // BLOCK_SIZE),
            backend="cpu",
            quantization="int8" if int8 else None,
            # As OpenVINO does by its own choice.
            kv_cache_dtype="int8" if int8 else "auto",
        )
        return {"windlass": windlass.__version__, "torch": torch.__version__}

    def run(self, batch: Batch) -> Timings:
        """All requests at once."""
        prompts: list[Prompt] = [{"prompt_token_ids": prompt} for prompt in batch.prompts]
        params = [
            SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False)
            for length in batch.output_lens
        ]
        start = time.monotonic()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        metrics = [output.metrics for output in outputs if output.metrics]
        return Timings(
            first=[m.arrival_time + m.time_to_first_token - start for m in metrics],
            end=[m.arrival_time + m.total_time - start for m in metrics],
            counts=[len(output.outputs[0].token_ids) for output in outputs],
        )


if __name__ == "__main__":
    serve_engine(WindlassEngine())
