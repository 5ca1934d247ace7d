"""vLLM with its own defaults: `LLM` for batches, `AsyncLLM` for requests that come one by one."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

# Without FlashInfer its sampler cannot be imported; vLLM reads the variable when it is imported.
if importlib.util.find_spec("flashinfer") is None:
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from gpu_peers.online import drive
from gpu_peers.protocol import Answered, Served, Settings, serve_engine
from gpu_peers.workloads import Arrivals
from peers.protocol import Batch


class VllmEngine:
    """Graphs, compilation and prefix caching are as vLLM chooses them."""

    def ceilings(self, device: str) -> Mapping[str, float]:
        """None: the device belongs to the engine's own process."""
        return {}

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load and compile."""
        started = time.perf_counter()
        arguments: dict[str, Any] = {
            "model": settings.model,
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": settings.dtype,
            "max_model_len": settings.max_model_len,
            "max_num_seqs": settings.max_num_seqs,
            "gpu_memory_utilization": settings.memory,
            "kv_cache_dtype": settings.kv_cache_dtype,
            "enforce_eager": settings.enforce_eager,
            "seed": 0,
        }
        if settings.quantization:
            arguments["quantization"] = settings.quantization
        if settings.batched_tokens:
            arguments["max_num_batched_tokens"] = settings.batched_tokens
        self.served = 0
        if settings.online:
            self.loop = asyncio.new_event_loop()
            self.engine = self.loop.run_until_complete(_start(arguments))
        else:
            self.llm = vllm.LLM(**arguments)
        return {"vllm": vllm.__version__, "load_seconds": time.perf_counter() - started}

    def run(self, batch: Batch) -> Answered:
        """All requests at once."""
        prompts = [{"prompt_token_ids": prompt} for prompt in batch.prompts]
        params = [_greedy(length) for length in batch.output_lens]
        start = time.perf_counter()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        return Answered(seconds, [len(output.outputs[0].token_ids) for output in outputs])

    def serve(self, arrivals: Arrivals) -> Served:
        """One stream a request."""
        self.served += 1
        return self.loop.run_until_complete(drive(arrivals, self._stream))

    async def _stream(self, number: int, prompt: list[int], outputs: int) -> AsyncIterator[int]:
        params = _greedy(outputs)
        params.output_kind = RequestOutputKind.DELTA
        count = 0
        async for output in self.engine.generate(
            {"prompt_token_ids": prompt}, params, f"{self.served}-{number}"
        ):
            count += len(output.outputs[0].token_ids)
            yield count


async def _start(arguments: dict[str, Any]) -> AsyncLLM:
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def _greedy(outputs: int) -> vllm.SamplingParams:
    return vllm.SamplingParams(
        temperature=0.0, max_tokens=outputs, ignore_eos=True, detokenize=False
    )


if __name__ == "__main__":
    serve_engine(VllmEngine())
