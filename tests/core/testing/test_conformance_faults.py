"""Faults planted in backends that are right otherwise: the kit catches every one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from windlass.backend import (
    AttentionBatch,
    AttentionParams,
    BackendConfig,
    Event,
    KVPool,
    OpRegistry,
    Stream,
    TorchAllocator,
    TorchAttention,
    TorchBackend,
)
from windlass.errors import WindlassError
from windlass.kernels import reference
from windlass.plugin import BackendSpec, OpProvider
from windlass.testing.conformance.attention import attention_cases
from windlass.testing.conformance.cases import Case, Outcome, check_all
from windlass.testing.conformance.device import device_cases
from windlass.testing.conformance.ops import op_cases

SPEC = BackendSpec(name="faulty", target="", device_type="cpu", priority=1)


class Float32Backend(TorchBackend):
    """Only float32, for speed: planted faults are not a matter of the dtype."""

    default_capabilities = replace(
        TorchBackend(SPEC, BackendConfig()).capabilities, dtypes=(torch.float32,)
    )


def backend_with(**parts: Any) -> TorchBackend:
    backend = Float32Backend(SPEC, BackendConfig())
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


def first_failure(cases: Iterable[Case]) -> Outcome | None:
    outcomes = check_all("L", cases)
    return next((outcome for outcome in outcomes if outcome.status == "failed"), None)


# Attention


class WindowWrongByOne(TorchAttention):
    def run(self, pool: KVPool, layer: int, query: Any, plan: Any, params: Any, *outs: Any) -> None:
        if params.window:
            params = replace(params, window=params.window + 1)
        super().run(pool, layer, query, plan, params, *outs)


class MissingSink(TorchAttention):
    def run(self, pool: KVPool, layer: int, query: Any, plan: Any, params: Any, *outs: Any) -> None:
        super().run(pool, layer, query, plan, replace(params, sinks=None), *outs)


class MissingSoftcap(TorchAttention):
    def run(self, pool: KVPool, layer: int, query: Any, plan: Any, params: Any, *outs: Any) -> None:
        super().run(pool, layer, query, plan, replace(params, softcap=0.0), *outs)


class LseInBaseTwo(TorchAttention):
    def run(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        plan: object,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None = None,
    ) -> None:
        super().run(pool, layer, query, plan, params, out, lse)
        if lse is not None:
            lse /= math.log(2)


class BlockTableIgnored(TorchAttention):
    """Takes blocks in the order of memory."""

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        table = batch.block_table.clone()
        used = table > 0
        table[used] = torch.arange(1, int(used.sum()) + 1, dtype=table.dtype)
        return super().plan(replace(batch, block_table=table), pool, capture=capture)


class WritesTheLastSlot(TorchAttention):
    """-1 is an index of Python's."""

    def write_kv(self, pool: KVPool, layer: int, key: Any, value: Any, slot_mapping: Any) -> None:
        count = pool.num_blocks * pool.block_size
        super().write_kv(pool, layer, key, value, slot_mapping % count)


class KeysAndValuesSwapped(TorchAttention):
    """In the cache only, so attention alone does not show it."""

    def write_kv(self, pool: KVPool, layer: int, key: Any, value: Any, slot_mapping: Any) -> None:
        super().write_kv(pool, layer, value, key, slot_mapping)


class WritesBesideItsOutput(TorchAttention):
    def run(
        self,
        pool: KVPool,
        layer: int,
        query: Any,
        plan: Any,
        params: Any,
        out: Any,
        lse: Any = None,
    ) -> None:
        super().run(pool, layer, query, plan, params, out, lse)
        torch.as_strided(out, (1,), (1,), out.storage_offset() + out.numel()).zero_()


class StaleNumbersMatter(TorchAttention):
    """The value of a hidden key is multiplied with a weight of 0, which NaN survives."""

    def run(
        self,
        pool: KVPool,
        layer: int,
        query: Any,
        plan: Any,
        params: Any,
        out: Any,
        lse: Any = None,
    ) -> None:
        super().run(pool, layer, query, plan, params, out, lse)
        for decode in plan.decodes:
            last = decode.blocks.long().gather(
                1, ((decode.seq_lens - 1) // pool.block_size)[:, None].long()
            )
            out[decode.rows] += (
                0 * pool.values[layer][last[:, 0], -1].float().sum((1, 2))[:, None, None]
            )


class ImportsToTheNextLayer(TorchAttention):
    def import_blocks(self, pool: KVPool, layer: int, block_ids: Any, blocks: Any) -> None:
        super().import_blocks(pool, (layer + 1) % pool.num_layers, block_ids, blocks)


class ExportsInTheOrderOfMemory(TorchAttention):
    def export_blocks(self, pool: KVPool, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
        return super().export_blocks(pool, layer, block_ids.sort().values)


class ScalesOfKeysAndValuesSwapped(TorchAttention):
    """Of an int8 cache, where both are read the same wrong way."""

    def write_kv(self, pool: KVPool, layer: int, key: Any, value: Any, slot_mapping: Any) -> None:
        super().write_kv(self.swapped(pool), layer, key, value, slot_mapping)

    def run(self, pool: KVPool, *rest: Any) -> None:
        super().run(self.swapped(pool), *rest)

    def swapped(self, pool: KVPool) -> KVPool:
        return replace(pool, key_scales=pool.value_scales, value_scales=pool.key_scales)


class ReadsScalesSwapped(ScalesOfKeysAndValuesSwapped):
    def write_kv(self, pool: KVPool, *rest: Any) -> None:
        TorchAttention.write_kv(self, pool, *rest)


ATTENTIONS = (
    WindowWrongByOne,
    MissingSink,
    MissingSoftcap,
    LseInBaseTwo,
    BlockTableIgnored,
    WritesTheLastSlot,
    KeysAndValuesSwapped,
    WritesBesideItsOutput,
    StaleNumbersMatter,
    ImportsToTheNextLayer,
    ExportsInTheOrderOfMemory,
    ScalesOfKeysAndValuesSwapped,
    ReadsScalesSwapped,
)


@pytest.mark.parametrize("fault", ATTENTIONS, ids=lambda fault: fault.__name__)
def test_a_fault_in_attention_is_caught(fault: type[TorchAttention]) -> None:
    assert first_failure(attention_cases(backend_with(attention=fault())))


def test_attention_without_a_fault_passes() -> None:
    assert first_failure(attention_cases(backend_with())) is None


# Ops


def rms_norm_without_eps(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return reference.rms_norm(x, weight, 0.0)


def rms_norm_over_its_input(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x.copy_(reference.rms_norm(x, weight, eps))


def silu_mul_one_row_too_many(x: torch.Tensor) -> torch.Tensor:
    """Its grid has one program more than rows."""
    result = reference.silu_mul(x)
    beside = torch.as_strided(
        x, x.shape[1:], x.stride()[1:], x.storage_offset() + x.stride(0) * len(x)
    )
    beside.zero_()
    return result


def silu_mul_as_if_contiguous(x: torch.Tensor) -> torch.Tensor:
    packed = torch.as_strided(x, x.shape, (x.shape[1], 1), x.storage_offset())
    return reference.silu_mul(packed)


def silu_mul_that_leaves_the_last_row(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(x), x.shape[1] // 2, dtype=x.dtype)
    out[: len(x) // 4 * 4] = reference.silu_mul(x[: len(x) // 4 * 4])
    return out


def rope_interleaved(query: Any, key: Any, positions: Any, cos_sin: Any) -> Any:
    """Neighbours are rotated against each other, not halves."""

    def shuffle(x: torch.Tensor, back: bool = False) -> torch.Tensor:
        size = cos_sin.shape[1]
        shape = (size // 2, 2) if not back else (2, size // 2)
        head = x[..., :size].unflatten(-1, shape).transpose(-1, -2).flatten(-2)
        return torch.cat((head, x[..., size:]), dim=-1)

    rotated = reference.rope(shuffle(query), shuffle(key), positions, cos_sin)
    return tuple(shuffle(x, back=True) for x in rotated)


def greedy_last_of_ties(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    largest, tokens = reference.greedy(logits.flip(-1))
    return largest, logits.shape[-1] - 1 - tokens


def begin_decode_padding_has_a_slot(*args: Any) -> Any:
    tokens, positions, lengths, slots, blocks = reference.begin_decode(*args)
    return tokens, positions, lengths, slots.clamp(min=0), blocks


def route_experts_not_renormalized(logits: Any, top_k: int, renormalize: bool) -> Any:
    return reference.route_experts(logits, top_k, False)


def next_tokens_not_entered(logits: Any, rows: Any, last_token: Any, *rest: Any) -> Any:
    return reference.next_tokens(logits, rows, last_token.clone(), *rest)


OPS: dict[Callable[..., Any], str] = {
    rms_norm_without_eps: "rms_norm",
    rms_norm_over_its_input: "rms_norm",
    silu_mul_one_row_too_many: "silu_mul",
    silu_mul_as_if_contiguous: "silu_mul",
    silu_mul_that_leaves_the_last_row: "silu_mul",
    rope_interleaved: "rope",
    greedy_last_of_ties: "greedy",
    begin_decode_padding_has_a_slot: "begin_decode",
    route_experts_not_renormalized: "route_experts",
    next_tokens_not_entered: "next_tokens",
}


@pytest.mark.parametrize("fault", OPS, ids=lambda fault: fault.__name__)
def test_a_fault_in_an_op_is_caught(
    fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "planted_fault", fault, raising=False)
    planted = OpProvider(
        op=OPS[fault], name="own", target="windlass.kernels.reference:planted_fault"
    )
    registry = OpRegistry(reference.REFERENCES, [planted])
    assert first_failure(op_cases(backend_with(ops=registry), "own"))


# Device and allocator


class SwapsTheNextBlock(TorchAllocator):
    def swap(
        self, source: KVPool, destination: KVPool, pairs: torch.Tensor, stream: Stream
    ) -> Event:
        wrong = pairs.clone()
        wrong[0, 0] += 1
        return super().swap(source, destination, wrong, stream)


class CopiesInTurn(TorchAllocator):
    """A destination that is a later pair's source is overwritten before it is read."""

    def copy_blocks(self, pools: Sequence[KVPool], pairs: torch.Tensor) -> None:
        for pair in pairs:
            super().copy_blocks(pools, pair[None])


class ZeroesTheFirstPoolOnly(TorchAllocator):
    def zero_blocks(self, pools: Sequence[KVPool], block_ids: torch.Tensor) -> None:
        super().zero_blocks(pools[:1], block_ids)


class LeavesOldNumbers(TorchAllocator):
    def allocate(self, nbytes: int) -> torch.Tensor:
        return torch.full((nbytes,), 1, dtype=torch.uint8)


class IgnoresAlignment(TorchAllocator):
    def reserve(self, nbytes: int, *, align: int = 256, tag: str) -> torch.Tensor:
        buffer = super().reserve(nbytes + align, align=align, tag=tag)
        return buffer[8 : 8 + nbytes]


class ForgetsTheCap(TorchAllocator):
    def kv_budget(self, profile: Any, policy: Any) -> int:
        return super().kv_budget(profile, replace(policy, cap_bytes=0))


class UntypedOutOfMemory(TorchAllocator):
    def reserve(self, nbytes: int, *, align: int = 256, tag: str) -> torch.Tensor:
        try:
            return super().reserve(nbytes, align=align, tag=tag)
        except WindlassError as error:
            raise RuntimeError(str(error)) from error


ALLOCATORS = (
    SwapsTheNextBlock,
    CopiesInTurn,
    ZeroesTheFirstPoolOnly,
    LeavesOldNumbers,
    IgnoresAlignment,
    ForgetsTheCap,
    UntypedOutOfMemory,
)


@pytest.mark.parametrize("fault", ALLOCATORS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_allocator_is_caught(fault: type[TorchAllocator]) -> None:
    right = backend_with()
    allocator = fault(right.device, right.capabilities)
    assert first_failure(device_cases(backend_with(allocator=allocator)))


def test_an_allocator_without_a_fault_passes() -> None:
    assert first_failure(device_cases(backend_with())) is None
