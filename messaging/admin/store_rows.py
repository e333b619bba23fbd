"""Rows of the store as the admin's lists read them: the part of a queryset that a list uses, based on a count and a page.

A list reads one count and one page, wherever the page is; rows are never all read at once. Immutable, like a queryset.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Generic, Protocol, TypeVar

from django.core.exceptions import FieldError
from django.db.models import Model

M = TypeVar("M", bound=Model)

ROWS_BATCH = 1_000  # in one read


class Reader(Protocol[M]):
    """A source of rows. `where`: the list's filters, {name: value}. Every method raises Unavailable."""

    def count(self, where: dict[str, str]) -> int: ...

    def page(self, where: dict[str, str], start: int, stop: int) -> list[M]: ...

    def keys(self, where: dict[str, str], limit: int) -> list[str]: ...

    def by_key(self, keys: Sequence[str]) -> list[M]: ...


class StoreQuerySet(Generic[M]):
    """All rows, those that match filters, or those with given keys."""

    ordered = True
    db = "default"

    def __init__(self, model: type[M], reader: Reader[M]) -> None:
        self.model = model
        self.query = SimpleNamespace(select_related=True, order_by=("pk",))
        self.where: dict[str, str] = {}
        self._reader = reader
        self._keys: list[str] | None = None
        self._count: int | None = None

    def filter(self, *conditions: Any, **where: Any) -> StoreQuerySet[M]:
        """Return the rows that match. Raises FieldError for a condition without an index."""
        if any(conditions):
            raise FieldError("These rows have no such filter.")
        clone = self._clone()
        clone._count = None
        keys = where.pop("pk__in", None)
        if keys is not None:
            clone._keys = [str(key) for key in keys]
        clone.where = {**self.where, **where}
        return clone

    def keys(self, limit: int) -> list[str]:
        """Return the keys of the first rows, without reading the rows."""
        if self._keys is not None:
            return self._keys[:limit]
        return list(dict.fromkeys(self._reader.keys(self.where, limit)))

    def get(self, **key: Any) -> M:
        """Return one row by its key. Raises DoesNotExist."""
        [value] = key.values()
        rows = self._reader.by_key([str(value)])
        if not rows:
            raise self.model.DoesNotExist  # type: ignore[attr-defined]
        return rows[0]

    def order_by(self, *fields: Any) -> StoreQuerySet[M]:
        """Return the same rows: the index determines the order."""
        return self

    def all(self) -> StoreQuerySet[M]:
        return self._clone()

    def distinct(self) -> StoreQuerySet[M]:
        return self

    def none(self) -> StoreQuerySet[M]:
        return self.filter(pk__in=[])

    def using(self, alias: str | None) -> StoreQuerySet[M]:
        return self

    def _clone(self) -> StoreQuerySet[M]:
        return copy.copy(self)

    def count(self) -> int:
        if self._count is None:
            self._count = (
                self._reader.count(self.where) if self._keys is None else len(self._reader.by_key(self._keys))
            )
        return self._count

    def exists(self) -> bool:
        return self.count() > 0

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[M]:
        """Read batch by batch, so that no request waits for a million rows."""
        if self._keys is not None:
            for start in range(0, len(self._keys), ROWS_BATCH):
                yield from self._reader.by_key(self._keys[start : start + ROWS_BATCH])
            return
        for start in range(0, self.count(), ROWS_BATCH):
            yield from self[start : start + ROWS_BATCH]

    def __getitem__(self, part: slice) -> list[M]:
        start, stop = part.start or 0, self.count() if part.stop is None else part.stop
        if self._keys is not None:
            return self._reader.by_key(self._keys[start:stop])
        return self._reader.page(self.where, start, stop)
