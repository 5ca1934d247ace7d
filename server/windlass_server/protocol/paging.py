"""The query of a list: `limit`, `order`, `after`."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from windlass_server.errors import invalid_request


def limit_of(query: QueryParams, default: int, most: int) -> int:
    """Return how many items are asked for.

    Raises:
        ApiError: 400, it is no integer from 1 to `most`.
    """
    limit = query.get("limit", str(default))
    if not (limit.isdecimal() and len(limit) <= 9 and 1 <= int(limit) <= most):
        raise invalid_request(f"'limit' must be from 1 to {most}.", "limit", "invalid_value")
    return int(limit)


def is_ascending(query: QueryParams) -> bool:
    """Return whether the oldest comes first.

    Raises:
        ApiError: 400, `order` is neither asc nor desc.
    """
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid_request("'order' must be asc or desc.", "order", "invalid_value")
    return order == "asc"
