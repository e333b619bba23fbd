"""The values in the store that hold several fields in one text, and how to read them. `lua/shared/entries.lua` is the same in Lua.

| value          | text                                                          |
|----------------|---------------------------------------------------------------|
| live entry     | `seq|sender|id`, then `|u` where nobody owes the message       |
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
    """Attempts to deliver to one member: their number, when the next is due (epoch ms), and the reason of their state."""

    n: int = 0
    next_at_ms: int = 0
    reason: str = ""

    @classmethod
    def parse(cls, text: str) -> Attempts:
        """Return the attempts; an empty text has none."""
        if not text:
            return cls()
        n, _first_at, next_at_ms, reason = text.split("|")
        return cls(int(n), int(next_at_ms), reason)


class Outcome(NamedTuple):
    """A member who does not hold a message, also where their cursor is above it."""

    seq: int
    user: int
    reason: str
    attempts: int

    @classmethod
    def parse(cls, text: str) -> Outcome:
        seq, user, reason, attempts = text.split("|")
        return cls(int(seq), int(user), reason, int(attempts))


class Leaver(NamedTuple):
    """A member who left: owes the messages above `cursor`, up to the top when leaving."""

    user: int
    joined: int
    cursor: int
    top: int

    @classmethod
    def parse(cls, text: str, top: int) -> Leaver:
        user, joined, cursor = map(int, text.split("|"))
        return cls(user, joined, cursor, top)


def parse_index_entry(text: str) -> tuple[str, int]:
    """Return room id and seq."""
    room, _, seq = text.rpartition("|")
    return room, int(seq)
