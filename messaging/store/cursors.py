"""The operations on the cursors of a room: acknowledge, reject, receipts and recipients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

from messaging.errors import MessagingError, NoSuchMessage

from .calls import Calls, text
from .entries import Attempts
from .members import Members
from .records import AckRow, Recipient, Recipients, RoomKey, late_args

_ASK_ONE_BY_ONE = -1
_MOVED_IN_PART = 2
SENDER_BATCH = 10  # senders in one call of `receipts`, so that no call takes longer than 5 ms
ACK_BATCH = 200  # cursors in one call of `acknowledge`, for the same reason (500 that move take 7 ms)


class Cursors:
    """The members who hold and have read the messages of a room."""

    def __init__(self, calls: Calls, members: Members) -> None:
        self._calls = calls
        self._members = members

    async def acknowledge(self, acks: Sequence[AckRow]) -> list[int]:
        """Raise cursors, 200 rows of a partition in one script call. Return for each row 1 moved, 0 not moved, -5 above top;
        other codes mean that the row was ignored.

        A user may have only one row for each room: two equal rows would both count as moved.
        """
        answers = [0] * len(acks)
        rows: list[int] = list(range(len(acks)))
        while rows:
            for index, answer in await self._acknowledge(acks, rows):
                answers[index] = answer
            rows = [index for index in rows if answers[index] == _MOVED_IN_PART]
        return answers

    async def _acknowledge(self, acks: Sequence[AckRow], rows: Sequence[int]) -> list[tuple[int, int]]:
        """Make one round trip for some of the acknowledgements. Return [(index, answer)]."""
        by_partition: defaultdict[int, list[int]] = defaultdict(list)
        for index in rows:
            by_partition[acks[index].room.partition].append(index)
        calls = [
            indexes[start : start + ACK_BATCH]
            for indexes in by_partition.values()
            for start in range(0, len(indexes), ACK_BATCH)
        ]
        grouped = [_alike(acks, call) for call in calls]
        results = await self._calls.scripts.run(
            [("acknowledge", _ack_args(acks, groups, self._calls.lease_ms)) for groups in grouped]
        )
        answers: list[tuple[int, int]] = []
        for groups, result in zip(grouped, results, strict=True):
            if isinstance(result, MessagingError):
                raise result
            answers += zip(chain.from_iterable(groups), result, strict=True)
        return answers

    async def reject(self, room: RoomKey, user: int, epoch: str, seq: int) -> bool:
        """Record that a client cannot show a message that its user owes; return whether this is new. Idempotent."""
        return bool(await self._calls.run("reject", room, user, epoch, seq, self._calls.max_attempts) == 1)

    async def receipts(
        self, requests: Sequence[tuple[RoomKey, int]], *, above: Sequence[int] | None = None
    ) -> list[tuple[str, list[tuple[int, int, int, int]]]]:
        """Count the members who hold the newest messages of senders. `requests` are (room, sender).

        Return (epoch, [(seq, delivered, read, total)]) for each. `above` has a seq for each: only newer messages are counted.
        """
        floors = above or [0] * len(requests)
        by_room: defaultdict[RoomKey, list[int]] = defaultdict(list)
        for index, (room, _) in enumerate(requests):
            by_room[room].append(index)
        groups = [
            indexes[start : start + SENDER_BATCH]
            for indexes in by_room.values()
            for start in range(0, len(indexes), SENDER_BATCH)
        ]
        counted: list[tuple[str, list[tuple[int, int, int, int]]]] = [("", [])] * len(requests)
        while groups:
            calls = []
            for group in groups:
                room = requests[group[0]][0]
                senders = chain.from_iterable((requests[i][1], floors[i]) for i in group)
                calls.append(("receipts", (room.prefix, room.id, *senders)))
            alone: list[list[int]] = []
            for group, answer in zip(groups, await self._calls.scripts.run(calls), strict=True):
                if isinstance(answer, MessagingError):
                    raise answer
                if answer == _ASK_ONE_BY_ONE:
                    alone += [[index] for index in group]
                elif answer:
                    epoch, *rows = answer
                    for index, flat in zip(group, rows, strict=True):
                        columns = (flat[i::4][::-1] for i in range(4))
                        counted[index] = text(epoch), list(zip(*columns, strict=True))
            groups = alone
        return counted

    async def recipients(
        self, room: RoomKey, seq: int, *, reader: int | None = None, open_history: bool = False
    ) -> Recipients:
        """Return at most 100 recipients of one live message, first those who owe it.

        Raises NoSuchMessage, also if the message is hidden from `reader`. Without a reader, for the staff, none is hidden.
        """
        args = self._calls.max_attempts, "" if reader is None else reader, "0" if open_history else ""
        answer = await self._members.run_in_log("recipients", room, seq, *args)
        if answer == -2:
            raise NoSuchMessage()
        (id_, sender, sent_at, expires_at), owing, holding = answer
        [(_, rows)] = await self.receipts([(room, int(sender))])
        counts = next(
            (row for row in rows if row[0] == seq),
            (seq, len(holding) // 2, 0, len(owing) // 3 + len(holding) // 2),
        )
        members = [
            _owing_recipient(int(owing[i]), text(owing[i + 1]), text(owing[i + 2]))
            for i in range(0, len(owing), 3)
        ]
        for i in range(0, len(holding), 2):
            state = "read" if int(holding[i + 1]) >= seq else "delivered"
            members.append(Recipient(int(holding[i]), state, 0, None, None))
        return Recipients(
            text(id_), int(sender), int(sent_at), int(expires_at), counts[3], counts[1], counts[2], members
        )


def _alike(acks: Sequence[AckRow], indexes: Sequence[int]) -> list[list[int]]:
    """Group the acknowledgements that differ only in the user."""
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index in indexes:
        ack = acks[index]
        groups[ack.room.id, ack.epoch, ack.delivered, ack.read, ack.late, ack.judged].append(index)
    return list(groups.values())


def _ack_args(acks: Sequence[AckRow], groups: Sequence[Sequence[int]], lease_ms: int) -> tuple[Any, ...]:
    args: list[Any] = [acks[groups[0][0]].room.prefix, lease_ms]
    for group in groups:
        ack = acks[group[0]]
        delivered = "" if ack.delivered is None else ack.delivered
        read = "" if ack.read is None else ack.read
        args += (ack.room.id, ack.epoch, delivered, read, *late_args(ack.late, ack.judged), len(group))
        args += (acks[i].user for i in group)
    return tuple(args)


def _owing_recipient(user: int, attempts: str, rejected_after: str) -> Recipient:
    if rejected_after:
        return Recipient(user, "waiting", int(rejected_after), None, "client_rejected")
    n, next_at_ms, reason = Attempts.parse(attempts)
    if reason == "no_ack":
        return Recipient(user, "waiting", n, None, reason)
    return Recipient(user, "waiting", n, next_at_ms if n else None, None)
