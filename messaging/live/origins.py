"""The check of the `Origin` header: only pages of this site may open a socket, by exact scheme, host and port."""

from __future__ import annotations


def origin_allowed(
    origin: bytes | str | None, allowed: frozenset[str], *, may_be_missing: bool = False
) -> bool:
    """Return whether a request with this `Origin` is allowed; `null` is never allowed."""
    if origin is None:
        return may_be_missing
    text = origin.decode("latin-1") if isinstance(origin, bytes) else origin
    return text in allowed
