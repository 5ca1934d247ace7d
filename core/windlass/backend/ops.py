"""The op registry: for each op the best provider that supports the call, or the reference.

The reference of every op is plain torch (`windlass.kernels.reference`). Providers are tried in
the order the user gave, then by falling priority; each may say through `supports` why it cannot
take a call. A provider whose import fails is left out with one warning; an exception *inside* a
provider is never swallowed.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from windlass.backend.capabilities import Support
from windlass.errors import ConfigError, PluginError
from windlass.plugin.spec import OpProvider

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
REFERENCE = "reference"


@dataclass(frozen=True)
class Candidate:
    """A provider that was loaded, or the reason why it was not."""

    name: str
    function: Function | None
    supports: Callable[..., Support] | None = None
    rejected: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnOp:
    """An op that a backend brings for its own device: functions, where an `OpProvider` has names.

    `supports` and `priority` are as in an `OpProvider`.
    """

    op: str
    name: str
    function: Function
    supports: Callable[..., Support] | None = None
    priority: int = 0


class Op:
    """One op with its candidates in order; calling it runs the first that supports the call.

    The choice is made once per static key: dtype and last size of each tensor argument, and the
    value of every other argument.
    """

    def __init__(self, name: str, candidates: Sequence[Candidate]):
        self.name = name
        self.candidates = tuple(candidates)
        self._choices: dict[Hashable, Function] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run the first provider that supports the call."""
        key = (*map(_static, args), *((k, _static(v)) for k, v in sorted(kwargs.items())))
        function = self._choices.get(key)
        if function is None:
            function = self._choices[key] = self._choose(args, kwargs)
        return function(*args, **kwargs)

    def _choose(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Function:
        reasons = []
        for candidate in self.candidates:
            if candidate.function is None:
                continue
            support = candidate.supports(*args, **kwargs) if candidate.supports else Support()
            if support:
                return candidate.function
            reasons.append(f"{candidate.name}: {support.reason}")
        raise PluginError(f"no provider of op {self.name!r} takes this call ({'; '.join(reasons)})")

    @property
    def direct(self) -> Function | None:
        """The provider when it takes every call, so that no choice is left to make."""
        first = next((c for c in self.candidates if c.function is not None), None)
        return first.function if first is not None and first.supports is None else None


def _static(value: Any) -> Hashable:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.shape[-1] if value.dim() else 0)
    return value if isinstance(value, Hashable) else id(type(value))


class OpRegistry:
    """The ops of one backend, as attributes: `ops.rms_norm(x, weight, eps)`.

    `references` maps each op to its torch reference, `own` are the backend's, `providers` those of
    plugins; `order` maps an op to provider names in the user's order of preference.

    Raises:
        ConfigError: `order` names an op or a provider that does not exist.
    """

    def __init__(
        self,
        references: Mapping[str, Function],
        providers: Iterable[OpProvider] = (),
        *,
        own: Iterable[OwnOp] = (),
        arch: str = "",
        order: Mapping[str, Sequence[str]] | None = None,
    ):
        self._ops: dict[str, Op] = {}
        order = order or {}
        known: tuple[OwnOp | OpProvider, ...] = (*own, *providers)
        _check_order(references, known, order)
        for name, reference in references.items():
            offered = [p for p in known if p.op == name]
            op = Op(name, _candidates(reference, offered, arch, order.get(name, ())))
            self._ops[name] = op
            setattr(self, name, op.direct or op)

    def __getattr__(self, name: str) -> Function:
        raise AttributeError(f"there is no op {name!r}; there are: {', '.join(sorted(self._ops))}")

    def __iter__(self) -> Iterator[Op]:
        return iter(self._ops.values())


def _check_order(
    references: Mapping[str, Function],
    providers: Sequence[OwnOp | OpProvider],
    order: Mapping[str, Sequence[str]],
) -> None:
    for op, names in order.items():
        if op not in references:
            raise ConfigError(f"ops: there is no op {op!r}; there are: {', '.join(references)}")
        known = {REFERENCE} | {p.name for p in providers if p.op == op}
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"ops: {op!r} has no provider {name!r}; it has: {', '.join(sorted(known))}"
                )


def _candidates(
    reference: Function,
    offered: Sequence[OwnOp | OpProvider],
    arch: str,
    preferred: Sequence[str],
) -> list[Candidate]:
    def rank(provider: OwnOp | OpProvider) -> tuple[int, int]:
        place = preferred.index(provider.name) if provider.name in preferred else len(preferred)
        return (place, -provider.priority)

    found = [_load(provider, arch) for provider in sorted(offered, key=rank)]
    last = Candidate(REFERENCE, reference)
    if REFERENCE in preferred:
        before = set(preferred[: preferred.index(REFERENCE)])
        place = sum(candidate.name in before for candidate in found)
        return [*found[:place], last, *found[place:]]
    return [*found, last]


def _load(provider: OwnOp | OpProvider, arch: str) -> Candidate:
    if isinstance(provider, OwnOp):
        return Candidate(provider.name, provider.function, provider.supports)
    if provider.arch and arch not in provider.arch:
        return Candidate(provider.name, None, rejected=f"not for architecture {arch!r}")
    try:
        function = _resolve(provider.target)
        supports = _resolve(provider.supports) if provider.supports else None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a broken provider must not stop others
        reason = f"import failed: {type(exc).__name__}: {exc}"
        logger.warning("op provider %s for %s: %s", provider.name, provider.op, reason)
        return Candidate(provider.name, None, rejected=reason)
    return Candidate(provider.name, function, supports)


def _resolve(target: str) -> Function:
    module, _, attribute = target.partition(":")
    function: Function = getattr(importlib.import_module(module), attribute)
    return function
