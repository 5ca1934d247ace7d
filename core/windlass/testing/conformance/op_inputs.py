"""The grid of calls of each op, and how a result is compared with the float32 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from windlass.kernels.reference import REFERENCES
from windlass.testing.conformance.compare import Guarded, close, guarded, short

ROWS = (1, 2, 7, 33)
"""Tokens of a call: one, a few, and odd numbers that fill no tile."""
WIDTHS = (8, 96, 1000)

Compare = Callable[[Any, Any], None]


@dataclass(frozen=True)
class Call:
    """One call of an op, its reference in float32, and what must not change.

    `compare(found, expected)` fails when a result is wrong. `guards` are inputs that the op may
    not write; `written` are positions of arguments that it changes, compared too.
    """

    op: str
    name: str
    args: tuple[Any, ...]
    reference_args: tuple[Any, ...]
    compare: Compare
    guards: dict[str, Guarded] = field(default_factory=dict)
    written: tuple[int, ...] = ()


class Maker:
    """Makes tensors on a device from one seed."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Normal numbers of the dtype."""
        return (torch.randn(shape, generator=self.generator) * scale).to(self.device, self.dtype)

    def uniform(self, *shape: int) -> torch.Tensor:
        """float32 in [0, 1)."""
        return torch.rand(shape, generator=self.generator).to(self.device)

    def integers(
        self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64
    ) -> torch.Tensor:
        """Integers in [low, high)."""
        numbers = torch.randint(low, high, shape, generator=self.generator)
        return numbers.to(self.device, dtype)


def _on_host(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies on the host, floats widened: what the reference computes with."""

    def copy(value: Any) -> Any:  # noqa: ANN401 - an op's argument
        if not isinstance(value, torch.Tensor):
            return value
        host = value.detach().cpu().clone()
        return host.float() if host.is_floating_point() else host

    return tuple(copy(value) for value in args)


def expected(call: Call) -> tuple[Any, tuple[Any, ...]]:
    """What the reference returns, and its arguments as they are afterwards."""
    args = tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in call.reference_args)
    return REFERENCES[call.op](*args), args


def make_call(
    op: str,
    name: str,
    args: tuple[Any, ...],
    compare: Compare,
    *,
    written: tuple[int, ...] = (),
    guards: dict[str, Guarded] | None = None,
) -> Call:
    """A call whose reference gets copies of the arguments as they are now."""
    return Call(op, name, args, _on_host(args), compare, guards or {}, written)


def _all_close(dtype: torch.dtype, found: Any, wanted: Any) -> None:  # noqa: ANN401
    if isinstance(wanted, torch.Tensor):
        found, wanted = (found,), (wanted,)
    assert len(found) == len(wanted), f"{len(found)} results, not {len(wanted)}"
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype, f"a result is {short(one.dtype)}, not {short(dtype)}"
        close(one, other, dtype)


def _shapes(strides: bool = True) -> Iterator[tuple[int, int, bool]]:
    for rows in ROWS:
        for width in WIDTHS:
            yield rows, width, False
    if strides:
        yield 7, 96, True
        yield 1, 64, True
    yield 257, 512, False


def _label(rows: int, width: int, strided: bool) -> str:
    return f"{rows}x{width}" + (" strided" if strided else "")


def _rms_norm(make: Maker) -> Iterator[Call]:
    compare = partial(_all_close, make.dtype)
    for rows, width, strided in _shapes():
        x = guarded(make.normal(rows, width), strided=strided)
        weight = guarded(make.normal(width)[None])
        args = (x.inside, weight.inside[0], 1e-5)
        guards = {"x": x, "weight": weight}
        yield make_call("rms_norm", _label(rows, width, strided), args, compare, guards=guards)
    # Numbers so small that eps decides, and a row of zeros.
    x = guarded(make.normal(3, 96, scale=1e-3))
    x.inside[1] = 0
    x.before.copy_(x.whole)
    args = (x.inside, make.normal(96), 1e-5)
    yield make_call("rms_norm", "eps decides", args, compare, guards={"x": x})
    heads = guarded(make.normal(7, 3, 64))
    args = (heads.inside, make.normal(64), 1e-6)
    yield make_call("rms_norm", "heads", args, compare, guards={"x": heads})


def _add_rms_norm(make: Maker) -> Iterator[Call]:
    # The norm is of the rounded sum, so one rounding more lies before it.
    compare = partial(_all_close, make.dtype)
    for rows, width, strided in _shapes():
        x = guarded(make.normal(rows, width), strided=strided)
        residual = guarded(make.normal(rows, width), strided=strided)
        args = (x.inside, residual.inside, make.normal(width), 1e-5)
        guards = {"x": x, "residual": residual}
        yield make_call("add_rms_norm", _label(rows, width, strided), args, compare, guards=guards)
    tiny = (make.normal(3, 96, scale=1e-3), make.normal(3, 96, scale=1e-3))
    yield make_call("add_rms_norm", "eps decides", (*tiny, make.normal(96), 1e-5), compare)


def _silu_mul(make: Maker) -> Iterator[Call]:
    compare = partial(_all_close, make.dtype)
    for rows, width, strided in _shapes():
        x = guarded(make.normal(rows, 2 * width, scale=2.0), strided=strided)
        yield make_call(
            "silu_mul", _label(rows, width, strided), (x.inside,), compare, guards={"x": x}
        )
    gate = torch.tensor([-1e4, -120.0, -88.0, 0.0, 88.0, 120.0, 1e4])
    x = guarded(torch.cat((gate, torch.ones(7)))[None].to(make.device, make.dtype))
    yield make_call("silu_mul", "extreme numbers", (x.inside,), compare, guards={"x": x})


def _rope(make: Maker) -> Iterator[Call]:
    compare = partial(_all_close, make.dtype)
    heads = ((1, 1), (4, 2), (7, 1))
    for rows in ROWS:
        for num_heads, num_kv_heads in heads:
            for head_dim, rotated in ((64, 64), (80, 40), (128, 128)):
                qkv = guarded(make.normal(rows, num_heads + 2 * num_kv_heads, head_dim))
                query, key, _ = qkv.inside.split_with_sizes(
                    [num_heads, num_kv_heads, num_kv_heads], dim=1
                )
                angle = make.uniform(90, rotated // 2) * 6.28
                table = torch.cat((angle.cos(), angle.sin()), dim=1)
                args = (query, key, make.integers(0, 90, rows), table)
                name = f"{rows} tokens, heads {num_heads}/{num_kv_heads}, {rotated} of {head_dim}"
                yield make_call("rope", name, args, compare, guards={"query or key": qkv})


def _pack_weight(make: Maker) -> Iterator[Call]:
    for quantization in (None, "int8", "int4", "fp8"):
        for width, out in ((64, 48), (256, 130)):
            for rows in (1, 3, 33):
                weight = make.normal(out, width, scale=width**-0.5)
                x = guarded(make.normal(rows, width))
                bias = make.normal(out) if rows != 3 else None
                compare = partial(_same_products, make.dtype, quantization, x.inside, bias)
                name = f"{quantization or 'plain'} {out}x{width}, {rows} tokens"
                args = (weight, quantization)
                yield make_call("pack_weight", name, args, compare, guards={"x": x})


def _same_products(
    dtype: torch.dtype,
    quantization: str | None,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    found: Any,  # noqa: ANN401
    wanted: Any,  # noqa: ANN401
) -> None:
    right = wanted.apply_float(x.cpu().float(), None if bias is None else bias.cpu().float())
    for result, kind in ((found.apply(x, bias), dtype), (found.apply_float(x, bias), None)):
        if kind is not None:
            assert result.dtype == dtype, f"apply gives {short(result.dtype)}, not {short(dtype)}"
        else:
            assert result.dtype == torch.float32, f"apply_float gives {short(result.dtype)}"
        if quantization is None:
            close(result, right, dtype)
        else:
            # Activations may be rounded by row too: a part in 250 of a row's largest number.
            close(result, right, torch.bfloat16, factor=4.0)
    assert (found.out_features, found.in_features) == (wanted.out_features, wanted.in_features)
    if found.keeps_rows:
        ids = torch.tensor([0, found.out_features - 1], device=x.device)
        close(found.rows(ids).float(), wanted.rows(ids.cpu()), dtype, factor=0.0)


def _route_experts(make: Maker) -> Iterator[Call]:
    for rows in ROWS:
        for experts, top_k in ((4, 2), (8, 1), (60, 4)):
            for renormalize in (False, True):
                logits = guarded(make.normal(rows, experts))
                args = (logits.inside, top_k, renormalize)
                compare = partial(_same_routes, logits.inside, renormalize)
                name = f"{rows} tokens, {top_k} of {experts}" + (", sum 1" if renormalize else "")
                yield make_call("route_experts", name, args, compare, guards={"logits": logits})


def _same_routes(logits: torch.Tensor, renormalize: bool, found: Any, wanted: Any) -> None:  # noqa: ANN401
    """Experts of equal probability may stand for each other, so weights are looked up by id."""
    (weights, ids), (right, _) = found, wanted
    assert weights.dtype == torch.float32, f"weights are {short(weights.dtype)}"
    assert ids.dtype == torch.int32, f"ids are {short(ids.dtype)}"
    # Sorted, for the contract asks for no order of a token's experts.
    close(weights.sort(-1).values, right.sort(-1).values, torch.float32)
    chosen = ids.cpu().long()
    assert bool((chosen.sort(-1).values.diff(dim=-1) > 0).all()), "an expert is chosen twice"
    probabilities = logits.cpu().softmax(-1, dtype=torch.float32).gather(-1, chosen)
    if renormalize:
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    close(weights, probabilities, torch.float32)


def _pack_experts(make: Maker) -> Iterator[Call]:
    for rows in (1, 7, 33):
        for experts, top_k, hidden, inner in ((4, 2, 64, 96), (8, 1, 64, 32)):
            gate_up = make.normal(experts, 2 * inner, hidden, scale=hidden**-0.5)
            down = make.normal(experts, hidden, inner, scale=inner**-0.5)
            x = guarded(make.normal(rows, hidden))
            weights = make.uniform(rows, top_k)
            order = make.uniform(rows, experts).argsort(-1)[:, :top_k]
            compare = partial(_same_mixture, make.dtype, x.inside, weights, order.int())
            name = f"{rows} tokens, {top_k} of {experts}"
            yield make_call("pack_experts", name, (gate_up, down, None), compare, guards={"x": x})


def _same_mixture(
    dtype: torch.dtype,
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    found: Any,  # noqa: ANN401
    wanted: Any,  # noqa: ANN401
) -> None:
    result = found.apply(x, weights, ids)
    assert result.dtype == dtype, f"apply gives {short(result.dtype)}, not {short(dtype)}"
    # What lies between the two products is rounded to the dtype as well.
    close(result, wanted.apply(x.cpu().float(), weights.cpu(), ids.cpu()), dtype, factor=2.0)


CALLS: dict[str, Callable[[Maker], Iterator[Call]]] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "silu_mul": _silu_mul,
    "rope": _rope,
    "pack_weight": _pack_weight,
    "route_experts": _route_experts,
    "pack_experts": _pack_experts,
}
"""Ops of the model's dtype; those of sampling and of a step are in `step_inputs`."""
