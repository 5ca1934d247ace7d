"""Tensors of the fake accelerator: torch sees a device of its own, the numbers lie on the host.

Every operation of torch on such a tensor comes here and is queued. The shapes of its results are
those that torch's meta device tells, their memory is taken at once and full of NaN until the
operation runs. A tensor of the host among the arguments is an error, as on any accelerator.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.backend_registration import (
    _DummyDeviceGuard,  # type: ignore[attr-defined]  # no other guard is open to Python
)

from windlass.errors import UnsupportedError
from windlass.testing.fake.machine import Machine, Memory, machine
from windlass.testing.recorded_graph import reads_on_host

DEVICE_TYPE = "privateuseone"
POISON = 255
"""A byte that is NaN in every float format, and -1 in every integer."""

_HOST = torch.device("cpu")
_META = torch.device("meta")


class FakeTensor(torch.Tensor):
    """A tensor of the fake accelerator; `place` is the host tensor that holds its numbers."""

    place: torch.Tensor
    memory: Memory
    machine: Machine

    @staticmethod
    def wrap(place: torch.Tensor, memory: Memory, device: torch.device) -> FakeTensor:
        """A tensor of `device` whose numbers are those of `place`."""
        tensor: FakeTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            FakeTensor,
            place.size(),
            strides=place.stride(),
            storage_offset=place.storage_offset(),
            dtype=place.dtype,
            device=device,
        )
        tensor.place, tensor.memory, tensor.machine = place, memory, machine(device.index)
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Queue the operation."""
        return dispatch(func, args, dict(kwargs or {}))

    def data_ptr(self) -> int:
        """Where its numbers lie."""
        return self.place.data_ptr()

    def tolist(self) -> Any:  # noqa: ANN401
        """Wait, and read."""
        self.machine.read_on_host("tolist")
        return self.place.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeTensor({list(self.shape)}, {self.dtype}, {self.device})"


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Run or queue one operation of torch."""
    special = _SPECIAL.get(func.name())
    if special is not None:
        return special(func, *args, **kwargs)
    kind = _kind(func)
    if kind == "composite":
        result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise UnsupportedError(f"the fake accelerator cannot run {func.name()}")
        return result
    if kind == "view":
        return _view(func, args, kwargs)
    if reads_on_host(func.name(), args, kwargs):
        return _read(func, args, kwargs)
    return _write(func, args, kwargs) if kind == "write" else _compute(func, args, kwargs)


@functools.cache
def _kind(func: Any) -> str:  # noqa: ANN401
    """"write" changes an argument, "view" shares its memory, "new" makes tensors."""
    schema = func._schema
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
    shares = any(r.alias_info is not None for r in schema.returns)
    tensors = all("Tensor" in str(r.type) for r in schema.returns)
    if (writes or shares or not tensors) and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    ):
        return "composite"
    if writes:
        return "write"
    return "view" if shares else "new"


def _is_fake(device: object) -> bool:
    return isinstance(device, torch.device) and device.type == DEVICE_TYPE


def _device(args: object) -> torch.device:
    """The device of the first fake tensor, or the one that is named."""
    leaves = tree_leaves(args)
    for leaf in leaves:
        if isinstance(leaf, FakeTensor):
            return leaf.device
    found = next((leaf for leaf in leaves if _is_fake(leaf)), torch.device(DEVICE_TYPE, 0))
    return torch.device(DEVICE_TYPE, found.index or 0)


def _memories(args: object) -> list[Memory]:
    return [leaf.memory for leaf in tree_leaves(args) if isinstance(leaf, FakeTensor)]


def _places(func: Any, args: Any, device: torch.device) -> Any:  # noqa: ANN401
    """The arguments as the host computes with them.

    Raises:
        RuntimeError: a tensor of the host, or of another fake device, is among them.
    """

    def place(leaf: object) -> object:
        if isinstance(leaf, FakeTensor):
            if leaf.device != device:
                raise RuntimeError(f"{func.name()} on tensors of {device} and {leaf.device}")
            return leaf.place
        if isinstance(leaf, torch.Tensor):
            # A device takes a number by value; an index it fetches.
            if leaf.dim() == 0 or func.name().startswith(("aten::index", "aten::_index")):
                return leaf.clone()
            raise RuntimeError(f"{func.name()} on tensors of {device} and of the host")
        return _HOST if _is_fake(leaf) else leaf

    return tree_map(place, args)


def allocate(
    size: Iterable[int], stride: Iterable[int], dtype: torch.dtype, device: torch.device
) -> FakeTensor:
    """A tensor full of poison."""
    size, stride = tuple(size), tuple(stride)
    span = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = span if math.prod(size) else 0
    memory = machine(device.index).take_memory(count * dtype.itemsize)
    with torch.inference_mode(mode=False), torch.no_grad():
        raw = torch.full((count * dtype.itemsize,), POISON, dtype=torch.uint8)
        if dtype is torch.bool:
            raw.fill_(1)
        place = raw.view(dtype).as_strided(size, stride)
    return FakeTensor.wrap(place, memory, device)


def _meta(func: Any, args: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401
    """Shape, strides and dtype of each result."""

    def meta(leaf: object) -> object:
        if isinstance(leaf, FakeTensor):
            return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device=_META)
        if isinstance(leaf, torch.Tensor):
            return leaf if leaf.dim() == 0 else leaf.to(_META)
        return _META if _is_fake(leaf) else leaf

    with torch.inference_mode(mode=False), torch.no_grad():
        positional, named = tree_map(meta, args)
        results = func(*positional, **named)
    return results


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Take memory for the results, and queue."""
    device = _device((args, kwargs))
    positional, named = _places(func, (args, kwargs), device)
    try:
        shapes, tree = tree_flatten(_meta(func, (args, kwargs)))
    except (NotImplementedError, RuntimeError):
        # Only the values tell the shape, or the arguments are wrong: the host must look.
        return _read(func, args, kwargs)
    results = [_like(shape, device) for shape in shapes]
    places = [result.place for result in results if isinstance(result, FakeTensor)]

    def work() -> None:
        found = [x for x in tree_leaves(func(*positional, **named)) if isinstance(x, torch.Tensor)]
        for place, result in zip(places, found, strict=True):
            place.copy_(result)

    if not func.name().startswith(("aten::empty", "aten::new_empty")):
        used = _memories((args, kwargs, results))
        machine(device.index).enqueue(func.name(), work, *used)
    return tree_unflatten(results, tree)


def _like(shape: object, device: torch.device) -> object:
    if not isinstance(shape, torch.Tensor):
        return shape
    return allocate(shape.size(), shape.stride(), shape.dtype, device)


def _write(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Queue an operation that changes its arguments, and return them."""
    device = _device((args, kwargs))
    positional, named = _places(func, (args, kwargs), device)
    changed = [
        kwargs[argument.name] if argument.name in kwargs else args[i]
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    shapes = [(leaf.place, leaf.shape) for leaf in tree_leaves(changed)]

    def work() -> None:
        func(*positional, **named)
        for place, shape in shapes:
            if place.shape != shape:
                raise UnsupportedError(f"{func.name()} changed the shape of a fake tensor")

    machine(device.index).enqueue(func.name(), work, *_memories((args, kwargs)))
    if not func._schema.returns:
        return None
    return changed[0] if len(func._schema.returns) == 1 else tuple(changed)


def _view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Another look at the same memory, at once: no number is touched."""
    device = _device((args, kwargs))
    positional, named = _places(func, (args, kwargs), device)
    with torch.inference_mode(mode=False), torch.no_grad():
        views = func(*positional, **named)
    base = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor))
    # A view of a tensor that was not made in inference mode is none of it either.
    with torch.inference_mode(mode=base.is_inference()):
        return tree_map(lambda view: FakeTensor.wrap(view, base.memory, device), views)


def _read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """An operation for which the host must know values."""
    device = _device((args, kwargs))
    machine(device.index).read_on_host(func.name())
    positional, named = _places(func, (args, kwargs), device)
    with torch.inference_mode(mode=False), torch.no_grad():
        found = func(*positional, **named)

    def own(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        result = allocate(leaf.size(), leaf.stride(), leaf.dtype, device)
        result.place.copy_(leaf)
        return result

    with torch.inference_mode(mode=False), torch.no_grad():
        results = tree_map(own, found)
    # An argument that was changed is still itself.
    return args[0] if _kind(func) == "write" else results


def _to_copy(
    func: Any,  # noqa: ANN401
    x: torch.Tensor,
    *,
    device: torch.device | None = None,
    non_blocking: bool = False,
    **options: Any,  # noqa: ANN401
) -> torch.Tensor:
    """A copy, perhaps across the bus, perhaps of another dtype."""
    target = torch.device(device) if device is not None else x.device
    if isinstance(x, FakeTensor) and target.type != _HOST.type:
        copy: torch.Tensor = _compute(func, (x,), options)
        return copy
    if isinstance(x, FakeTensor):
        if not non_blocking:
            x.machine.read_on_host("a copy to the host")
        with torch.inference_mode(mode=False), torch.no_grad():
            host: torch.Tensor = func(x.place, **options)
        return _download(host, x) if non_blocking else host
    shape = func(torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=_META), **options)
    fake = allocate(shape.size(), shape.stride(), shape.dtype, _device(target))
    return _upload(fake, x, non_blocking)


def _copy(
    func: Any,  # noqa: ANN401
    to: torch.Tensor,
    source: torch.Tensor,
    non_blocking: bool = False,
) -> torch.Tensor:
    """`to.copy_(source)`, across the bus or not."""
    if isinstance(to, FakeTensor) and isinstance(source, FakeTensor):
        written: torch.Tensor = _write(func, (to, source), {})
        return written
    if isinstance(to, FakeTensor):
        return _upload(to, source, non_blocking)
    assert isinstance(source, FakeTensor)
    if non_blocking:
        return _download(to, source)
    source.machine.read_on_host("a copy to the host")
    return to.copy_(source.place)


def _upload(to: FakeTensor, source: torch.Tensor, non_blocking: bool) -> FakeTensor:
    """From page-locked memory the device reads when it comes to it; other memory is read now."""
    late = non_blocking and to.machine.is_page_locked(source)
    if not late:
        to.machine.forbid_in_capture("a copy from memory of the host that is not page-locked")
        with torch.inference_mode(mode=False), torch.no_grad():
            source = source.clone()
    to.machine.enqueue("an upload", lambda: _fill(to.place, source), to.memory)
    return to


def _download(to: torch.Tensor, source: FakeTensor) -> torch.Tensor:
    """The host's memory holds poison until the copy has run."""
    poison = torch.nan if to.is_floating_point() else True if to.dtype is torch.bool else -1
    _fill(to, torch.tensor(poison).to(to.dtype))
    place = source.place
    source.machine.enqueue("a download", lambda: _fill(to, place), source.memory)
    return to


def _fill(to: torch.Tensor, source: torch.Tensor) -> None:
    # Made in inference mode, it may be written in inference mode only.
    with torch.inference_mode(mode=to.is_inference()), torch.no_grad():
        to.copy_(source)


def _same(func: Any, x: torch.Tensor, *others: object) -> torch.Tensor:  # noqa: ANN401
    del func, others
    return x


_SPECIAL: dict[str, Callable[..., Any]] = {
    "aten::_to_copy": _to_copy,
    "aten::copy_": _copy,
    "aten::detach_": _same,
    "aten::record_stream": _same,
}

_FACTORIES = (
    "empty.memory_format",
    "empty_strided",
    "_to_copy",
    "arange",
    "arange.start",
    "arange.start_step",
    "linspace",
    "eye",
    "eye.m",
    "full",
    "ones",
    "zeros",
    "scalar_tensor",
    "rand",
    "randn",
    "randint",
    "randint.low",
    "randperm",
)
"""Operations that may make a fake tensor out of none."""


class _Module(ModuleType):
    """What torch looks for under `torch.privateuseone`."""

    @staticmethod
    def _lazy_init() -> None:
        """Nothing to start."""

    @staticmethod
    def is_available() -> bool:
        """Always."""
        return True

    @staticmethod
    def device_count() -> int:
        """As the plugin says."""
        from windlass.testing.fake.plugin import NUM_DEVICES

        return NUM_DEVICES

    @staticmethod
    def current_device() -> int:
        """The first."""
        return 0


@functools.cache
def register() -> torch.library.Library:
    """Make the device known to torch, once a process.

    torch keeps one name for devices that it does not know; a plugin of a true one must not be
    imported into the same process. Devices that torch knows are not touched.
    """
    torch._register_device_module(DEVICE_TYPE, _Module(f"torch.{DEVICE_TYPE}"))
    torch._C._acc.register_python_privateuseone_device_guard(  # type: ignore[attr-defined]
        _DummyDeviceGuard()
    )
    library = torch.library.Library("aten", "IMPL")
    for name in _FACTORIES:
        op, _, overload = name.partition(".")
        func = getattr(getattr(torch.ops.aten, op), overload or "default")
        library.impl(name, _factory(func), "PrivateUse1")
    return library


def _factory(func: Any) -> Callable[..., Any]:  # noqa: ANN401
    def make(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return dispatch(func, args, kwargs)

    return make
