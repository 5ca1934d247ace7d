"""OpenVINO GenAI's continuous batching, on models that optimum-intel converts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy
import openvino
import openvino_genai

from peers.protocol import Batch, Settings, Stopwatch, Timings, serve_engine


class OpenVinoEngine:
    """`ContinuousBatchingPipeline`, stepped by hand; one stream, one step's budget as Windlass'."""

    def prepare(self, settings: Settings) -> None:
        """Convert the checkpoint: bf16 weights as they are, or int8 by NNCF (per channel)."""
        folder = _converted(settings)
        if folder.exists():
            return
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
        from transformers import AutoTokenizer

        int8 = settings.precision == "int8"
        model = OVModelForCausalLM.from_pretrained(
            settings.model,
            export=True,
            compile=False,
            load_in_8bit=False,
            quantization_config=OVWeightQuantizationConfig(bits=8, sym=True) if int8 else None,
        )
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(settings.model).save_pretrained(partial)
        partial.rename(folder)

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load with bf16 arithmetic; keys and values in bf16 too, unless the weights are int8."""
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = settings.kv_gib
        scheduler.max_num_seqs = settings.max_num_seqs
        scheduler.max_num_batched_tokens = 2048
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        properties: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": settings.threads,
            "INFERENCE_PRECISION_HINT": "bf16",
        }
        if settings.precision == "bf16":
            properties["KV_CACHE_PRECISION"] = "bf16"
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(_converted(settings)), scheduler, "CPU", properties
        )
        self.runs = 0
        return {"openvino": openvino.__version__, "openvino_genai": openvino_genai.__version__}

    def run(self, batch: Batch) -> Timings:
        """All requests at once."""
        watch = Stopwatch(len(batch.prompts))
        handles = []
        for prompt, length in zip(batch.prompts, batch.output_lens, strict=True):
            self.runs += 1
            config = openvino_genai.GenerationConfig()
            config.max_new_tokens = length
            config.ignore_eos = True
            config.do_sample = False
            ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
            handles.append(self.pipeline.add_request(self.runs, ids, config))
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            for i, handle in enumerate(handles):
                if handle.can_read():
                    watch.tokens(i, sum(len(o.generated_ids) for o in handle.read().values()))
        return watch.timings()


def _converted(settings: Settings) -> Path:
    return Path(settings.model) / f"openvino-{settings.precision}"


if __name__ == "__main__":
    serve_engine(OpenVinoEngine())
