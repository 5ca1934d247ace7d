"""Tensors of the fake accelerator: torch sees a device of its own, the numbers lie on the host.

Every operation of torch on such a tensor comes here and is queued. The shapes of its results are
those that torch's meta device tells, their memory is taken at once and full of NaN until the
operation runs. A tensor of the host among the arguments is an error, as on any accelerator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

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
        tensor: FakeTensor = torch.Tensor._make_wrapper_subclass(
            FakeTensor,
            place.size(),
            strides=place.stride(),
            storage_offset=place.storage_offset(),
            dtype=place.dtype,
            device=device,
        )
        tensor.place, tensor.memory, tensor.machine = place, memory, machine(device.index)
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
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
    call = _Call(func, args, kwargs)
    if kind == "view":
        return _view(call)
    if kind == "read" or reads_on_host(func.name(), args, kwargs):
        return _read(call)
    return _write(call, args, kwargs) if kind == "write" else _compute(call)


@functools.cache
def _kind(func: Any) -> str:  # noqa: ANN401
    """ "write" changes an argument, "view" shares its memory, "new" makes tensors.

    "composite" is put together from others, "read" needs values on the host to know its shapes.
    """
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
    tags = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags)
    # These need none, but for masks and without an output's size: see `reads_on_host`.
    if tags and not func.name().startswith(("aten::index", "aten::repeat_interleave")):
        return "read"
    return "view" if shares else "new"


def _is_fake(device: object) -> bool:
    return isinstance(device, torch.device) and device.type == DEVICE_TYPE


class _Call:
    """An operation with its arguments as the host computes with them.

    Raises:
        RuntimeError: a tensor of the host, or of another fake device, is among them.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        self.func = func
        self._leaves, self._tree = tree_flatten((args, kwargs))
        self.tensors = [leaf for leaf in self._leaves if isinstance(leaf, FakeTensor)]
        self.device = self.tensors[0].device if self.tensors else self._named_device()
        self.machine = machine(self.device.index)
        self.used = [tensor.memory for tensor in self.tensors]
        self._places = [self._place(leaf) for leaf in self._leaves]

    def _named_device(self) -> torch.device:
        named = next(filter(_is_fake, self._leaves), None)
        return torch.device(DEVICE_TYPE, 0 if named is None else named.index or 0)

    def _place(self, leaf: object) -> object:
        if isinstance(leaf, FakeTensor):
            if leaf.device != self.device:
                self._refuse(str(leaf.device))
            return leaf.place
        if isinstance(leaf, torch.Tensor):
            # A device takes a number by value; an index it fetches.
            if leaf.dim() and not self.func.name().startswith(("aten::index", "aten::_index")):
                self._refuse("the host")
            return leaf.clone()
        return _HOST if _is_fake(leaf) else leaf

    def _refuse(self, other: str) -> None:
        raise RuntimeError(f"{self.func.name()} on tensors of {self.device} and of {other}")

    def bind(self, places: list[object] | None = None) -> Callable[[], Any]:
        """A function that computes with the numbers that are there when it is called.

        It holds no fake tensor: what the user has dropped is not kept by work that waits.
        """
        args, kwargs = tree_unflatten(places or self._places, self._tree)
        return functools.partial(self.func, *args, **kwargs)

    def shapes(self) -> tuple[list[object], Any]:
        """The results' shapes, strides and dtypes as empty tensors, and how they are nested.

        As the host says when it computes with zeros; remembered for every call alike.
        """
        key = (self.func, self._tree, *map(_signature, self._leaves))
        try:
            known = _shapes.get(key)
        except TypeError:  # an argument without a hash
            return self._try()
        if known is None:
            known = _shapes[key] = self._try()
        return known

    def _try(self) -> tuple[list[object], Any]:
        with torch.inference_mode(mode=False), torch.no_grad():
            # Zeros tell no shape where counts are given, and are needed for none without tensors.
            alone = not self.tensors or self.func.name() == "aten::repeat_interleave.Tensor"
            blank = [_blank(leaf, _META if alone else _HOST) for leaf in self._places]
            results, tree = tree_flatten(self.bind(blank)())
            return [_shape(result) for result in results], tree


def _blank(leaf: object, device: torch.device) -> object:
    if isinstance(leaf, torch.Tensor):
        shape, strides = leaf.shape, leaf.stride()
        return torch.empty_strided(shape, strides, dtype=leaf.dtype, device=device).zero_()
    return device if leaf is _HOST else leaf


_shapes: dict[object, tuple[list[object], Any]] = {}


def _signature(leaf: object) -> object:
    if isinstance(leaf, torch.Tensor):
        return (leaf.shape, leaf.stride(), leaf.dtype)
    return (type(leaf), leaf)  # 1, 1.0 and True are equal


def _shape(result: object) -> object:
    if not isinstance(result, torch.Tensor):
        return result
    return torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device=_META)


def allocate(like: torch.Tensor, device: torch.device) -> FakeTensor:
    """A tensor with the shape, strides and dtype of `like`, full of poison.

    Raises:
        torch.OutOfMemoryError: the machine has not so much left.
    """
    steps = zip(like.size(), like.stride(), strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in steps)
    nbytes = (span if like.numel() else 0) * like.itemsize
    memory = machine(device.index).take_memory(nbytes)
    with torch.inference_mode(mode=False), torch.no_grad():
        fill = 1 if like.dtype is torch.bool else POISON
        raw = torch.full((nbytes,), fill, dtype=torch.uint8)
        place = raw.view(like.dtype).as_strided(like.size(), like.stride())
    return FakeTensor.wrap(place, memory, device)


def _compute(call: _Call) -> Any:  # noqa: ANN401
    """Take memory for the results, and queue."""
    shapes, tree = call.shapes()
    results = [
        allocate(shape, call.device) if isinstance(shape, torch.Tensor) else shape
        for shape in shapes
    ]
    made = [result for result in results if isinstance(result, FakeTensor)]
    places = [result.place for result in made]
    run = call.bind()

    def work() -> None:
        found = [x for x in tree_leaves(run()) if isinstance(x, torch.Tensor)]
        for place, result in zip(places, found, strict=True):
            place.copy_(result)

    if not call.func.name().startswith(("aten::empty", "aten::new_empty")):
        memories = [result.memory for result in made]
        call.machine.enqueue(call.func.name(), work, *call.used, *memories)
    return tree_unflatten(results, tree)


def _write(call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Queue an operation that changes its arguments, and return them."""
    schema = call.func._schema
    changed = [
        kwargs[argument.name] if argument.name in kwargs else args[i]
        for i, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    places = [(leaf.place, leaf.shape) for leaf in tree_leaves(changed)]
    run, name = call.bind(), call.func.name()

    def work() -> None:
        run()
        for place, shape in places:
            if place.shape != shape:
                raise UnsupportedError(f"{name} changed the shape of a fake tensor")

    call.machine.enqueue(name, work, *call.used)
    if not schema.returns:
        return None
    return changed[0] if len(schema.returns) == 1 else tuple(changed)


def _view(call: _Call) -> Any:  # noqa: ANN401
    """Another look at the same memory, at once: no number is touched."""
    with torch.inference_mode(mode=False), torch.no_grad():
        views = call.bind()()
    base = call.tensors[0]
    # A view of a tensor that was not made in inference mode is none of it either.
    with torch.inference_mode(mode=base.is_inference()):
        return tree_map(lambda view: FakeTensor.wrap(view, base.memory, call.device), views)


def _read(call: _Call) -> Any:  # noqa: ANN401
    """An operation for which the host must know values: it waits, and computes at once."""
    call.machine.read_on_host(call.func.name())

    def own(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        result = allocate(leaf, call.device)
        result.place.copy_(leaf)
        return result

    with torch.inference_mode(mode=False), torch.no_grad():
        found = call.bind()()
    if _kind(call.func) == "write":
        return call.tensors[0]
    with torch.no_grad():
        return tree_map(own, found)


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
        copy: torch.Tensor = _compute(_Call(func, (x,), options))
        return copy
    if isinstance(x, FakeTensor):
        if not non_blocking:
            x.machine.read_on_host("a copy to the host")
        with torch.inference_mode(mode=False), torch.no_grad():
            host: torch.Tensor = func(x.place, **options)
        return _download(host, x) if non_blocking else host
    with torch.inference_mode(mode=False), torch.no_grad():
        shape = func(x.to("meta"), **options)
    return _upload(allocate(shape, torch.device(DEVICE_TYPE, target.index or 0)), x, non_blocking)


def _copy(
    func: Any,  # noqa: ANN401
    to: torch.Tensor,
    source: torch.Tensor,
    non_blocking: bool = False,
) -> torch.Tensor:
    """`to.copy_(source)`, across the bus or not."""
    if isinstance(to, FakeTensor) and isinstance(source, FakeTensor):
        _write(_Call(func, (to, source), {}), (to, source), {})
        return to
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
    place = to.place
    to.machine.enqueue("an upload", lambda: _fill(place, source), to.memory)
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
