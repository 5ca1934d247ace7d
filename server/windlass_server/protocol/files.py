"""`/v1/files`: what goes out. https://platform.openai.com/docs/api-reference/files"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class FileObject(Struct):
    """A kept file; `bytes` is its size, times are in seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | UnsetType = UNSET
    object: str = "file"
    status: str = "processed"


class FileList(Struct):
    """A page of files."""

    data: list[FileObject]
    first_id: str
    last_id: str
    has_more: bool
    object: str = "list"


class FileDeleted(Struct):
    """A file that is no more."""

    id: str
    object: str = "file"
    deleted: bool = True
