"""L2: every op of the backend, with one provider preferred, against the float32 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from windlass.backend import Backend
from windlass.backend.ops import REFERENCE, Candidate, Op
from windlass.testing.conformance.cases import Case, Skipped, expect
from windlass.testing.conformance.compare import equal, poison, short
from windlass.testing.conformance.op_inputs import CALLS, Call, Maker, expected
from windlass.testing.conformance.step_inputs import STEP_CALLS


def providers(backend: Backend) -> list[str]:
    """Every provider that an op of the backend has, the reference last."""
    names = {candidate.name: None for op in backend.ops for candidate in op.candidates}
    names.pop(REFERENCE, None)
    return [*names, REFERENCE]


def op_cases(backend: Backend, provider: str) -> Iterator[Case]:
    """The cases of L2 for the ops that `provider` has."""
    for op in backend.ops:
        candidate = next((c for c in op.candidates if c.name == provider), None)
        if candidate is None:
            continue
        if candidate.function is None:
            yield Case(op.name, partial(_skip, candidate.rejected), provider)
        elif op.name in STEP_CALLS:
            yield from _grid(backend, op, candidate, STEP_CALLS[op.name], torch.float32)
        elif op.name in CALLS:
            for dtype in backend.capabilities.dtypes:
                yield from _grid(backend, op, candidate, CALLS[op.name], dtype)
        else:
            yield Case(op.name, partial(_skip, "the kit has no calls for this op"), provider)


def _skip(reason: str) -> None:
    raise Skipped(reason)


def _grid(
    backend: Backend,
    op: Op,
    candidate: Candidate,
    calls: Callable[[Maker], Iterator[Call]],
    dtype: torch.dtype,
) -> Iterator[Case]:
    for call in calls(Maker(backend.device.torch_device, dtype)):
        name = f"{op.name} {short(dtype)} {call.name}"
        yield Case(name, partial(_check, backend, op, candidate, call), candidate.name)


def _check(backend: Backend, op: Op, candidate: Candidate, call: Call) -> None:
    """Run the provider, or, where it refuses the call, what the registry then runs."""
    function, refusal = candidate.function, ""
    assert function is not None
    if candidate.supports is not None:
        refusal = candidate.supports(*call.args).reason
    if refusal:
        # The registry asks again: what it runs must not be the provider that refused.
        function = Op(op.name, [_unless_called(candidate, refusal), *_after(op, candidate)])
    wanted, wanted_args = expected(call)
    poison(_outputs(wanted, call.args[0]))
    with torch.inference_mode():
        found = function(*call.args)
        backend.device.synchronize()
        call.compare(found, wanted)
    for place in call.written:
        equal(call.args[place], wanted_args[place], may_differ=_allowed(call))
    for name, guard in call.guards.items():
        guard.expect_unchanged(name)
    _expect_untouched(call)
    if refusal:
        raise Skipped(f"it refuses this call ({refusal}); what runs instead is right")


def _after(op: Op, candidate: Candidate) -> list[Candidate]:
    return [other for other in op.candidates if other is not candidate]


def _unless_called(candidate: Candidate, refusal: str) -> Candidate:
    def called(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any op
        raise AssertionError(f"it was called though it refuses ({refusal})")

    return Candidate(candidate.name, called, candidate.supports)


def _allowed(call: Call) -> int:
    # `next_tokens` enters what `sample` chose; begin_decode's positions are exact.
    return 1 if call.op == "next_tokens" and len(call.args[0]) >= 7 else 0


def _outputs(wanted: Any, like: torch.Tensor) -> list[torch.Tensor]:  # noqa: ANN401
    """Tensors of the shapes that the op will return, beside its first argument."""
    results = wanted if isinstance(wanted, tuple) else (wanted,)
    shapes = [x.shape for x in results if isinstance(x, torch.Tensor)]
    return [like.new_empty(shape) for shape in shapes]


def _expect_untouched(call: Call) -> None:
    """Arguments are as they were; a weight is given away, so it may be anything."""
    if call.op in ("pack_weight", "pack_experts"):
        return
    for place, (now, before) in enumerate(zip(call.args, call.reference_args, strict=True)):
        if not isinstance(now, torch.Tensor) or place in call.written:
            continue
        same = torch.equal(now.cpu().to(before.dtype).nan_to_num(), before.nan_to_num())
        expect(same, f"its argument {place} was written")
