"""The values in the store that hold several fields in one text, and their parsers. `lua/shared/entries.lua` is the same in Lua.

| value          | text                                                          |
|----------------|---------------------------------------------------------------|
| live entry     | `seq|sender|id`, then `|u` if nobody owes the message         |
| attempts value | `n|first_at|next_at|reason` (times in epoch ms)               |
| outcome row    | `seq|user|reason|attempts`                                    |
| index entry    | `room|seq`                                                    |
| leaver         | `user|joined|cursor`                                          |
"""

from __future__ import annotations

from typing import NamedTuple


class LiveEntry(NamedTuple):
    seq: int
    sender: int
    id: str
    tracked: bool

    @classmethod
    def parse(cls, text: str) -> LiveEntry:
        seq, sender, id_, *untracked = text.split("|")
        return cls(int(seq), int(sender), id_, not untracked)


class Attempts(NamedTuple):
    """The attempts to deliver to one member: their number, the time of the next (epoch ms), `waiting` or `no_ack`."""

    n: int = 0
    next_at_ms: int = 0
    reason: str = ""

    @classmethod
    def parse(cls, text: str) -> Attempts:
        """Parse an attempts value; an empty text means no attempts."""
        if not text:
            return cls()
        n, _first_at, next_at_ms, reason = text.split("|")
        return cls(int(n), int(next_at_ms), reason)


class Outcome(NamedTuple):
    """A member who does not hold a message, even if their cursor is above it."""

    seq: int
    user: int
    reason: str
    attempts: int

    @classmethod
    def parse(cls, text: str) -> Outcome:
        seq, user, reason, attempts = text.split("|")
        return cls(int(seq), int(user), reason, int(attempts))


class Leaver(NamedTuple):
    """A member who left the room. They owe the messages above `cursor`, up to `top`, the room's top when they left."""

    user: int
    joined: int
    cursor: int
    top: int

    @classmethod
    def parse(cls, text: str, top: int) -> Leaver:
        user, joined, cursor = map(int, text.split("|"))
        return cls(user, joined, cursor, top)


def parse_index_entry(text: str) -> tuple[str, int]:
    """Return (room id, seq)."""
    room, _, seq = text.rpartition("|")
    return room, int(seq)
