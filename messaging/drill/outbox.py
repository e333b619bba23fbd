"""The messages of one client that are not accepted yet: in order, with one unanswered `send` in each room.

A message is repeated under its id until its own lifetime would be over. Then a real client asks its user, and here the answer is
yes: it is sent again as a new message. The first may have been accepted; if so, it counts like any other.
"""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence

from .line import Frame


@dataclasses.dataclass(slots=True)
class Item:
    """A message. `number`: by room from 1, kept when it is renewed. `ttl` None: that of the room.

    `due_s` None: not sent over this connection yet; `sent_s` None: over none.
    """

    id: str
    number: int
    body: str
    ttl: int | None
    due_s: float | None = None
    sent_s: float | None = None

    def is_too_old(self, now_s: float) -> bool:
        return self.ttl is not None and self.sent_s is not None and now_s - self.sent_s > self.ttl


class Outbox:
    """The items of one client, by room. A `send` without an answer is repeated after a random time within `resend_after_s`.

    `record` gets the room, each new item, and the item that it replaces, if any.
    """

    def __init__(
        self,
        rng: random.Random,
        resend_after_s: tuple[float, float],
        record: Callable[[str, Item, Item | None], None],
    ) -> None:
        self._rng = rng
        self._resend_after_s = resend_after_s
        self._record = record
        self._items: dict[str, deque[Item]] = {}
        self._numbers: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    @property
    def rooms(self) -> list[str]:
        return list(self._items)

    def offer(self, room: str, body: str, ttl: int | None) -> str:
        """Add a message; return its id."""
        self._numbers[room] += 1
        item = Item(self._new_id(), self._numbers[room], body, ttl)
        self._items.setdefault(room, deque()).append(item)
        self._record(room, item, None)
        return item.id

    def due(self, room: str, now_s: float) -> Frame | None:
        """Return the `send` that is due in a room, and count it as sent."""
        items = self._items.get(room)
        if not items or (items[0].due_s is not None and items[0].due_s > now_s):
            return None
        if items[0].is_too_old(now_s):
            self._renew(room, items)
        item = items[0]
        item.due_s = now_s + self._rng.uniform(*self._resend_after_s)
        item.sent_s = item.sent_s or now_s
        frame: Frame = {"type": "send", "id": item.id, "room": room, "body": item.body}
        return frame if item.ttl is None else frame | {"ttl": item.ttl}

    def first(self, room: str, message_id: str) -> Item | None:
        """Return the first item of a room, if it has this id."""
        items = self._items.get(room)
        return items[0] if items and items[0].id == message_id else None

    def settle(self, room: str, message_id: str) -> bool:
        """Remove the first item of a room; False if it has another id."""
        if self.first(room, message_id) is None:
            return False
        self._items[room].popleft()
        return True

    def put_back(self, room: str, items: Sequence[Item]) -> None:
        """Put accepted items, which the store may have lost, before all others of a room."""
        waiting = self._items.setdefault(room, deque())
        known = {item.id for item in waiting}
        waiting.extendleft(reversed([item for item in items if item.id not in known]))

    def forget_connection(self) -> None:
        for items in self._items.values():
            for item in items:
                item.due_s = None

    def _renew(self, room: str, items: deque[Item]) -> None:
        old = items.popleft()
        new = Item(self._new_id(), old.number, old.body, old.ttl)
        items.appendleft(new)
        self._record(room, new, old)

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
