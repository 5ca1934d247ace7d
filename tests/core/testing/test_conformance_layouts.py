"""Layouts that are no permutation of the axes: proved like any other, and faults in them caught."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from windlass.backend import (
    BackendConfig,
    KVLayout,
    KVPool,
    KVSpec,
    TorchAttention,
    TorchBackend,
)
from windlass.kernels.kv_quantization import indexable, quantize_kv
from windlass.plugin import BackendSpec
from windlass.testing.conformance.attention import attention_cases
from windlass.testing.conformance.cases import Case, Outcome, check_all
from windlass.testing.conformance.device import device_cases

SPEC = BackendSpec(name="packed", target="", device_type="cpu", priority=1)
HOST = TorchBackend(SPEC, BackendConfig()).capabilities
PACKET = 8


@dataclass(frozen=True, kw_only=True)
class PacketsOfKeys(KVLayout):
    """Keys `[B, H, C / x, N, x]`: x numbers of a key lie together, then those of the next token.

    Values `[B, H, C, N]`: a channel of all tokens lies together.
    """

    canonical: bool = False

    def views(
        self, buffer: torch.Tensor, spec: KVSpec, num_layers: int, num_blocks: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        numbers = buffer[self._scale_bytes(spec, num_layers, num_blocks) :].view(spec.dtype)
        sides = (2, num_layers, num_blocks, spec.num_kv_heads)
        keys, values = numbers.view(*sides, spec.head_dim, self.block_size).unbind(0)
        packets = (spec.head_dim // PACKET, self.block_size, PACKET)
        return list(keys.view(*keys.shape[:3], *packets).unbind(0)), list(values.unbind(0))


def plain(pool: KVPool, layer: int) -> KVPool:
    """A copy of one layer in the canonical form, as layer 0 of a pool."""
    key, value = indexable(pool.keys[layer]), indexable(pool.values[layer])
    keys = key.permute(0, 3, 1, 2, 4).flatten(3).contiguous()
    values = value.permute(0, 3, 1, 2).contiguous()
    has_scales = pool.spec.has_scales
    return replace(
        pool,
        layout=KVLayout(block_size=pool.block_size),
        num_layers=1,
        keys=[keys.view(pool.spec.dtype)],
        values=[values.view(pool.spec.dtype)],
        key_scales=[pool.key_scales[layer]] if has_scales else [],
        value_scales=[pool.value_scales[layer]] if has_scales else [],
    )


class PacketAttention(TorchAttention):
    """Writes packets; reads a copy in the canonical form."""

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        if pool.layout.canonical:
            return super().write_kv(pool, layer, key, value, slot_mapping)
        slots = slot_mapping.clamp(min=0).long()
        blocks, offsets = slots // pool.block_size, slots % pool.block_size
        keys, key_scales = quantize_kv(key, pool.spec.dtype)
        values, value_scales = quantize_kv(value, pool.spec.dtype)
        packets = indexable(keys).unflatten(-1, (-1, PACKET))
        indexable(pool.keys[layer])[blocks, :, :, offsets] = packets
        indexable(pool.values[layer])[blocks, :, :, offsets] = indexable(values)
        if key_scales is not None and value_scales is not None:
            pool.key_scales[layer][blocks, offsets] = key_scales
            pool.value_scales[layer][blocks, offsets] = value_scales
        return None

    def run(self, pool: KVPool, layer: int, *rest: Any) -> None:
        if pool.layout.canonical:
            return super().run(pool, layer, *rest)
        return super().run(plain(pool, layer), 0, *rest)

    def export_blocks(self, pool: KVPool, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
        if pool.layout.canonical:
            return super().export_blocks(pool, layer, block_ids)
        return super().export_blocks(plain(pool, layer), 0, block_ids)

    def import_blocks(
        self, pool: KVPool, layer: int, block_ids: torch.Tensor, blocks: torch.Tensor
    ) -> None:
        if pool.layout.canonical:
            return super().import_blocks(pool, layer, block_ids, blocks)
        copy = plain(pool, layer)
        super().import_blocks(copy, 0, block_ids, blocks)
        keys, values = indexable(copy.keys[0]), indexable(copy.values[0])
        packets = keys.unflatten(-1, (-1, PACKET)).permute(0, 2, 3, 1, 4)
        indexable(pool.keys[layer]).copy_(packets)
        indexable(pool.values[layer]).copy_(values.permute(0, 2, 3, 1))
        return None


class PacketBackend(TorchBackend):
    """Prefers packets; the second layout is head-major."""

    default_capabilities = replace(HOST, dtypes=(torch.float32,))

    def __init__(self, attention: TorchAttention) -> None:
        super().__init__(SPEC, BackendConfig())
        self.attention = attention

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        return (PacketsOfKeys(), KVLayout(order="LBHNC"))


def outcomes(cases: Iterable[Case]) -> Iterator[Outcome]:
    """For speed only of grouped heads: how many there are is not a matter of the layout."""
    heads = ("MHA", "MQA", "odd groups", "group of 7")
    few = (case for case in cases if not any(name in case.name for name in heads))
    yield from check_all("L", few)


def test_packets_pass_and_nothing_of_them_is_skipped_but_what_is_canonical() -> None:
    found = list(outcomes(attention_cases(PacketBackend(PacketAttention()))))
    assert [outcome for outcome in found if outcome.status == "failed"] == []
    reasons = {outcome.reason for outcome in found if outcome.status == "skipped"}
    assert reasons == {
        "layout PacketsOfKeys has blocks of 16",
        "segments are of canonical layouts; others leave by export_blocks",
    }


def test_blocks_of_packets_are_copied_zeroed_and_swapped() -> None:
    found = outcomes(device_cases(PacketBackend(PacketAttention())))
    assert {outcome.status for outcome in found} == {"passed"}


def test_every_layout_of_a_backend_is_proved() -> None:
    backend = PacketBackend(PacketAttention())
    cases = [case.name for case in (*attention_cases(backend), *device_cases(backend))]
    second = [name for name in cases if name.endswith(", layout LBHNC split of 16")]
    assert any("decode" in name for name in second)
    assert any("write_kv" in name for name in second)
    assert any("copy_blocks" in name for name in second)


class ExportsPacketsAsTheyLie(PacketAttention):
    """The same numbers in the right shape, but a token's are not together."""

    def export_blocks(self, pool: KVPool, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
        blocks = super().export_blocks(pool, layer, block_ids)
        if pool.layout.canonical or pool.spec.has_scales:
            return blocks
        keys = indexable(pool.keys[layer])[block_ids].transpose(1, 2)
        blocks[:, 0] = keys.reshape(blocks[:, 0].shape)
        return blocks


class ExportsInTheOrderOfMemory(PacketAttention):
    def export_blocks(self, pool: KVPool, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
        return super().export_blocks(pool, layer, block_ids.sort().values)


class ImportsKeysOnly(PacketAttention):
    def import_blocks(
        self, pool: KVPool, layer: int, block_ids: torch.Tensor, blocks: torch.Tensor
    ) -> None:
        kept = [side.clone() for side in pool.values]
        super().import_blocks(pool, layer, block_ids, blocks)
        if not pool.layout.canonical:
            pool.values[layer].copy_(kept[layer])


class WritesThePacketsBackwards(PacketAttention):
    """Reads them back the same way, so that only what is stored is wrong."""

    def write_kv(self, pool: KVPool, layer: int, key: Any, value: Any, slot_mapping: Any) -> None:
        super().write_kv(pool, layer, key.flip(-1), value, slot_mapping)

    def run(self, pool: KVPool, layer: int, query: torch.Tensor, *rest: Any) -> None:
        super().run(pool, layer, query.flip(-1), *rest)


class ReadsPacketsOfAnotherSize(PacketAttention):
    def run(self, pool: KVPool, layer: int, *rest: Any) -> None:
        if pool.layout.canonical:
            return super().run(pool, layer, *rest)
        keys = list(pool.keys)
        blocks, heads, packets, size, _ = keys[layer].shape
        halves = keys[layer].reshape(blocks, heads, packets * 2, size, PACKET // 2)
        wrong = halves.transpose(3, 4).reshape(keys[layer].shape)
        keys[layer] = wrong
        return super().run(replace(pool, keys=keys), layer, *rest)


class ValuesByTokenNotByChannel(PacketAttention):
    """Takes the values' block for `[N, C]`."""

    def run(self, pool: KVPool, layer: int, *rest: Any) -> None:
        if pool.layout.canonical:
            return super().run(pool, layer, *rest)
        values = list(pool.values)
        blocks, heads, channels, size = values[layer].shape
        turned = indexable(values[layer]).reshape(blocks, heads, size, channels).transpose(2, 3)
        values[layer] = turned.contiguous().view(pool.spec.dtype)
        return super().run(replace(pool, values=values), layer, *rest)


LAYOUTS = (
    ExportsPacketsAsTheyLie,
    ExportsInTheOrderOfMemory,
    ImportsKeysOnly,
    WritesThePacketsBackwards,
    ReadsPacketsOfAnotherSize,
    ValuesByTokenNotByChannel,
)


@pytest.mark.parametrize("fault", LAYOUTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_a_layout_is_caught(fault: type[PacketAttention]) -> None:
    found = outcomes(attention_cases(PacketBackend(fault())))
    assert any(outcome.status == "failed" for outcome in found)
