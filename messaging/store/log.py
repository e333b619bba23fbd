"""The verbs on the messages and cursors of a room's log, and `Store`, which joins them with the other verbs."""

from __future__ import annotations

import asyncio
import time
import weakref
import zlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

from messaging import policy as policies
from messaging.errors import IdReused, MessagingError, NoSuchMessage, NotMember, Unavailable

from . import connections
from .base import ASK_ALONE, NO_LOG, NOT_MEMBER, text
from .changes import Changes
from .expiry import Expiries
from .lists import Lists
from .presence import PRESENCE_CHANNEL, Presences
from .records import (
    Accepted,
    AckRow,
    Append,
    OtherEpoch,
    Page,
    Place,
    Read,
    Recipient,
    Recipients,
    RoomKey,
    Slice,
    Stored,
    remembered_at,
)
from .retries import Retries
from .stats import COUNTED, JOBS_KEY, Facts

__all__ = ["COUNTED", "JOBS_KEY", "PRESENCE_CHANNEL", "Store", "open_store"]

_ID_REUSED, _NO_REPLIED_TO = -3, -4
_ASK_ONE_BY_ONE = -1
APPEND_MOST = 100  # messages in one append: no call over 5 ms
SENDERS_MOST = 10  # in one count of receipts: the same
ACKS_MOST = 200  # cursors in one acknowledge: the same (500 that move take 7 ms)
BODIES_MOST = 131_072  # bytes of bodies in one read


class Store(Changes, Retries, Expiries, Facts, Lists, Presences):
    """All verbs; here those on the messages and cursors of a room's log."""

    # Accepting

    async def append(self, messages: Sequence[Append]) -> list[Accepted | MessagingError]:
        """Accept messages, one script call for up to 100, in a Cluster of one partition; the answers in order.

        Idempotent by (room, user, id) within `id_life_s`. An error is one message's own; `Unavailable` and `BacklogFull`
        say nothing of whether it was stored: the same id again settles that.
        """
        by_slot: defaultdict[int, list[int]] = defaultdict(list)
        for index, message in enumerate(messages):
            by_slot[message.room.partition if self.cluster else 0].append(index)
        answers: list[Accepted | MessagingError] = [Unavailable()] * len(messages)
        calls = [
            indexes[at : at + APPEND_MOST]
            for indexes in by_slot.values()
            for at in range(0, len(indexes), APPEND_MOST)
        ]
        results = await self.scripts.run(
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
                    await self.init(room)
            except Unavailable:
                return answers  # those without a log keep that answer; the others were accepted
            again = await self.append([messages[index] for index in without_log])
            for index, accepted in zip(without_log, again, strict=True):
                answers[index] = accepted
        return answers

    def _append_args(self, messages: Sequence[Append]) -> tuple[Any, ...]:
        policy = self.policy
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
                remembered_at(message.room, message.user, message.id),
            )
        return tuple(args)

    # Reading

    async def read_after(self, user: int, reads: Sequence[Read]) -> list[Slice | OtherEpoch | MessagingError]:
        """Read what a member may see of logs after a seq, in one round trip; with `rev`, also what changed up to there.

        Never returns an expired text. `NotMember` stands in the place of a room that is not the user's.
        """
        calls = [("read_after", self._read_args(read, [user])) for read in reads]
        answers = await self.scripts.run(calls)
        for at, answer in enumerate(answers):
            if answer == NO_LOG:
                await self.init(reads[at].room)
                [answers[at]] = await self.scripts.run([calls[at]])
        return [found for [found] in (_slices(answer, 1) for answer in answers)]  # type: ignore[misc]

    async def read_for_many(
        self, asked: Sequence[tuple[Read, Sequence[int]]]
    ) -> list[list[Slice | OtherEpoch | MessagingError | None]]:
        """Read the same for many users: who sees the same gets the same `Slice`, which was read once.

        None for one who must be asked for alone, by `read_after`: he sees something else, or the room has no log.
        """
        answers = await self.scripts.run([("read_after", self._read_args(*one)) for one in asked])
        return [_slices(answer, len(users)) for answer, (_, users) in zip(answers, asked, strict=True)]

    def _read_args(self, read: Read, users: Sequence[int]) -> tuple[Any, ...]:
        return (
            read.room.prefix,
            read.room.id,
            read.epoch,
            read.since,
            "" if read.rev is None else read.rev,
            read.limit,
            BODIES_MOST,
            "0" if read.open_history else "",
            self.policy.sweep_interval_s * 1000,
            self.attempts_most if read.again else "",
            *users,
        )

    async def history(
        self, room: RoomKey, user: int, *, before: int, limit: int = 50, open_history: bool = False
    ) -> Page:
        """Read the newest `limit` visible messages below `before`, ascending. Raises NotMember."""
        found: list[Stored] = []
        while True:
            answer = await self._in_log(
                "history", room, user, before, limit - len(found), BODIES_MOST, "0" if open_history else ""
            )
            if answer == NOT_MEMBER:
                raise NotMember()
            epoch, more, messages, before = answer
            found += [_message(seq, fields) for seq, fields in messages]
            # A long stretch of holes shows nothing: look on below it, so that a page that says `more` has a row to page from.
            if found or not more:
                return Page(text(epoch), found[::-1], bool(more))

    async def places(self, rooms: Sequence[RoomKey]) -> list[Place | None]:
        """Read the positions of many rooms in one round trip."""
        answers = await self.scripts.pipeline(
            [("HMGET", room.key, "epoch", "top", "rev", "members") for room in rooms]
        )
        return [
            None if fields[0] is None else Place(text(fields[0]), *map(int, fields[1:])) for fields in answers
        ]

    # Acknowledging

    async def acknowledge(self, acks: Sequence[AckRow]) -> list[int]:
        """Raise cursors, a script call a partition. Returns for each 1 moved, 0 not, -5 above top, else ignored.

        A user has one row a room: of two that are alike both would count as moved.
        """
        by_partition: defaultdict[int, list[int]] = defaultdict(list)
        for index, ack in enumerate(acks):
            by_partition[ack.room.partition].append(index)
        calls = [
            indexes[at : at + ACKS_MOST]
            for indexes in by_partition.values()
            for at in range(0, len(indexes), ACKS_MOST)
        ]
        grouped = [_alike(acks, call) for call in calls]
        results = await self.scripts.run([("acknowledge", _ack_args(acks, groups)) for groups in grouped])
        answers = [0] * len(acks)
        for groups, result in zip(grouped, results, strict=True):
            if isinstance(result, MessagingError):
                raise result
            for index, answer in zip(chain.from_iterable(groups), result, strict=True):
                answers[index] = answer
        return answers

    async def reject(self, room: RoomKey, user: int, epoch: str, seq: int) -> bool:
        """Note that a client cannot show a message its user owes; False when there is nothing new to note. Idempotent."""
        return bool(await self._run("reject", room, user, epoch, seq, self.attempts_most) == 1)

    async def receipts(
        self, asked: Sequence[tuple[RoomKey, int]], *, above: Sequence[int] | None = None
    ) -> list[tuple[str, list[tuple[int, int, int, int]]]]:
        """Count who holds senders' newest messages: for each (room, sender) its epoch and [(seq, delivered, read, total)].

        `above`, one for each: only messages above that seq.
        """
        floors = above or [0] * len(asked)
        by_room: defaultdict[RoomKey, list[int]] = defaultdict(list)
        for index, (room, _) in enumerate(asked):
            by_room[room].append(index)
        groups = [
            indexes[at : at + SENDERS_MOST]
            for indexes in by_room.values()
            for at in range(0, len(indexes), SENDERS_MOST)
        ]
        found: list[tuple[str, list[tuple[int, int, int, int]]]] = [("", [])] * len(asked)
        while groups:
            calls = []
            for group in groups:
                room = asked[group[0]][0]
                senders = chain.from_iterable((asked[i][1], floors[i]) for i in group)
                calls.append(("receipts", (room.prefix, room.id, *senders)))
            alone: list[list[int]] = []
            for group, answer in zip(groups, await self.scripts.run(calls), strict=True):
                if isinstance(answer, MessagingError):
                    raise answer
                if answer == _ASK_ONE_BY_ONE:
                    alone += [[index] for index in group]
                elif answer:
                    epoch, *rows = answer
                    for index, flat in zip(group, rows, strict=True):
                        columns = (flat[i::4][::-1] for i in range(4))
                        found[index] = text(epoch), list(zip(*columns, strict=True))
            groups = alone
        return found

    async def recipients(self, room: RoomKey, seq: int) -> Recipients:
        """Say who holds one live message, those who lack it first, at most 100. Raises NoSuchMessage."""
        answer = await self._in_log("recipients", room, seq, self.attempts_most)
        if answer == -2:
            raise NoSuchMessage()
        (id_, sender, sent_at, expires_at, _now, _only), waiting, holding = answer
        [(_, rows)] = await self.receipts([(room, int(sender))])
        counts = next(
            (row for row in rows if row[0] == seq),
            (seq, len(holding) // 2, 0, len(waiting) // 3 + len(holding) // 2),
        )
        members = [
            _waiting(int(waiting[i]), text(waiting[i + 1]), text(waiting[i + 2]))
            for i in range(0, len(waiting), 3)
        ]
        for i in range(0, len(holding), 2):
            state = "read" if int(holding[i + 1]) >= seq else "delivered"
            members.append(Recipient(int(holding[i]), state, 0, None, None))
        return Recipients(
            text(id_), int(sender), int(sent_at), int(expires_at), counts[3], counts[1], counts[2], members
        )


_stores: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Store] = weakref.WeakKeyDictionary()


def open_store() -> Store:
    """Return the store of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _stores:
        _stores[loop] = Store(connections.async_client(), policies.current())
    return _stores[loop]


def _accepted(answer: Any) -> Accepted | MessagingError:
    if isinstance(answer, MessagingError):
        return answer
    if isinstance(answer, int):
        return {NOT_MEMBER: NotMember, _ID_REUSED: IdReused, _NO_REPLIED_TO: NoSuchMessage}[answer]()
    duplicate = answer.startswith(b"=")
    epoch, seq, sent_at, expires_at = (answer[1:] if duplicate else answer).split(b"|")
    return Accepted(epoch.decode(), int(seq), int(sent_at), int(expires_at), duplicate)


def _alike(acks: Sequence[AckRow], indexes: Sequence[int]) -> list[list[int]]:
    """Put the acks together that differ in nothing but the user."""
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index in indexes:
        ack = acks[index]
        groups[ack.room.id, ack.epoch, ack.delivered, ack.read].append(index)
    return list(groups.values())


def _ack_args(acks: Sequence[AckRow], groups: Sequence[Sequence[int]]) -> tuple[Any, ...]:
    args: list[Any] = [acks[groups[0][0]].room.prefix]
    for group in groups:
        ack = acks[group[0]]
        delivered = "" if ack.delivered is None else ack.delivered
        read = "" if ack.read is None else ack.read
        args += (ack.room.id, ack.epoch, delivered, read, len(group), *(acks[i].user for i in group))
    return tuple(args)


def _slices(answer: Any, users: int) -> list[Slice | OtherEpoch | MessagingError | None]:
    """Return what each of the users sees; None for one who must be asked for alone."""
    if isinstance(answer, MessagingError):
        return [answer] * users
    if answer == NO_LOG:
        return [None] * users
    codes, *rest = answer
    seen = OtherEpoch(text(rest[0])) if len(rest) == 1 else _slice(*rest)
    return [NotMember() if code == NOT_MEMBER else None if code == ASK_ALONE else seen for code in codes]


def _slice(
    epoch: bytes, top: int, rev: int, upto: int, more: int, messages: Any, gone: Any, changed: Any
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
    )


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


def _waiting(user: int, attempts: str, rejected: str) -> Recipient:
    if rejected:
        return Recipient(user, "waiting", int(rejected), None, "client_rejected")
    if not attempts:
        return Recipient(user, "waiting", 0, None, None)
    n, _first_at, next_at, reason = attempts.split("|")
    if reason != "no_ack":
        return Recipient(user, "waiting", int(n), int(next_at), None)
    return Recipient(user, "waiting", int(n), None, reason)


async def clock_ms() -> int:
    """Return the store's time, this machine's while the store is away: a room can be changed without it."""
    try:
        return await open_store().now_ms()
    except Unavailable:
        return round(time.time() * 1000)
