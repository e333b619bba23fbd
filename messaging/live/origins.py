"""Which pages may open a socket: those of this site, by exact scheme, host and port."""

from __future__ import annotations


def origin_allowed(
    origin: bytes | str | None, allowed: frozenset[str], *, may_be_missing: bool = False
) -> bool:
    """Say whether a request with this `Origin` is taken; `null` never is."""
    if origin is None:
        return may_be_missing
    text = origin.decode("latin-1") if isinstance(origin, bytes) else origin
    return text in allowed
