"""The accepted messages of one client that the store may still lose, because not all recipients have them.

By the contract a client keeps an accepted message until a receipt reports that all recipients have it, a notice names those who missed it,
or it ends. If the room gets a new epoch, or the store begins a new life, it reads the room, and sends the messages again that the read does
not bring: with the same id, for the rest of their lives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from .ledger import now_ms
from .outbox import Item
from .plan import MIN_TTL_S

Version = tuple[str, str]  # the epoch of a room, the life of the store


@dataclasses.dataclass(slots=True)
class Kept:
    """An accepted message, and the version of the log in which it is known to be. `expires_at`: epoch ms."""

    item: Item
    room: str
    seq: int
    expires_at: int
    version: Version


class OwnLog:
    """The messages of one client by id. An offered message is kept when it is accepted."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._kept: dict[str, Kept] = {}

    def offered(self, item: Item) -> None:
        self._items[item.id] = item

    def accepted(self, room: str, message_id: str, seq: int, expires_at: int, version: Version) -> None:
        """Keep a message from now on, or remember its new place."""
        kept = self._kept.get(message_id)
        item = kept.item if kept else self._items.pop(message_id, None)
        if item is not None:
            self._kept[message_id] = Kept(item, room, seq, expires_at, version)

    def confirmed(self, message_id: str, version: Version) -> None:
        """Record that the log of this version has a message."""
        if message_id in self._kept:
            self._kept[message_id].version = version

    def has_ended(self, room: str, epoch: str, seqs: Iterable[int]) -> None:
        """Forget messages that all recipients have, or that were reported."""
        ended = {(room, epoch, seq) for seq in seqs}
        for message_id, kept in list(self._kept.items()):
            if (kept.room, kept.version[0], kept.seq) in ended:
                del self._kept[message_id]

    def take_doubtful(self, room: str, version: Version) -> list[Item]:
        """Return the messages of a room that this version of its log may lack, as they must be sent again, in order.

        Those that do not live long enough are forgotten: a real client asks its user.
        """
        doubtful = [kept for kept in self._kept.values() if kept.room == room and kept.version != version]
        items = []
        for kept in sorted(doubtful, key=lambda kept: kept.item.number):
            kept.version = version
            left_s = (kept.expires_at - now_ms()) // 1000
            if left_s < MIN_TTL_S:
                del self._kept[kept.item.id]
                continue
            kept.item.ttl, kept.item.due_s, kept.item.sent_s = left_s, None, None
            items.append(kept.item)
        return items
