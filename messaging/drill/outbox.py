"""What one client has offered and nobody has accepted yet: in order, one unanswered `send` in a room.

What was said once is repeated under its id until its own life would be over; then its person is asked, says yes, and it goes
again as a new message. Whether the first was accepted, nobody knows then: if so, it counts like any other.
"""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections import Counter, deque

from .faults import Frame
from .ledger import Ledger, digest, now_ms

SEND_AGAIN_AFTER_S = 3.0


@dataclasses.dataclass(slots=True)
class Item:
    """A message; `due_s` None: not said over this connection yet, `said_s` None: over none. `ttl` None: the room's."""

    id: str
    number: int
    body: str
    ttl: int | None
    due_s: float | None = None
    said_s: float | None = None

    def is_too_old(self, now_s: float) -> bool:
        return self.ttl is not None and self.said_s is not None and now_s - self.said_s > self.ttl


class Outbox:
    """The items of one client, by room."""

    def __init__(self, ledger: Ledger, dice: random.Random) -> None:
        self._ledger = ledger
        self._dice = dice
        self._items: dict[str, deque[Item]] = {}
        self._numbers: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    @property
    def rooms(self) -> list[str]:
        return list(self._items)

    def offer(self, room: str, body: str, ttl: int | None) -> None:
        """Take a message from its person."""
        self._numbers[room] += 1
        item = Item(self._new_id(), self._numbers[room], body, ttl)
        self._items.setdefault(room, deque()).append(item)
        self._write_offered(room, item)

    def due(self, room: str, now_s: float) -> Frame | None:
        """Return the `send` that is to be said now in a room; it counts as said."""
        items = self._items.get(room)
        if not items or (items[0].due_s is not None and items[0].due_s > now_s):
            return None
        if items[0].is_too_old(now_s):
            self._renew(room, items)
        item = items[0]
        item.due_s = now_s + SEND_AGAIN_AFTER_S * self._dice.uniform(0.5, 1)
        item.said_s = item.said_s or now_s
        frame: Frame = {"type": "send", "id": item.id, "room": room, "body": item.body}
        return frame if item.ttl is None else frame | {"ttl": item.ttl}

    def first(self, room: str, message_id: str) -> Item | None:
        """Return the room's first item, if it is this one."""
        items = self._items.get(room)
        return items[0] if items and items[0].id == message_id else None

    def settle(self, room: str, message_id: str) -> bool:
        """Drop the room's first item, if it is this one."""
        if self.first(room, message_id) is None:
            return False
        self._items[room].popleft()
        return True

    def forget_connection(self) -> None:
        for items in self._items.values():
            for item in items:
                item.due_s = None

    def _renew(self, room: str, items: deque[Item]) -> None:
        old = items.popleft()
        new = Item(self._new_id(), old.number, old.body, old.ttl)
        items.appendleft(new)
        self._ledger.write("renewed", room, old.id, new.id)
        self._write_offered(room, new)

    def _write_offered(self, room: str, item: Item) -> None:
        self._ledger.write("offered", room, item.id, item.number, digest(item.body), now_ms())
        self._ledger.flush()

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
