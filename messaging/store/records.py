"""Arguments and answers of the store, as plain frozen records. Times are epoch ms of the store's clock.

Records of the hot path are structs: a frozen dataclass of ten fields takes 1.2 us to make, a struct 0.1.
"""

from __future__ import annotations

import binascii
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import msgspec

# The first append in each room after a restart of the store raises `top` by at least this step (SKIP in `lua/append.lua`).
LIFE_STEP = 1_048_576


def partition_prefix(partition: int) -> str:
    """Return the prefix of a partition's keys: its hash tag keeps them in one slot."""
    return f"chat:{{{partition}}}:"


@dataclasses.dataclass(frozen=True, slots=True)
class RoomKey:
    """The id and the partition of a room: everything that the store needs of it."""

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
    only: tuple[int, ...] = ()  # recipients of a resend; empty: all members
    resends: int | None = None  # seq of the expired message that is sent again
    tracked: bool = True  # False: nobody owes it


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The answer to an append; a repeated append gets the first answer. Times in epoch ms."""

    epoch: str
    seq: int
    sent_at: int
    expires_at: int
    duplicate: bool


class IdempotencyRecord(msgspec.Struct, frozen=True, gc=False):
    """The record of an accepted message id, kept after the message itself. Times in epoch ms."""

    seq: int
    sent_at: int
    expires_at: int

    @classmethod
    def read(cls, packed: bytes) -> IdempotencyRecord:
        """Parse the value that the append script wrote: seq (5 bytes), sent_at (6), ttl in ms (5), checksum (4), then the epoch."""
        seq, sent_at, ttl_ms = (
            int.from_bytes(packed[start:stop]) for start, stop in ((0, 5), (5, 11), (11, 16))
        )
        return cls(seq, sent_at, sent_at + ttl_ms)


def idempotency_key(room: RoomKey, user: int, message_id: str) -> str:
    """Return the key of a message id's record. A UUID is written as 22 letters: 16 bytes less in the store."""
    try:
        value = bytes.fromhex(message_id.replace("-", ""))
    except ValueError:
        value = b""
    if len(value) == 16:
        message_id = binascii.b2a_base64(value)[:22].decode()
    return f"{room.prefix}sent:{room.id}:{user}:{message_id}"


class Held(NamedTuple):
    """The part of a room's log that a client holds: everything of `epoch` up to `since`. `late`, `judged`: as of an AckRow."""

    epoch: str = ""
    since: int = 0
    late: tuple[int, ...] = ()
    judged: bool = False


class AckRow(msgspec.Struct, frozen=True, gc=False):
    """One user's acknowledged cursors in one room. `late` are messages that the client got only after their end. If it is `judged`, the
    client has named all of these; otherwise the store looks which have ended.
    """

    room: RoomKey
    epoch: str
    user: int
    delivered: int | None
    read: int | None
    late: tuple[int, ...] = ()
    judged: bool = False


def late_args(late: Sequence[int], judged: bool) -> tuple[str, str]:
    """Return the late messages of an acknowledgement as scripts take them."""
    return ",".join(map(str, late)), "1" if judged else ""


@dataclasses.dataclass(frozen=True, slots=True)
class MemberPosition:
    """The position of a member in a room."""

    epoch: str
    top: int
    rev: int
    members: int
    delivered: int
    read: int
    joined: int
    unread: int
    people: frozenset[int]  # all members, in rooms small enough for presence
    in_doubt: bool = False  # the room lost messages: a read has the period


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A request to read a room's log. With `open_history` (public rooms) it includes messages from before the user joined. With `again`
    it is for a retry, and omits messages that the user rejected.
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
    """The visible part of a log after a seq, complete up to `upto`. `gone` is [(seq, reason)]. `doubt`: (from, to), epoch ms: messages
    accepted in between may be missing, because the store lost data.
    """

    epoch: str
    top: int
    rev: int
    upto: int
    more: bool
    messages: list[Stored]
    gone: list[tuple[int, str]]
    changed: list[tuple[int, Stored]]  # (rev of the last change, message), ascending
    doubt: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """The result of an edit, a delete or an extend. `edited_at` is None if the text did not change."""

    epoch: str
    rev: int
    seq: int
    id: str
    expires_at: int
    edited_at: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Shortened:
    """The numbers of a room's live messages that were read, that got a shorter life, and that ended at once."""

    looked: int
    shortened: int
    ended: int


@dataclasses.dataclass(frozen=True, slots=True)
class OtherEpoch:
    """The answer to a reader with another epoch, or with a `since` above the top. `epoch` is the log's present epoch."""

    epoch: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Older messages, ascending."""

    epoch: str
    messages: list[Stored]
    more: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """A room's position, and the count of its joins and leaves. `life_top`: the top before the last step (`LIFE_STEP`),
    `life_first`: the first seq after it.
    """

    epoch: str
    top: int
    rev: int
    members: int
    life_top: int
    life_first: int

    def lost_since(self, known_top: int) -> int:
        """Return how many messages the log has lost, if `known_top` was its top before this position was read.

        The messages with seqs between `life_top` and `life_first` are lost, if they were ever given. The number is an estimate: 1 if
        a step lies between, so that they cannot be counted.
        """
        survived = self.life_top if self.life_top < known_top < self.life_first else self.top
        lost = max(0, known_top - survived)
        return lost if lost <= LIFE_STEP else 1


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """The mark of a partition, when it was written (epoch ms), and in which life of the store."""

    number: int
    at_ms: int
    life: str


@dataclasses.dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient of a message. `state`: waiting, delivered or read. `next_at_ms`: time of the next attempt, None if there is none."""

    user: int
    state: str
    attempts: int
    next_at_ms: int | None
    reason: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Owing:
    """A member who owes a live message above their cursor. `next_at_ms`: 0 if no attempt was made."""

    user: int
    cursor: int
    attempts: int
    next_at_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class DeliveryDebt:
    """The live messages that a member owes in a room: their number, and the seq and times of the oldest (epoch ms; 0 if unknown).

    `cut`: there were too many messages to read them all; `count` then includes the member's own messages.
    """

    count: int
    seq: int
    sent_at: int
    expires_at: int
    cut: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Recipients:
    """The recipients of one message. `members` has at most 100 of them, first those who owe it."""

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
    """A room claimed for a sweep. `mark`: the newest message that is old enough to be acknowledged (seq). A later claim has another
    `score`.
    """

    room: RoomKey
    epoch: str
    mark: int
    oldest_at: int
    score: str


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """A claimed row of the expiry index, which was due at `due_at`. A later claim has another `score`."""

    room: RoomKey
    seq: int
    due_at: int
    score: str


@dataclasses.dataclass(frozen=True, slots=True)
class Missed:
    """A member who owed a message and did not hold it when it expired. `reason`: offline, no_ack, late, client_rejected, left_room."""

    user: int
    reason: str
    attempts: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """A claimed message as stored. If `live` is False there is nothing to report: it was deleted or is reported already.

    `body` is None and `name` '' if the Hash was deleted. `total` members owed it, and the members in `missed` did not hold it.
    Messages that the same members missed share one tuple.
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
    """The number of rows of the expiry index that are due now, and the age of the oldest in seconds (None without rows)."""

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
    """The members behind in a room: their number, and the first of them, furthest behind first. `live` is the number of live messages."""

    room: RoomKey
    epoch: str
    live: int
    behind: int
    oldest_at: int
    members_behind: list[MemberBehind]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The events of a period (a minute, a day or 24 hours) that began at `at`.

    `accepted` and `rejected` count messages; `retried` and `gave_up` count pushes to a member. `delivered` counts the live messages
    that acknowledged cursors passed, once for each member. Of the `expired` messages, `expired_to_all` reached all members and
    `expired_missed` did not. `missed_...` count members who missed a message, by reason.
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
    missed_late: int = 0
    missed_client_rejected: int = 0
    missed_left_room: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MessageTotals:
    """The numbers of messages accepted since `since` (epoch ms, the beginning of a day), in all rooms at one moment.

    `held` expired after every member had them, `deleted` were deleted by people, `live` have not ended. The others were missed: they
    are in the database.
    """

    since: int
    accepted: int
    held: int
    deleted: int
    live: int


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """The store's memory and disk. `used` and `limit` are bytes (limit 0: none); `policy` is the maxmemory-policy.

    `logged`: it has a log on disk. `written`: the last write to disk succeeded.
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
    """A live message without its text. `only`: its recipients, None for all members.

    `behind`: the number of members who owe it and whose cursor is below it, 0 if it is not tracked. `unshown`: the number of members
    whose clients could not show it, with a cursor below or above it.
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
