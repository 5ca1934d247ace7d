"""Names for the content of full blocks: a SHA-256 chain over everything that decides the KV.

A block's hash covers its parent's hash and its own token ids; the chain starts at a root made
from the cache salt. So equal hashes mean equal prefixes of the same tenant, and nobody can make
two different prefixes collide.
"""

from __future__ import annotations

from array import array
from hashlib import sha256

_ROOT = b"windlass prefix root\0"


def root_hash(salt: str) -> bytes:
    """Return the parent of every first block whose request carries `salt`."""
    return sha256(_ROOT + salt.encode("utf-8", "surrogatepass")).digest()


def hash_block(parent: bytes, token_ids: list[int]) -> bytes:
    """Return the hash of a full block: 32 bytes. Token ids are in [0, 2**32)."""
    return sha256(parent + array("I", token_ids).tobytes()).digest()


def extend_hashes(
    hashes: list[bytes], token_ids: list[int], block_size: int, num_blocks: int, salt: str
) -> None:
    """Append to `hashes`, in place, until it names the first `num_blocks` blocks."""
    if len(hashes) >= num_blocks:
        return
    parent = hashes[-1] if hashes else root_hash(salt)
    for start in range(len(hashes) * block_size, num_blocks * block_size, block_size):
        parent = hash_block(parent, token_ids[start : start + block_size])
        hashes.append(parent)
