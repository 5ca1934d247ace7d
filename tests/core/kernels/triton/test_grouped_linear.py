"""Experts as grouped products equal the reference, whoever chooses whom."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels.experts import DenseExperts, route_experts
from windlass.kernels.triton.grouped_linear import ExpertsConfig, GroupedConfig, grouped_experts
from windlass.kernels.triton.launch import RowConfig
from windlass.kernels.triton.routing import RouteConfig, most_tiles, plan_tiles, route

TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def config(block_m: int, *, planned: bool, swap: bool, group: int = 2) -> ExpertsConfig:
    product = GroupedConfig(block_n=32, block_k=32, group=group, swap=swap)
    return ExpertsConfig(
        block_m=block_m,
        plan=RowConfig(block=32) if planned else None,
        gate_up=product,
        down=product,
        total=RowConfig(block=32),
    )


def distance(
    tokens: int,
    experts: int,
    top_k: int,
    sizes: tuple[int, int],
    config: ExpertsConfig,
    dtype: torch.dtype,
    device: torch.device,
    popular: int = 0,
) -> float:
    """Largest difference from the reference in float64, by the largest result.

    With `popular` every token goes to as many of the first experts, if they have so many.
    """
    generator = torch.Generator().manual_seed(tokens * experts + top_k)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(device)

    hidden, intermediate = sizes
    x = random(tokens, hidden)
    gate_up = random(experts, 2 * intermediate, hidden, scale=hidden**-0.5)
    down = random(experts, hidden, intermediate, scale=intermediate**-0.5)
    logits = torch.randn(tokens, experts, generator=generator)
    logits[:, :popular] += 100
    weights, ids = (part.to(device) for part in route_experts(logits, top_k, True))
    found = grouped_experts(x, gate_up, down, weights, ids, config)
    assert found.shape == x.shape
    assert found.dtype is dtype
    exact = DenseExperts(gate_up.double().cpu(), down.double().cpu())
    expected = exact.apply(x.double().cpu(), weights.double().cpu(), ids.cpu())
    return float((found.cpu().double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "popular", "planned", "swap"),
    [(1, 6, 2, 0, False, True), (5, 4, 3, 0, False, False), (16, 3, 1, 1, False, True),
     (1, 4, 4, 0, True, True), (21, 5, 2, 1, True, False), (40, 3, 1, 0, True, True)],
)  # fmt: skip
def test_every_token_gets_the_weighted_sum_of_its_experts(
    tokens: int, experts: int, top_k: int, popular: int, planned: bool, swap: bool,
    device: torch.device, dtypes: tuple[torch.dtype, ...],
) -> None:  # fmt: skip
    how = config(16, planned=planned, swap=swap)
    # Sizes that the tiles divide, and others.
    for dtype, sizes in zip(dtypes, ((40, 24), (64, 32), (64, 24)), strict=False):
        far = distance(tokens, experts, top_k, sizes, how, dtype, device, popular)
        assert far < TOLERANCE[dtype]


def test_tall_tiles_take_many_rows_of_an_expert(device: torch.device) -> None:
    how = config(64, planned=True, swap=False, group=3)
    assert distance(100, 2, 1, (32, 16), how, torch.float32, device) < TOLERANCE[torch.float32]


def test_nothing_is_left_over_from_before(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the intermediate tensors hold at first is never read."""
    empty = torch.empty

    def poisoned(*shape: int, **options: object) -> torch.Tensor:
        tensor = empty(*shape, **options)  # type: ignore[call-overload]
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 1 << 30)

    monkeypatch.setattr(torch, "empty", poisoned)
    for tokens, planned in ((5, False), (19, True)):
        how = config(16, planned=planned, swap=True)
        assert (
            distance(tokens, 7, 2, (32, 40), how, torch.float32, device) < TOLERANCE[torch.float32]
        )


def test_more_tokens_than_a_tile_has_rows_need_a_plan(device: torch.device) -> None:
    how = config(16, planned=False, swap=True)
    with pytest.raises(ValueError, match="17 tokens in tiles of 16 need a plan"):
        distance(17, 4, 2, (32, 32), how, torch.float32, device)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tokens=st.integers(1, 60),
    experts=st.integers(1, 12),
    top_k=st.integers(1, 4),
    block_m=st.sampled_from([16, 32]),
    seed=st.integers(0, 99),
)
def test_a_plan_holds_every_choice_once_in_tiles_of_one_expert(
    device: torch.device, tokens: int, experts: int, top_k: int, block_m: int, seed: int
) -> None:
    top_k = min(top_k, experts)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(tokens, experts, generator=generator).topk(top_k).indices.to(torch.int32)
    bound = most_tiles(ids.numel(), experts, block_m)
    plan = plan_tiles(ids.to(device), experts, block_m, bound, RowConfig(block=64)).tolist()
    choices, tiles = plan[: ids.numel()], plan[ids.numel() :]
    assert sorted(choices) == list(range(ids.numel()))
    seen = []
    marked = False
    for expert, start, end in zip(
        tiles[:bound], tiles[bound : 2 * bound], tiles[2 * bound :], strict=True
    ):
        marked = marked or expert < 0
        assert (expert < 0) == marked
        if not marked:
            rows = choices[start : min(end, start + block_m)]
            assert rows
            assert all(ids.flatten()[row] == expert for row in rows)
            seen += rows
    assert sorted(seen) == list(range(ids.numel()))


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (5, 5), (60, 4), (128, 8)])
@pytest.mark.parametrize("renormalize", [False, True])
def test_tokens_go_to_their_most_probable_experts(
    experts: int, top_k: int, renormalize: bool, device: torch.device,
    dtypes: tuple[torch.dtype, ...],
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(experts)
    for dtype in dtypes:
        # All numbers of a row are different, so that there is one right order.
        order = torch.stack([torch.randperm(experts, generator=generator) for _ in range(7)])
        logits = ((order - experts // 2) / 16).to(dtype).to(device)
        weights, ids = route(logits, top_k, renormalize, RouteConfig(tokens=4))
        expected_weights, expected_ids = route_experts(logits, top_k, renormalize)
        assert ids.dtype == torch.int32
        assert torch.equal(ids, expected_ids)
        torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_whatever_the_logits_are_the_ids_are_experts_and_differ(
    bad: float, device: torch.device
) -> None:
    logits = torch.zeros(3, 5, device=device)
    logits[0] = bad
    logits[1, 2] = bad
    _, ids = route(logits, 3, True, RouteConfig(tokens=2))
    for row in ids.tolist():
        assert len(set(row)) == 3
        assert all(0 <= expert < 5 for expert in row)
