"""transformers' `generate`, all requests as one static batch of equal lengths."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers

from peers.protocol import Batch, Settings, Stopwatch, Timings, serve_engine


class TransformersEngine:
    """The best case for a static batch: no padding, everybody ends together."""

    def prepare(self, settings: Settings) -> None:
        """Nothing: the checkpoint is loaded as it is."""

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load with the default attention, which is torch's."""
        if settings.precision != "bf16":
            raise NotImplementedError("no int8 on a CPU without another package")
        torch.set_num_threads(settings.threads)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=torch.bfloat16
        ).eval()
        return {"transformers": transformers.__version__, "torch": torch.__version__}

    def run(self, batch: Batch) -> Timings:
        """One call of `generate`; every step's end is seen by a stopping criterion."""
        ids = torch.tensor(batch.prompts)
        (length,) = set(batch.output_lens)
        watch = Stopwatch(len(batch.prompts))

        def note(tokens: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            for i in range(len(tokens)):
                watch.tokens(i, 1)
            return torch.zeros(len(tokens), dtype=torch.bool)

        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                use_cache=True,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=0,
                stopping_criteria=transformers.StoppingCriteriaList([note]),
            )
        return watch.timings()


if __name__ == "__main__":
    serve_engine(TransformersEngine())
