"""vLLM's CPU build, in one process.

Its threads are bound and its OpenMP and allocator preloaded by the variables that
`peers.environments` gives the process.
"""

from __future__ import annotations

from collections.abc import Mapping

import vllm
from vllm.sampling_params import RequestOutputKind

from peers.protocol import Batch, Settings, Stopwatch, Timings, serve_engine


class VllmEngine:
    """`LLMEngine`, stepped by hand for the time of every token; compiled, as is its default."""

    def prepare(self, settings: Settings) -> None:
        """Nothing: the checkpoint is loaded as it is."""

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load and compile."""
        if settings.precision != "bf16":
            raise NotImplementedError("int8 needs a checkpoint that is already quantised")
        llm = vllm.LLM(
            settings.model,
            dtype="bfloat16",
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_memory_bytes=settings.kv_bytes,
            enable_prefix_caching=True,
        )
        self.engine = llm.llm_engine
        self.runs = 0
        return {"vllm": vllm.__version__}

    def run(self, batch: Batch) -> Timings:
        """All requests at once."""
        self.runs += 1
        ids = {f"{self.runs}-{i}": i for i in range(len(batch.prompts))}
        watch = Stopwatch(len(ids))
        for name, i in ids.items():
            params = vllm.SamplingParams(
                temperature=0.0,
                max_tokens=batch.output_lens[i],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            self.engine.add_request(name, {"prompt_token_ids": batch.prompts[i]}, params)
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                watch.tokens(ids[output.request_id], len(output.outputs[0].token_ids))
        return watch.timings()


if __name__ == "__main__":
    serve_engine(VllmEngine())
