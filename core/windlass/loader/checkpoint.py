"""Safetensors checkpoints, memory-mapped and read one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from safetensors import SafetensorError, safe_open

from windlass.errors import ModelError
from windlass.loader.hf_config import read_json

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = ("BF16", "F16", "F32")

_EMBEDDING = "embed_tokens.weight"


class TensorSource(Protocol):
    """Where weights come from. `prefix` stands before the names of all but the output layer."""

    prefix: str

    def holds(self, name: str) -> bool:
        """Whether there is a tensor `name`."""
        ...

    def fill(self, name: str, destination: torch.Tensor) -> None:
        """Write the tensor `name`, which has `destination`'s shape, converted to its dtype."""
        ...


class Checkpoint:
    """The tensors of a folder with one safetensors file, or several and an index.

    Files are mapped when first needed and stay mapped until `close`. `framework` says what `read`
    returns: torch tensors ("pt") or numpy arrays ("np").

    Raises:
        ModelError: there is no safetensors file, or a file or the index is damaged; names it.
    """

    def __init__(self, folder: Path, framework: Literal["pt", "np"] = "pt") -> None:
        self.folder = folder
        self._framework = framework
        self._mapped: dict[Path, Any] = {}
        self._files = self._index()
        self._unread = set(self._files)
        # A file saved from the model without its output layer has no prefix.
        self.prefix = "" if _EMBEDDING in self._files else "model."

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def unread(self) -> list[str]:
        """Names of the tensors that nobody has asked for, sorted."""
        return sorted(self._unread)

    def holds(self, name: str) -> bool:
        """Whether there is a tensor `name`."""
        return name in self._files

    def fill(self, name: str, destination: torch.Tensor) -> None:
        """Copy the tensor `name` into `destination`, converted to its dtype.

        Raises:
            ModelError: see `read`.
        """
        destination.copy_(self.read(name, *destination.shape))

    def read(self, name: str, *shape: int) -> Any:  # noqa: ANN401 - the framework's tensor
        """The tensor `name` as it is stored.

        Raises:
            ModelError: the tensor is missing, or has another shape or a dtype that is not one
                of float32, float16 and bfloat16.
        """
        expected = list(shape)
        path = self._files.get(name)
        if path is None:
            raise ModelError(f"{self.folder}: tensor {name!r} of shape {expected} is missing")
        mapped = self._map(path)
        try:
            stored = mapped.get_slice(name)
        except SafetensorError as exc:
            raise ModelError(f"{path}: tensor {name!r}, promised by {INDEX}, is missing") from exc
        found, dtype = list(stored.get_shape()), stored.get_dtype()
        if found != expected:
            raise ModelError(
                f"{path}: tensor {name!r} has shape {found}; config.json asks for {expected}"
            )
        if dtype not in DTYPES:
            raise ModelError(
                f"{path}: tensor {name!r} has dtype {dtype}; supported are {', '.join(DTYPES)}"
            )
        self._unread.discard(name)
        return mapped.get_tensor(name)

    def close(self) -> None:
        """Unmap the files."""
        for mapped in self._mapped.values():
            mapped.__exit__(None, None, None)
        self._mapped.clear()

    def _index(self) -> dict[str, Path]:
        """The file of each tensor."""
        index, single = self.folder / INDEX, self.folder / SINGLE
        if index.is_file():
            return self._sharded(index)
        if single.is_file():
            return dict.fromkeys(self._map(single).keys(), single)
        others = sorted(p.name for s in ("*.bin", "*.pt", "*.pth") for p in self.folder.glob(s))
        found = f"; convert {', '.join(others)} first" if others else ""
        raise ModelError(
            f"{self.folder} holds neither {SINGLE} nor {INDEX}: "
            f"weights must be in safetensors format{found}"
        )

    def _sharded(self, index: Path) -> dict[str, Path]:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index}: weight_map must map tensors to files, not {weight_map!r}")
        for shard in dict.fromkeys(weight_map.values()):
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise ModelError(f"{index}: {shard!r} must be the name of a file in its folder")
            if not (self.folder / shard).is_file():
                raise ModelError(f"{index} names {shard}, which is missing from {self.folder}")
        return {name: self.folder / shard for name, shard in weight_map.items()}

    def _map(self, path: Path) -> Any:  # noqa: ANN401
        mapped = self._mapped.get(path)
        if mapped is None:
            try:
                mapped = safe_open(path, framework=self._framework, device="cpu")
                self._mapped[path] = mapped
            except (SafetensorError, OSError) as exc:
                raise ModelError(f"{path} is damaged or not a safetensors file: {exc}") from exc
        return mapped
