"""transformers' `generate`, all requests as one static batch of equal lengths."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict

import torch
import transformers

from gpu_peers.ceilings import measure_ceilings, synchronize
from gpu_peers.protocol import Answered, Served, Settings, serve_engine
from gpu_peers.workloads import Arrivals
from peers.protocol import Batch


class TransformersEngine:
    """The best case for a static batch: no padding, everybody ends together."""

    def ceilings(self, device: str) -> Mapping[str, float]:
        """Measured by torch, before the model takes the memory."""
        return asdict(measure_ceilings(torch.device(device)))

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Random weights with the default attention, which is torch's."""
        started = time.perf_counter()
        if settings.quantization or settings.kv_cache_dtype != "auto" or settings.online:
            raise NotImplementedError("only bf16 batches are compared with transformers")
        self.device = torch.device(settings.device)
        config = transformers.AutoConfig.from_pretrained(settings.model)
        with self.device:
            self.model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, settings.dtype)
            ).eval()
        return {
            "transformers": transformers.__version__,
            "load_seconds": time.perf_counter() - started,
        }

    def run(self, batch: Batch) -> Answered:
        """One call of `generate`."""
        (length,) = set(batch.output_lens)
        start = time.perf_counter()
        ids = torch.tensor(batch.prompts, device=self.device)
        with torch.inference_mode():
            tokens = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                use_cache=True,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=0,
            )
        synchronize(self.device)
        seconds = time.perf_counter() - start
        return Answered(seconds, [tokens.shape[1] - ids.shape[1]] * len(ids))

    def serve(self, arrivals: Arrivals) -> Served:
        """Not possible."""
        raise NotImplementedError("a static batch takes no requests one by one")


if __name__ == "__main__":
    serve_engine(TransformersEngine())
