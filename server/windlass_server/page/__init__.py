"""The page at `/`: plain files, read once, and the headers that they go out with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

INDEX = "index.html"
PREFIX = "/ui/"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# The page runs only what is in these files and talks only to its own server. Trusted types make
# the browser refuse to parse text as HTML, whatever a script does with what a model wrote.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page; `etag` changes with its content."""

    data: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Return the files of the page by name."""
    found: dict[str, Asset] = {}
    for entry in files(__name__).iterdir():
        _, dot, suffix = entry.name.rpartition(".")
        media_type = _MEDIA_TYPES.get(dot + suffix)
        if media_type is not None:
            data = entry.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[entry.name] = Asset(data, media_type, etag)
    return found


def paths() -> list[str]:
    """Return every path that the page's files have."""
    return ["/", *(PREFIX + name for name in assets() if name != INDEX)]
