"""The CPU plugin's paged attention beside torch's, one layer, in one run.

Decode is compared with a gather and a grouped product (`TorchAttention`), prefill with
`scaled_dot_product_attention` over keys that lie in one piece. Reports milliseconds, the least of
many runs that take turns, and what the keys and values alone take at the read bandwidth, or the
products at the float32 rate, of the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from windlass.backend import (
    Attention,
    AttentionParams,
    BackendConfig,
    KVLayout,
    TorchAttention,
    TorchBackend,
)
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step
from windlass_cpu.attention import CpuAttention


@dataclass(frozen=True)
class Case:
    """`requests` of `query_len` tokens at the end of `seq_len`."""

    name: str
    requests: int
    query_len: int
    seq_len: int
    heads: tuple[int, int]
    head_dim: int = 128


CASES = (
    Case("decode, 1 x 2048", 1, 1, 2048, (32, 8)),
    Case("decode, 1 x 2048", 1, 1, 2048, (16, 8)),
    Case("decode, 64 x 256", 64, 1, 256, (16, 8)),
    Case("decode, 64 x 256", 64, 1, 256, (32, 8), 64),
    Case("prefill 512", 1, 512, 512, (16, 8)),
    Case("prefill 2048", 1, 2048, 2048, (16, 8)),
    Case("prefill 512 after 1536", 1, 512, 2048, (16, 8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    print(f"{'':26}{'heads':>8}{'size':>6}{'windlass':>10}{'torch':>10}{'ratio':>8}{'floor':>8}")
    with torch.inference_mode():
        for case in CASES:
            report(case, dtype, args.repeats)


def report(case: Case, dtype: torch.dtype, repeats: int) -> None:
    step = make_step(case, dtype)
    params = AttentionParams(scale=case.head_dim**-0.5)
    ours = runner(CpuAttention(), step, params)
    theirs = runner(TorchAttention(), step, params) if case.query_len == 1 else dense(step, case)
    probe, floor_of = (read_probe, read_floor) if case.query_len == 1 else (fma_probe, fma_floor)
    best = least([ours, theirs, probe], repeats)
    floor = floor_of(case, dtype, best[2])
    heads = f"{case.heads[0]}/{case.heads[1]}"
    print(
        f"{case.name:26}{heads:>8}{case.head_dim:>6}{best[0] * 1e3:10.3f}{best[1] * 1e3:10.3f}"
        f"{best[1] / best[0]:8.2f}{floor * 1e3:8.3f}"
    )


def make_step(case: Case, dtype: torch.dtype) -> PagedStep:
    backend = TorchBackend(
        BackendSpec(name="reference", target="", device_type="cpu", priority=1), BackendConfig()
    )
    return build_step(
        backend,
        query_lens=[case.query_len] * case.requests,
        seq_lens=[case.seq_len] * case.requests,
        layout=KVLayout(order="LBHNC", block_size=32),
        num_heads=case.heads[0],
        num_kv_heads=case.heads[1],
        head_dim=case.head_dim,
        dtype=dtype,
    )


def runner(attention: Attention, step: PagedStep, params: AttentionParams) -> Callable[[], object]:
    plan = attention.plan(step.batch, step.pool)
    out = torch.empty_like(step.query)
    return lambda: attention.run(step.pool, LAYER, step.query, plan, params, out)


def dense(step: PagedStep, case: Case) -> Callable[[], object]:
    """torch's fused attention, with a mask only where it needs one."""
    query = step.query.transpose(0, 1)[None].contiguous()
    key, value = (x[0].transpose(0, 1)[None].contiguous() for x in (step.keys, step.values))
    mask = None
    if case.query_len < case.seq_len:
        every = torch.ones(case.seq_len, case.seq_len, dtype=torch.bool).tril()
        mask = every[-case.query_len :]
    return lambda: F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )


PROBE = torch.ones(64 << 20, dtype=torch.uint8).view(torch.int64)
SQUARE = torch.randn(768, 768)


def read_probe() -> object:
    return PROBE.sum()


def read_floor(case: Case, dtype: torch.dtype, probe_seconds: float) -> float:
    numbers = 2 * case.requests * case.seq_len * case.heads[1] * case.head_dim
    return numbers * dtype.itemsize / (PROBE.nbytes / probe_seconds)


def fma_probe() -> object:
    return SQUARE @ SQUARE


def fma_floor(case: Case, dtype: torch.dtype, probe_seconds: float) -> float:
    del dtype
    visible = case.query_len * (2 * case.seq_len - case.query_len + 1) / 2
    return 2 * visible * case.heads[0] * case.head_dim / (len(SQUARE) ** 3 / probe_seconds)


def least(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """The least seconds of each, in turns; processor time where one thread does the work."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = clock()
            function()
            best[i] = min(best[i], clock() - start)
    return best


if __name__ == "__main__":
    main()
