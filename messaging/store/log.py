"""The operations on the messages of a room's log: append and read."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from messaging.errors import BacklogFull, IdReused, MessagingError, NoSuchMessage, NotMember, Unavailable

from .calls import ASK_ALONE, NO_LOG, NOT_MEMBER, Calls, text
from .members import Members
from .records import (
    Accepted,
    Append,
    OtherEpoch,
    Page,
    Position,
    Read,
    RoomKey,
    Slice,
    Stored,
    idempotency_key,
)

_ID_REUSED, _NO_REPLIED_TO = -3, -4
APPEND_BATCH = 100  # messages in one script call, so that no call takes longer than 5 ms
MAX_BODY_BYTES = 131_072  # bytes of bodies in one read
_POSITION_FIELDS = ("epoch", "top", "rev", "members", "life_top", "life_first")


class Log:
    """Messages of a room, in order."""

    def __init__(self, calls: Calls, members: Members) -> None:
        self._calls = calls
        self._members = members

    async def append(self, messages: Sequence[Append]) -> list[Accepted | MessagingError]:
        """Accept messages, at most 100 in each script call. Return the answers in order. In a Cluster, a call has messages of one partition.

        Idempotent by (room, user, id) within `id_life_s`. Each message has its own answer. If a script call fails, all its messages
        get the error. After `Unavailable` and `BacklogFull` the message may have been stored: repeat it with the same id.
        """
        by_slot: defaultdict[int, list[int]] = defaultdict(list)
        for index, message in enumerate(messages):
            by_slot[message.room.partition if self._calls.cluster else 0].append(index)
        answers: list[Accepted | MessagingError] = [Unavailable()] * len(messages)
        calls = [
            indexes[start : start + APPEND_BATCH]
            for indexes in by_slot.values()
            for start in range(0, len(indexes), APPEND_BATCH)
        ]
        results = await self._calls.scripts.run(
            [("append", self._append_args([messages[i] for i in call])) for call in calls]
        )
        without_log: list[int] = []
        for call, result in zip(calls, results, strict=True):
            for position, index in enumerate(call):
                answer = result if isinstance(result, MessagingError) else result[position]
                if answer == NO_LOG:
                    without_log.append(index)
                else:
                    answers[index] = _accepted(answer)
        if without_log:
            try:
                for room in {messages[index].room for index in without_log}:
                    await self._members.create_log(room)
            except (Unavailable, BacklogFull) as error:
                for index in without_log:
                    answers[index] = error
                return answers
            retried = await self.append([messages[index] for index in without_log])
            for index, accepted in zip(without_log, retried, strict=True):
                answers[index] = accepted
        return answers

    def _append_args(self, messages: Sequence[Append]) -> tuple[Any, ...]:
        policy = self._calls.policy
        args: list[Any] = [
            messages[0].room.prefix,
            policy.grace_s * 1000,
            policy.id_life_s * 1000,
            policy.sweep_interval_s * 1000,
        ]
        for message in messages:
            reply_to = "" if message.reply_to is None else message.reply_to
            args += (
                message.room.prefix,
                message.room.id,
                message.user,
                message.name,
                message.id,
                message.body,
                message.ttl_ms,
                zlib.crc32(f"{reply_to}|{message.body}".encode()),
                reply_to,
                "" if message.tracked else "1",
                ",".join(map(str, message.only)),
                "" if message.resends is None else message.resends,
                idempotency_key(message.room, message.user, message.id),
            )
        return tuple(args)

    async def read_after(self, user: int, reads: Sequence[Read]) -> list[Slice | OtherEpoch | MessagingError]:
        """Read, for one member, the visible messages after `since` in each log; with `rev`, also the changes to messages up to `since`.

        One round trip, unless a room has no log. Never returns an expired text. `NotMember` is the answer for a room that the user
        is not a member of.
        """
        calls = [("read_after", self._read_args(read, [user])) for read in reads]
        answers = await self._calls.scripts.run(calls)
        for i, answer in enumerate(answers):
            if answer == NO_LOG:
                await self._members.create_log(reads[i].room)
                [answers[i]] = await self._calls.scripts.run([calls[i]])
        return [result for [result] in (_slices(answer, 1) for answer in answers)]  # type: ignore[misc]

    async def read_for_many(
        self, requests: Sequence[tuple[Read, Sequence[int]]]
    ) -> list[list[Slice | OtherEpoch | MessagingError | None]]:
        """Read logs, each for many users. Users who see the same messages get the same `Slice`, which is read once.

        None for a user who needs a separate `read_after`: they see other messages, or the room has no log.
        """
        calls = [("read_after", self._read_args(read, users)) for read, users in requests]
        answers = await self._calls.scripts.run(calls)
        return [_slices(answer, len(users)) for answer, (_, users) in zip(answers, requests, strict=True)]

    def _read_args(self, read: Read, users: Sequence[int]) -> tuple[Any, ...]:
        return (
            read.room.prefix,
            read.room.id,
            read.epoch,
            read.since,
            "" if read.rev is None else read.rev,
            read.limit,
            MAX_BODY_BYTES,
            "0" if read.open_history else "",
            self._calls.policy.sweep_interval_s * 1000,
            self._calls.max_attempts if read.again else "",
            *users,
        )

    async def history(
        self, room: RoomKey, user: int, *, before: int, limit: int = 50, open_history: bool = False
    ) -> Page:
        """Read the newest visible messages below `before`, at most `limit`, ascending. Raises NotMember."""
        while True:
            answer = await self._members.run_in_log(
                "history", room, user, before, limit, MAX_BODY_BYTES, "0" if open_history else ""
            )
            if answer == NOT_MEMBER:
                raise NotMember()
            epoch, more, rows, before = answer
            # If no message of a page is visible, read the next older page: a page with `more` must contain a message to continue from.
            if rows or not more:
                messages = [_message(seq, fields) for seq, fields in reversed(rows)]
                return Page(text(epoch), messages, bool(more))

    async def positions(self, rooms: Sequence[RoomKey]) -> list[Position | None]:
        """Read the positions of many rooms in one round trip; None for a room without a log."""
        answers = await self._calls.scripts.pipeline(
            [("HMGET", room.key, *_POSITION_FIELDS) for room in rooms]
        )
        return [None if fields[0] is None else _position(*fields) for fields in answers]


def _accepted(answer: Any) -> Accepted | MessagingError:
    if isinstance(answer, MessagingError):
        return answer
    if isinstance(answer, int):
        return {NOT_MEMBER: NotMember, _ID_REUSED: IdReused, _NO_REPLIED_TO: NoSuchMessage}[answer]()
    duplicate = answer.startswith(b"=")
    epoch, seq, sent_at, expires_at = (answer[1:] if duplicate else answer).split(b"|")
    return Accepted(epoch.decode(), int(seq), int(sent_at), int(expires_at), duplicate)


def _slices(answer: Any, users: int) -> list[Slice | OtherEpoch | MessagingError | None]:
    """Return the answer for each user; None for a user who needs a separate call."""
    if isinstance(answer, MessagingError):
        return [answer] * users
    if answer == NO_LOG:
        return [None] * users
    codes, *fields = answer
    shared = OtherEpoch(text(fields[0])) if len(fields) == 1 else _slice(*fields)
    return [NotMember() if code == NOT_MEMBER else None if code == ASK_ALONE else shared for code in codes]


def _slice(
    epoch: bytes,
    top: int,
    rev: int,
    upto: int,
    more: int,
    messages: Any,
    gone: Any,
    changed: Any,
    doubt: bytes,
) -> Slice:
    return Slice(
        text(epoch),
        top,
        rev,
        upto,
        bool(more),
        [_message(seq, fields) for seq, fields in messages],
        [(gone[i], text(gone[i + 1])) for i in range(0, len(gone), 2)],
        [(rev, _message(seq, fields)) for seq, fields, rev in changed],
        _doubt(doubt),
    )


def _position(epoch: bytes, *fields: bytes | None) -> Position:
    return Position(text(epoch), *(int(field or 0) for field in fields))


def _doubt(value: bytes) -> tuple[int, int] | None:
    from_ms, _, to_ms = value.partition(b"|")
    return (int(from_ms), int(to_ms)) if value else None


def _message(seq: int, fields: list[bytes | None]) -> Stored:
    id_, sender, name, body, sent_at, expires_at, reply_to, edited_at, resends = fields
    return Stored(
        seq,
        id_.decode(),  # type: ignore[union-attr]
        int(sender),  # type: ignore[arg-type]
        name.decode(),  # type: ignore[union-attr]
        body.decode(),  # type: ignore[union-attr]
        int(sent_at),  # type: ignore[arg-type]
        int(expires_at),  # type: ignore[arg-type]
        None if reply_to is None else int(reply_to),
        None if edited_at is None else int(edited_at),
        None if resends is None else int(resends),
    )
