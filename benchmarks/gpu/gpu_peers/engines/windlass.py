"""Windlass: `LLM` in this process for batches, `AsyncEngine` for requests that come one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict

import torch

import windlass
from gpu_peers.ceilings import measure_ceilings
from gpu_peers.online import drive
from gpu_peers.protocol import Answered, Served, Settings, serve_engine
from gpu_peers.windlass_settings import engine_config
from gpu_peers.workloads import Arrivals
from peers.protocol import Batch
from windlass import LLM, SamplingParams
from windlass.async_engine import AsyncEngine
from windlass.text import Prompt


class WindlassEngine:
    """The backend is that of the device: cuda, cpu."""

    def ceilings(self, device: str) -> Mapping[str, float]:
        """Measured by torch, before the model takes the memory."""
        return asdict(measure_ceilings(torch.device(device)))

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load; an engine for single requests gets a process of its own."""
        started = time.perf_counter()
        config = engine_config(settings)
        if settings.online:
            self.loop = asyncio.new_event_loop()
            self.engine = self.loop.run_until_complete(AsyncEngine.start(config))
            info = self.engine.info
        else:
            self.llm = LLM.from_config(config)
            info = self.llm.info
        return {
            "windlass": windlass.__version__,
            "torch": torch.__version__,
            "device": info.device,
            "kv_tokens": info.num_blocks * info.block_size,
            "load_seconds": time.perf_counter() - started,
        }

    def run(self, batch: Batch) -> Answered:
        """All requests at once."""
        return answer(self.llm, batch)

    def serve(self, arrivals: Arrivals) -> Served:
        """One stream a request."""
        return self.loop.run_until_complete(drive(arrivals, self._stream))

    async def _stream(self, number: int, prompt: list[int], outputs: int) -> AsyncIterator[int]:
        del number  # the engine numbers its requests itself
        count = 0
        async for output in self.engine.generate(
            {"prompt_token_ids": prompt}, _greedy(outputs), delta=True
        ):
            count += len(output.outputs[0].token_ids)
            yield count


def answer(llm: LLM, batch: Batch) -> Answered:
    """Answer all requests at once."""
    prompts: list[Prompt] = [{"prompt_token_ids": prompt} for prompt in batch.prompts]
    params = [_greedy(length) for length in batch.output_lens]
    start = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - start
    return Answered(seconds, [len(output.outputs[0].token_ids) for output in outputs])


def _greedy(outputs: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=outputs, ignore_eos=True, detokenize=False)


if __name__ == "__main__":
    serve_engine(WindlassEngine())
