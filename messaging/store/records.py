"""What the store takes and gives, as plain frozen records. Times are epoch ms of the store's clock.

Those of the hot path are structs: a frozen dataclass of ten fields takes 1.2 us to make, a struct 0.1.
"""

from __future__ import annotations

import binascii
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import msgspec


def partition_prefix(partition: int) -> str:
    """Return what the keys of a partition begin with: its hash tag keeps them in one slot."""
    return f"chat:{{{partition}}}:"


@dataclasses.dataclass(frozen=True, slots=True)
class RoomKey:
    """What the store needs of a room: its id and its partition."""

    id: str
    partition: int

    @property
    def prefix(self) -> str:
        return partition_prefix(self.partition)

    @property
    def key(self) -> str:
        return f"{self.prefix}room:{self.id}"


class Append(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message to accept."""

    room: RoomKey
    user: int
    name: str
    id: str
    body: str
    ttl_ms: int
    reply_to: int | None = None
    only: tuple[int, ...] = ()  # who it is for, where it is for some: a resend
    resends: int | None = None  # seq of the expired message that it sends again
    tracked: bool = True  # False: nobody owes it


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The answer to an append, the first one also for a repeat. Times in epoch ms."""

    epoch: str
    seq: int
    sent_at: int
    expires_at: int
    duplicate: bool


class IdempotencyRecord(msgspec.Struct, frozen=True, gc=False):
    """What the store keeps of a message id when the message has gone. Times in epoch ms."""

    seq: int
    sent_at: int
    expires_at: int

    @classmethod
    def read(cls, packed: bytes) -> IdempotencyRecord:
        """Read what the append script packed: seq (5 bytes), sent_at (6), ttl in ms (5), checksum (4), then the epoch."""
        seq, sent_at, ttl_ms = (int.from_bytes(packed[at:to]) for at, to in ((0, 5), (5, 11), (11, 16)))
        return cls(seq, sent_at, sent_at + ttl_ms)


def idempotency_key(room: RoomKey, user: int, message_id: str) -> str:
    """Return the key of what is remembered of a message id. A UUID stands in it as 22 letters: 16 bytes less in the store."""
    try:
        value = bytes.fromhex(message_id.replace("-", ""))
    except ValueError:
        value = b""
    if len(value) == 16:
        message_id = binascii.b2a_base64(value)[:22].decode()
    return f"{room.prefix}sent:{room.id}:{user}:{message_id}"


class AckRow(msgspec.Struct, frozen=True, gc=False):
    """One user's cursors in one room, as acknowledged."""

    room: RoomKey
    epoch: str
    user: int
    delivered: int | None
    read: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class MemberPosition:
    """Where a member stands in a room."""

    epoch: str
    top: int
    rev: int
    members: int
    delivered: int
    read: int
    joined: int
    unread: int
    people: frozenset[int]  # the members, where they are few enough for presence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What to read of a room's log. `open_history` (public rooms) shows what is older than the joining; `again` leaves out
    what the user rejected, for it is never retried.
    """

    room: RoomKey
    epoch: str
    since: int
    rev: int | None = None
    limit: int = 500
    open_history: bool = False
    again: bool = False


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message as the store keeps it. Times in epoch ms."""

    seq: int
    id: str
    sender: int
    name: str
    body: str
    sent_at: int
    expires_at: int
    reply_to: int | None
    edited_at: int | None
    resends: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """What a member may see of a log after a seq: complete through `upto`. `gone` is [(seq, reason)]."""

    epoch: str
    top: int
    rev: int
    upto: int
    more: bool
    messages: list[Stored]
    gone: list[tuple[int, str]]
    changed: list[tuple[int, Stored]]  # each with the rev of its last change, ascending


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """What an edit, a delete or an extend did. `edited_at` is None where the text is the same."""

    epoch: str
    rev: int
    seq: int
    id: str
    expires_at: int
    edited_at: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Shortened:
    """How many live messages of a room were looked at, got a shorter life, and ended with it."""

    looked: int
    shortened: int
    ended: int


@dataclasses.dataclass(frozen=True, slots=True)
class OtherEpoch:
    """The reader holds another life of the log; `epoch` is the present one."""

    epoch: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Older messages, ascending."""

    epoch: str
    messages: list[Stored]
    more: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """A room's position; None where the room has no log."""

    epoch: str
    top: int
    rev: int
    members: int


@dataclasses.dataclass(frozen=True, slots=True)
class Recipient:
    """One who owes a message. `state`: waiting, delivered, read. `next_at_ms` of the next attempt, while connected."""

    user: int
    state: str
    attempts: int
    next_at_ms: int | None
    reason: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Owing:
    """A member who owes a live message above his cursor. `next_at_ms` 0: no attempt was made."""

    user: int
    cursor: int
    attempts: int
    next_at_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class DeliveryDebt:
    """What one member lacks in a room: how many live messages, and of the oldest seq and times (epoch ms); 0 where it is not known.

    `cut`: he is so far behind that not each was looked at; `count` then takes his own in.
    """

    count: int
    seq: int
    sent_at: int
    expires_at: int
    cut: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Recipients:
    """Who holds one message; `members` are at most 100, those who lack it first."""

    id: str
    sender: int
    sent_at: int
    expires_at: int
    total: int
    delivered: int
    read: int
    members: list[Recipient]


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A room leased for a look. `mark`: the newest seq old enough to be acknowledged; `score` fences a second claim."""

    room: RoomKey
    epoch: str
    mark: int
    oldest_at: int
    score: str


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """A claimed row of the expiry index. `due_at`: when it was due; `score` fences a second claim."""

    room: RoomKey
    seq: int
    due_at: int
    score: str


@dataclasses.dataclass(frozen=True, slots=True)
class Missed:
    """A member who owed a message and did not have it at its end. `reason`: offline, no_ack, client_rejected, left_room."""

    user: int
    reason: str
    attempts: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """What the store knows of a claimed message. `live` False: deleted, so that there is nothing to report.

    `body` is None and `name` '' where the Hash is gone; `total` members owed it, `missed` of them did not have it (one tuple is
    shared by the messages that the same members missed).
    """

    due: Due
    epoch: str
    live: bool
    sender: int
    id: str
    name: str
    body: str | None
    sent_at: int
    expires_at: int
    reply_to: int | None
    resends: int | None
    total: int
    missed: tuple[Missed, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Overdue:
    """Rows of the expiry index that are due now, and the age in seconds of the oldest of them."""

    due: int
    oldest_s: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class MemberBehind:
    """A member whose cursor is below the newest live message."""

    user: int
    cursor: int
    attempts: int
    next_at_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class Lag:
    """How a room stands: live messages, members behind and the first of them, furthest behind first."""

    room: RoomKey
    epoch: str
    live: int
    behind: int
    oldest_at: int
    members_behind: list[MemberBehind]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was done in a minute or a day, which began at `at`. `accepted` and `rejected` are messages, `retried` and `gave_up`
    pushes to a member, `delivered` live messages that cursors passed when they were acknowledged, one for each member. Of the
    messages that `expired`, `expired_to_all` reached everybody and `expired_missed` did not; `missed_...` are members who missed one.
    """

    at: int
    accepted: int = 0
    delivered: int = 0
    retried: int = 0
    gave_up: int = 0
    rejected: int = 0
    expired: int = 0
    expired_to_all: int = 0
    expired_missed: int = 0
    missed_offline: int = 0
    missed_no_ack: int = 0
    missed_client_rejected: int = 0
    missed_left_room: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MessageTotals:
    """What became of the messages accepted since `since` (epoch ms, the beginning of a day), of all rooms at one moment.

    `held` ended when nobody owed them, `deleted` were deleted by people, `live` have not ended. Missed ones are in the database.
    """

    since: int
    accepted: int
    held: int
    deleted: int
    live: int


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """How the store keeps messages. Bytes `used`, and their `limit`: 0 is none. `policy`: the maxmemory-policy of a full store.

    `logged`: it writes to disk. `written` is False if the last write failed.
    """

    WRITES: ClassVar = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")

    used: int
    limit: int
    policy: str
    logged: bool = True
    written: bool = True

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Self:
        """Read the answer of INFO, its sections memory and persistence."""
        return cls(
            int(info["used_memory"]),
            int(info["maxmemory"]),
            str(info["maxmemory_policy"]),
            logged=str(info["aof_enabled"]) == "1",
            written=all(info.get(name, "ok") == "ok" for name in cls.WRITES),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What is stored of a live message beside its text. `only`: whom it is for.

    `behind`: members below it who owe it, 0 where it is not tracked; `unshown`: those who could not show it, whom no cursor tells.
    """

    room: RoomKey
    seq: int
    id: str
    sender: int
    name: str
    sent_at: int
    expires_at: int
    edited_at: int | None
    reply_to: int | None
    resends: int | None
    tracked: bool
    behind: int
    unshown: int
    only: tuple[int, ...] | None
