"""The largest step that a configuration allows, for backends that measure what it takes."""

from __future__ import annotations

import torch

from windlass.backend import AttentionBatch, Backend, ForwardContext, KVLayout, KVPool, KVSpec
from windlass.config import EngineConfig
from windlass.loader import LoadedModel


@torch.inference_mode()
def run_largest_step(
    config: EngineConfig, backend: Backend, loaded: LoadedModel, spec: KVSpec, layout: KVLayout
) -> None:
    """Prefill a full token budget, then compute logits for as many sequences as may run.

    Every token is padding (slot -1) and every block table points to the null block, so a pool of
    two blocks is enough.
    """
    device = backend.device.torch_device
    buffer = backend.allocator.reserve(
        2 * layout.block_bytes(spec, loaded.decoder_config.num_layers),
        align=layout.align,
        tag="profile",
    )
    pool = KVPool.carve(buffer, spec, layout, loaded.decoder_config.num_layers, 2)
    num_tokens = config.scheduler.token_budget(backend.capabilities.preferred_token_budget)
    length = min(num_tokens, loaded.max_model_len)
    lens = [length] * (num_tokens // length)
    lens += [num_tokens % length] if num_tokens % length else []
    cu_seqlens = [sum(lens[:i]) for i in range(len(lens) + 1)]
    batch = AttentionBatch(
        cu_seqlens_q=torch.tensor(cu_seqlens, dtype=torch.int32, device=device),
        seq_lens=torch.tensor(lens, dtype=torch.int32, device=device),
        block_table=torch.zeros(
            len(lens), -(-length // layout.block_size), dtype=torch.int32, device=device
        ),
        slot_mapping=torch.full((num_tokens,), -1, dtype=layout.slot_dtype, device=device),
        num_decodes=0,
        max_query_len=length,
        max_seq_len=length,
        cu_seqlens_q_cpu=cu_seqlens,
        seq_lens_cpu=lens,
    )
    context = ForwardContext(
        backend.attention, pool, backend.attention.plan(batch, pool), batch.slot_mapping
    )
    positions = torch.cat([torch.arange(n, device=device) for n in lens])
    hidden = loaded.decoder.forward(
        positions % loaded.decoder_config.vocab_size, positions, context
    )
    sampled = min(config.scheduler.max_num_seqs, num_tokens)
    torch.log_softmax(loaded.decoder.logits(hidden[:sampled]), dim=-1)
    backend.device.synchronize()
    backend.allocator.release("profile")
