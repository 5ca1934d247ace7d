"""Input and output of `windlass run-batch`: local files, or URLs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import httpx

from windlass.errors import ConfigError, WindlassError

_TIMEOUT = 60.0


def is_url(place: str) -> bool:
    """Whether `place` is no local file."""
    return place.startswith(("http://", "https://"))


@contextmanager
def local_input(place: str) -> Iterator[Path]:
    """Yield a local file with what is at `place`.

    Raises:
        ConfigError: there is no such file.
        WindlassError: it cannot be fetched.
    """
    if not is_url(place):
        path = Path(place)
        try:
            path.open("rb").close()
        except OSError as exc:
            raise ConfigError(f"cannot read {place}: {exc.strerror or exc}") from exc
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as target:
        _fetch(place, target)
        yield Path(target.name)


def _fetch(url: str, target: IO[bytes]) -> None:
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                target.write(part)
    except httpx.HTTPError as exc:
        raise WindlassError(f"cannot fetch {url}: {exc}") from exc
    target.flush()


@contextmanager
def local_output(place: str) -> Iterator[IO[bytes]]:
    """Yield a file whose content is at `place` afterwards, when nothing went wrong.

    Raises:
        ConfigError: it cannot be written.
        WindlassError: it cannot be sent.
    """
    if is_url(place):
        with tempfile.TemporaryFile(suffix=".jsonl") as target:
            yield target
            _send(place, target)
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(place).open("wb"))
        except OSError as exc:
            raise ConfigError(f"cannot write {place}: {exc.strerror or exc}") from exc
        yield file


def _send(url: str, source: IO[bytes]) -> None:
    headers = {"content-length": str(source.seek(0, 2)), "content-type": "application/jsonl"}
    source.seek(0)
    try:
        httpx.put(url, content=source, headers=headers, timeout=_TIMEOUT).raise_for_status()
    except httpx.HTTPError as exc:
        raise WindlassError(f"cannot send the results to {url}: {exc}") from exc
