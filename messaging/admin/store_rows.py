"""Rows of the store as the admin's lists ask for them: what a list uses of a queryset, over a count and a page.

A list asks for one count and one page, wherever it stands; nothing is ever read whole. Immutable, like a queryset.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Generic, Protocol, TypeVar

from django.core.exceptions import FieldError
from django.db.models import Model

M = TypeVar("M", bound=Model)

MOST_AT_ONCE = 1_000  # rows of one reading


class Reader(Protocol[M]):
    """Where rows come from. `where` is what the list's filters said: {name: value}. Each raises Unavailable."""

    def count(self, where: dict[str, str]) -> int: ...

    def page(self, where: dict[str, str], start: int, stop: int) -> list[M]: ...

    def keys(self, where: dict[str, str], most: int) -> list[str]: ...

    def by_key(self, keys: Sequence[str]) -> list[M]: ...


class Rows(Generic[M]):
    """All rows, those that fit, or those named."""

    ordered = True
    db = "default"

    def __init__(self, model: type[M], reader: Reader[M]) -> None:
        self.model = model
        self.query = SimpleNamespace(select_related=True, order_by=("pk",))
        self.where: dict[str, str] = {}
        self._reader = reader
        self._keys: list[str] | None = None
        self._counted: int | None = None

    def filter(self, *conditions: Any, **where: Any) -> Rows[M]:
        """Leave what fits. Raises FieldError for a condition that no index answers."""
        if any(conditions):
            raise FieldError("These rows have no such filter.")
        clone = self._clone()
        clone._counted = None
        keys = where.pop("pk__in", None)
        if keys is not None:
            clone._keys = [str(key) for key in keys]
        clone.where = {**self.where, **where}
        return clone

    def keys(self, most: int) -> list[str]:
        """Return the keys of the first rows, without reading these."""
        if self._keys is not None:
            return self._keys[:most]
        return list(dict.fromkeys(self._reader.keys(self.where, most)))

    def get(self, **named: Any) -> M:
        """Return one row by its key. Raises DoesNotExist."""
        [key] = named.values()
        found = self._reader.by_key([str(key)])
        if not found:
            raise self.model.DoesNotExist  # type: ignore[attr-defined]
        return found[0]

    def order_by(self, *fields: Any) -> Rows[M]:
        """Return the same: the order is the index's."""
        return self

    def all(self) -> Rows[M]:
        return self._clone()

    def distinct(self) -> Rows[M]:
        return self

    def none(self) -> Rows[M]:
        return self.filter(pk__in=[])

    def using(self, alias: str | None) -> Rows[M]:
        return self

    def _clone(self) -> Rows[M]:
        return copy.copy(self)

    def count(self) -> int:
        if self._counted is None:
            self._counted = (
                self._reader.count(self.where) if self._keys is None else len(self._reader.by_key(self._keys))
            )
        return self._counted

    def exists(self) -> bool:
        return self.count() > 0

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[M]:
        """Read page by page: nobody waits for a million rows."""
        if self._keys is not None:
            for at in range(0, len(self._keys), MOST_AT_ONCE):
                yield from self._reader.by_key(self._keys[at : at + MOST_AT_ONCE])
            return
        for at in range(0, self.count(), MOST_AT_ONCE):
            yield from self[at : at + MOST_AT_ONCE]

    def __getitem__(self, part: slice) -> list[M]:
        start, stop = part.start or 0, self.count() if part.stop is None else part.stop
        if self._keys is not None:
            return self._reader.by_key(self._keys[start:stop])
        return self._reader.page(self.where, start, stop)
