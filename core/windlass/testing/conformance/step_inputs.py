"""The grids of the ops around a step: sampling on float32 logits, and the request table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from windlass.testing.conformance.compare import close, equal, guarded, short
from windlass.testing.conformance.op_inputs import ROWS, Call, Maker, make_call

VOCABULARIES = (5, 301, 4099)


def _same(may_differ: int, found: Any, wanted: Any) -> None:  # noqa: ANN401 - an op's results
    """Floats within float32's tolerance, integers alike in all rows but `may_differ`."""
    if isinstance(wanted, torch.Tensor):
        found, wanted = (found,), (wanted,)
    assert len(found) == len(wanted), f"{len(found)} results, not {len(wanted)}"
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype, f"a result is {short(one.dtype)}, not {short(other.dtype)}"
        if other.is_floating_point():
            close(one, other, torch.float32)
        else:
            equal(one, other, may_differ=may_differ)


EXACT = partial(_same, 0)
# A token at the border of top_p or of its neighbour depends on the order in which masses are added.
ALMOST = partial(_same, 1)


def _grid(make: Maker) -> Iterator[tuple[int, int, torch.Tensor, dict[str, Any]]]:
    for rows in ROWS:
        for vocabulary in VOCABULARIES:
            logits = guarded(make.normal(rows, vocabulary, scale=3.0))
            yield rows, vocabulary, logits.inside, {"logits": logits}


def _penalties(make: Maker) -> Iterator[Call]:
    for rows, vocabulary, logits, guards in _grid(make):
        prompt = make.uniform(rows, vocabulary) < 0.3
        counts = make.integers(0, 3, rows, vocabulary, dtype=torch.int32)
        factors = (make.uniform(rows) + 0.5, make.uniform(rows), make.uniform(rows) - 0.5)
        args = (logits, prompt, counts, *factors)
        yield make_call("penalties", f"{rows}x{vocabulary}", args, EXACT, guards=guards)


def _apply_token_mask(make: Maker) -> Iterator[Call]:
    for rows, vocabulary, logits, guards in _grid(make):
        words = -(-vocabulary // 32)
        mask = make.integers(-(2**31), 2**31 - 1, rows, words, dtype=torch.int32)
        mask[0] = -1  # a row of which every token is allowed
        args = (logits, mask)
        yield make_call("apply_token_mask", f"{rows}x{vocabulary}", args, EXACT, guards=guards)


def _greedy(make: Maker) -> Iterator[Call]:
    for rows, vocabulary, logits, guards in _grid(make):
        yield make_call("greedy", f"{rows}x{vocabulary}", (logits,), EXACT, guards=guards)
    ties = torch.zeros(3, 301, device=make.device)
    ties[1, 7] = ties[1, 300] = 2.0
    yield make_call("greedy", "ties: the first", (ties,), EXACT)
    bad = torch.zeros(2, 301, device=make.device)
    bad[1, 100] = torch.nan
    yield make_call("greedy", "NaN", (bad,), lambda found, right: EXACT(found[:1], right[:1]))


def _sample(make: Maker) -> Iterator[Call]:
    for rows, vocabulary, logits, guards in _grid(make):
        for kind in ("plain", "greedy rows", "top_k", "top_p", "min_p", "all"):
            temperature = make.uniform(rows) + 0.3
            if kind in ("greedy rows", "all"):
                temperature[:: 2 if kind == "greedy rows" else 5] = 0
            top_k = (
                make.integers(0, 9, rows, dtype=torch.int32) if kind in ("top_k", "all") else None
            )
            top_p = make.uniform(rows) * 0.9 + 0.05 if kind in ("top_p", "all") else None
            min_p = make.uniform(rows) * 0.2 if kind in ("min_p", "all") else None
            seed = make.integers(0, 2**62, rows)
            position = make.integers(0, 9999, rows)
            args = (logits, temperature, top_k, top_p, min_p, seed, position)
            compare = EXACT if rows < 7 else ALMOST
            name = f"{kind} {rows}x{vocabulary}"
            yield make_call("sample", name, args, compare, guards=guards)


def _token_logprobs(make: Maker) -> Iterator[Call]:
    for rows, vocabulary, logits, guards in _grid(make):
        for num_top in (0, 1, 5):
            args = (logits, make.integers(0, vocabulary, rows), num_top)
            name = f"{rows}x{vocabulary}, top {num_top}"
            yield make_call("token_logprobs", name, args, EXACT, guards=guards)


def _begin_decode(make: Maker) -> Iterator[Call]:
    table_rows = 17
    for rows in (1, 3, 16):
        for slot_dtype in (torch.int64, torch.int32):
            for block_size, columns in ((16, 6), (64, 2)):
                chosen = make.uniform(table_rows - 1).argsort()[:rows].int()
                chosen[rows // 2 + 1 :: 3] = table_rows - 1  # padding, many times
                table = make.integers(1, 99, table_rows, 8, dtype=torch.int32)
                position = make.integers(0, block_size * columns - 1, table_rows)
                position[-1] = 0
                tokens = make.integers(0, 999, table_rows)
                args = (chosen, tokens, position, table, columns, block_size, slot_dtype)
                name = f"{rows} rows, blocks of {block_size}, {short(slot_dtype)} slots"
                yield make_call("begin_decode", name, args, EXACT, written=(2,))


def _next_tokens(make: Maker) -> Iterator[Call]:
    table_rows = 40
    for rows, vocabulary, logits, guards in _grid(make):
        chosen = make.uniform(table_rows - 1).argsort()[:rows].int()
        temperature = make.uniform(table_rows) + 0.3
        temperature[::3] = 0
        args = (
            logits,
            chosen,
            make.integers(0, 5, table_rows),
            make.integers(0, 9999, table_rows),
            temperature,
            make.integers(0, 9, table_rows, dtype=torch.int32),
            make.uniform(table_rows) * 0.9 + 0.05,
            make.uniform(table_rows) * 0.2,
            make.integers(0, 2**62, table_rows),
        )
        compare = EXACT if rows < 7 else ALMOST
        name = f"{rows}x{vocabulary}"
        yield make_call("next_tokens", name, args, compare, written=(2,), guards=guards)


STEP_CALLS: dict[str, Callable[[Maker], Iterator[Call]]] = {
    "penalties": _penalties,
    "apply_token_mask": _apply_token_mask,
    "greedy": _greedy,
    "sample": _sample,
    "token_logprobs": _token_logprobs,
    "begin_decode": _begin_decode,
    "next_tokens": _next_tokens,
}
"""Ops whose numbers are float32 in every model."""
