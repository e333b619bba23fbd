"""The store compared with a simple model: in every order of operations, members and devices, both give the same results.

The model knows the rules of docs/protocol.md and nothing of Redis. Time passes by moving a message's expiry, never by waiting.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from messaging.errors import Forbidden, IdReused, MessagingError, NoSuchMessage, NotMember, TooLate
from messaging.policy import Policy
from messaging.store import Store, connections
from messaging.store.records import (
    Accepted,
    AckRow,
    Append,
    Changed,
    Expired,
    Held,
    OtherEpoch,
    Read,
    RoomKey,
    Slice,
)
from tests.store.test_store_changes import changed
from tests.store.test_store_expiry import tick
from tests.support.messages import (
    HOUR_MS,
    cursors,
    due,
    expire,
    message,
    missing,
    new_id,
    read_together,
    stand_together,
    vanish,
)

T = TypeVar("T")
USERS = st.sampled_from([1, 2, 3])
DEVICES = st.sampled_from([(user, device) for user in (1, 2, 3) for device in ("phone", "desk")])
IDS = st.sampled_from([f"00000000-0000-0000-0000-00000000000{n}" for n in range(6)])
BODIES = st.sampled_from(["hello", "bye"])
BACK = st.integers(0, 4)  # how many messages ago
LIMITS = st.sampled_from([1, 2, 500])
_serial = itertools.count(1)


@dataclasses.dataclass
class Logged:
    """An accepted message. `owed` is fixed at acceptance."""

    seq: int
    sender: int
    body: str
    id: str
    owed: set[int]
    only: frozenset[int] | None = None
    expired: bool = False
    deleted: bool = False
    cleared: bool = False

    @property
    def live(self) -> bool:
        return not self.deleted and not self.cleared

    @property
    def readable(self) -> bool:
        return self.live and not self.expired

    def is_for(self, user: int) -> bool:
        return self.only is None or user in self.only or user == self.sender


class StoreMachine(RuleBasedStateMachine):
    """One room, three users of two devices each."""

    store: Store
    runner: asyncio.Runner

    @initialize()
    def begin(self) -> None:
        self.room = RoomKey(f"room-{next(_serial)}", 7)
        self.log: list[Logged] = []
        self.sent: dict[tuple[int, str], tuple[str, Accepted]] = {}
        self.joined: dict[int, int] = {1: 0, 2: 0, 3: 0}
        self.delivered: dict[int, int] = {1: 0, 2: 0, 3: 0}
        self.read: dict[int, int] = {1: 0, 2: 0, 3: 0}
        self.left: list[tuple[int, int, int, int]] = []  # user, joined, cursor, top
        self.passed_over: set[tuple[int, int]] = set()  # seq, user
        self.device_last: dict[tuple[int, str], int] = {}
        self.moves = 0
        self.rev = 0
        self.changed: dict[int, int] = {}  # seq -> rev
        self.epoch = self.run(self.store.members.create_log(self.room))
        for user in (1, 2, 3, 1):  # so that the first steps have messages
            self.append(user, new_id(), "hello")

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(verb)

    @property
    def top(self) -> int:
        return len(self.log)

    # Accepting

    @rule(user=USERS, id_=IDS, body=BODIES)
    def append(self, user: int, id_: str, body: str) -> None:
        """Ids are few, so some are repeated."""
        [answer] = self.run(self.store.log.append([self._message(user, id_, body)]))
        self._check_append(user, id_, body, answer)

    @rule(user=USERS, ids=st.lists(IDS, min_size=2, max_size=4))
    def append_batch(self, user: int, ids: list[str]) -> None:
        answers = self.run(self.store.log.append([self._message(user, id_, "hello") for id_ in ids]))
        for id_, answer in zip(ids, answers, strict=True):
            self._check_append(user, id_, "hello", answer)

    @rule(user=USERS, id_=IDS, only=st.frozensets(USERS, min_size=1))
    def append_for_some(self, user: int, id_: str, only: frozenset[int]) -> None:
        """Resend to the members who missed something."""
        again = msgspec.structs.replace(self._message(user, id_, "hello"), only=tuple(only), resends=1)
        [answer] = self.run(self.store.log.append([again]))
        self._check_append(user, id_, "hello", answer, only)

    def _message(self, user: int, id_: str, body: str) -> Append:
        return message(body, user=user, id_=id_, room=self.room)

    def _check_append(
        self,
        user: int,
        id_: str,
        body: str,
        answer: Accepted | MessagingError,
        only: frozenset[int] | None = None,
    ) -> None:
        first = self.sent.get((user, id_))
        if first is not None and first[0] != body:
            assert isinstance(answer, IdReused)
        elif first is not None:
            assert answer == msgspec.structs.replace(first[1], duplicate=True)
        elif user not in self.joined:
            assert isinstance(answer, NotMember)
        else:
            assert isinstance(answer, Accepted)
            assert (answer.epoch, answer.seq, answer.duplicate) == (self.epoch, self.top + 1, False)
            self.sent[user, id_] = body, answer
            owed = {member for member in self.joined if member != user and (only is None or member in only)}
            self.log.append(Logged(answer.seq, user, body, id_, owed, only))
            if self.delivered[user] == answer.seq - 1:
                self.delivered[user] = answer.seq

    # Changing

    @rule(user=USERS, back=BACK, kind=st.sampled_from(["edit", "extend", "delete"]), moderates=st.booleans())
    def change(self, user: int, back: int, kind: str, moderates: bool) -> None:
        seq = self.top - back % self.top
        whose = {"open_history": False, "moderates": moderates}
        match kind:
            case "edit":
                edit = self.store.changes.edit(self.room, user, None, seq, f"{self.rev}", open_history=False)
                if row := self._check_change(user, seq, edit, False):
                    row.body = f"{self.rev - 1}"
            case "extend":
                extend = self.store.changes.extend(self.room, user, None, seq, 2 * HOUR_MS, **whose)
                self._check_change(user, seq, extend, moderates)
            case _:
                for _ in range(2):
                    self._delete(user, seq, whose)

    def _delete(self, user: int, seq: int, whose: dict[str, bool]) -> None:
        asked = self.store.changes.delete(self.room, user, None, seq, **whose)
        if user in self.joined and seq > 0 and self.log[seq - 1].deleted and seq in self.changed:
            assert self.run(asked).rev == self.changed[seq], "the same answer"
        elif row := self._check_change(user, seq, asked, whose["moderates"]):
            row.deleted = True

    def _check_change(
        self, user: int, seq: int, asked: Coroutine[Any, Any, Changed], moderates: bool
    ) -> Logged | None:
        row = self.log[seq - 1] if seq > 0 else None
        refusal = self._refusal(user, row, moderates)
        if refusal is not None:
            with pytest.raises(refusal):
                self.run(asked)
            return None
        answer = self.run(asked)
        self.rev += 1
        self.changed[seq] = self.rev
        assert (answer.epoch, answer.rev, answer.seq) == (self.epoch, self.rev, seq)
        return row

    def _refusal(self, user: int, row: Logged | None, moderates: bool) -> type[MessagingError] | None:
        if user not in self.joined:
            return NotMember
        if row is None or not row.live:
            return NoSuchMessage
        if row.sender != user and not (row.seq > self.joined[user] and row.is_for(user)):
            return NoSuchMessage
        if row.sender != user and not moderates:
            return Forbidden
        return TooLate if row.expired else None

    # Reading

    @rule(
        users=st.lists(USERS, min_size=1, max_size=4),
        back=st.integers(-1, 6),
        limit=LIMITS,
        changes=st.none() | st.integers(0, 6),
    )
    def read_after(self, users: list[int], back: int, limit: int, changes: int | None) -> None:
        """Read for several users together, after some message and change; also above the top."""
        rev = None if changes is None else max(0, self.rev - changes)
        self._check_reads(users, max(0, self.top - back), limit, rev)

    @rule(device=DEVICES, limit=LIMITS)
    def sync(self, device: tuple[int, str], limit: int) -> None:
        """A device continues after its own last message, which may differ from the cursor of its user."""
        since = self.device_last.get(device, 0)
        [slice_] = self._check_reads([device[0]], since, limit)
        if slice_ is not None:
            self.device_last[device] = slice_.upto

    def _check_reads(
        self, users: list[int], since: int, limit: int, rev: int | None = None
    ) -> list[Slice | None]:
        asked = Read(room=self.room, epoch=self.epoch, since=since, rev=rev, limit=limit)
        answers = self.run(read_together(self.store, asked, users))
        return [self._check_read(user, asked, answer) for user, answer in zip(users, answers, strict=True)]

    def _check_read(
        self, user: int, asked: Read, answer: Slice | OtherEpoch | MessagingError
    ) -> Slice | None:
        since, limit, rev = asked.since, asked.limit, asked.rev
        if user not in self.joined:
            assert isinstance(answer, NotMember)
            return None
        if since > self.top:
            assert answer == OtherEpoch(self.epoch)
            return None
        assert isinstance(answer, Slice)
        gone, left_over = self._check_changed(user, since, limit, rev, answer)
        start = max(since, self.joined[user])
        coming = [row for row in self.log[start:] if row.live]
        rows = coming[:limit]
        seen = [(row.seq, row.body, row.id) for row in rows if row.readable and row.is_for(user)]
        assert [(row.seq, row.body, row.id) for row in answer.messages] == seen
        assert answer.gone == gone + [
            (row.seq, "expired" if row.is_for(user) else "not_for_you")
            for row in rows
            if row.expired or not row.is_for(user)
        ]
        cut = len(coming) > limit
        assert answer.more == (cut or left_over)
        assert answer.upto == (rows[-1].seq if cut else self.top)
        for row in rows:
            if (
                row.expired
                and user in row.owed
                and self.joined[user] < row.seq
                and self.delivered[user] < row.seq
            ):
                self.passed_over.add((row.seq, user))
        return answer

    def _check_changed(
        self, user: int, since: int, limit: int, rev: int | None, answer: Slice
    ) -> tuple[list[tuple[int, str]], bool]:
        """Compare the changes at or below `since`; return those deleted or expired, and whether there are more."""
        after = self.rev if rev is None else rev
        known = sorted((at, seq) for seq, at in self.changed.items() if at > after)
        rows = [
            (at, row)
            for at, seq in known[:limit]
            if self.joined[user] < (row := self.log[seq - 1]).seq <= since
            and (row.is_for(user) or row.deleted)  # the recipients of a deleted message are no longer known
        ]
        there = [(at, row.seq, row.body) for at, row in rows if row.readable]
        assert [(at, row.seq, row.body) for at, row in answer.changed] == there
        assert answer.rev == (known[limit - 1][0] if len(known) > limit else self.rev)
        gone = [(row.seq, "deleted" if row.deleted else "expired") for _, row in rows if not row.readable]
        return gone, len(known) > limit

    @rule(user=USERS, back=st.integers(-2, 6), limit=LIMITS)
    def history(self, user: int, back: int, limit: int) -> None:
        before = max(0, self.top - back)
        if user not in self.joined:
            with pytest.raises(NotMember):
                self.run(self.store.log.history(self.room, user, before=before, limit=limit))
            return
        page = self.run(self.store.log.history(self.room, user, before=before, limit=limit))
        within = self.log[self.joined[user] : max(0, before - 1)]
        visible = [row.seq for row in within if row.readable and row.is_for(user)]
        assert [row.seq for row in page.messages] == visible[-limit:]
        if not page.more:
            assert len(visible) <= limit

    # Acknowledging

    @rule(device=DEVICES)
    def acknowledge_what_was_synced(self, device: tuple[int, str]) -> None:
        self._check_ack(device[0], self.device_last.get(device, 0), None)

    @rule(
        user=USERS,
        delivered=st.none() | st.integers(0, 12),
        read=st.none() | st.integers(0, 12),
        late=st.lists(st.integers(0, 12), max_size=3),
        judged=st.booleans(),
    )
    def acknowledge(
        self, user: int, delivered: int | None, read: int | None, late: list[int], judged: bool
    ) -> None:
        self._check_ack(user, delivered, read, tuple(late), judged)

    @rule(user=USERS, back=BACK, late=st.lists(st.integers(0, 12), max_size=3), judged=st.booleans())
    def hello(self, user: int, back: int, late: list[int], judged: bool) -> None:
        """A client comes back: its `since` is an acknowledgement."""
        if user not in self.joined:
            return
        held = Held(self.epoch, max(0, self.top - back), tuple(late), judged)
        [position] = self.run(self.store.members.member_positions(user, [(self.room, held)]))
        if held.since > self.delivered[user]:
            self._get_late(user, self.joined[user], self.delivered[user], held.since, held.late, judged)
            self.delivered[user] = held.since
        assert position is not None
        assert position.delivered == self.delivered[user]

    @rule(user=USERS, epoch=st.just("other"))
    def acknowledge_another_epoch(self, user: int, epoch: str) -> None:
        assert self.run(
            self.store.cursors.acknowledge([AckRow(self.room, epoch, user, self.top, self.top)])
        ) == [-3]

    def _check_ack(
        self,
        user: int,
        delivered: int | None,
        read: int | None,
        late: tuple[int, ...] = (),
        judged: bool = True,
    ) -> None:
        row = AckRow(self.room, self.epoch, user, delivered, read, late, judged)
        [answer] = self.run(self.store.cursors.acknowledge([row]))
        if max(delivered or 0, read or 0) > self.top:
            assert answer == -5
            return
        if user not in self.joined:
            assert answer == (1 if self._raise_left(user, delivered or 0, late, judged) else -2)
            return
        before = self.delivered[user], self.read[user]
        self._get_late(user, self.joined[user], before[0], delivered or 0, late, judged)
        self.delivered[user] = max(self.delivered[user], delivered or 0)
        self.read[user] = max(self.read[user], min(read or 0, self.delivered[user]))
        assert answer == (before != (self.delivered[user], self.read[user]))

    def _get_late(
        self, user: int, joined: int, above: int, upto: int, late: tuple[int, ...], judged: bool
    ) -> None:
        """Note the messages that a member owed until now and got late: their client names them, or it does not judge and they have ended."""
        for row in self.log[above:upto]:
            is_late = row.seq in late or (row.expired and not judged)
            if row.live and is_late and joined < row.seq and user != row.sender and row.is_for(user):
                self.passed_over.add((row.seq, user))

    def _raise_left(self, user: int, delivered: int, late: tuple[int, ...], judged: bool) -> bool:
        """Raise the cursor at which a user left last, if they owe a live message; return whether it was raised."""
        for at in reversed(range(len(self.left))):
            left, joined, cursor, top = self.left[at]
            if left == user and any(row.live and cursor < row.seq <= top for row in self.log):
                raised = min(delivered, top)
                self._get_late(user, joined, cursor, raised, late, judged)
                self.left[at] = user, joined, max(cursor, raised), top
                return raised > cursor
        return False

    # Members

    @rule(user=USERS)
    def join(self, user: int) -> None:
        self.run(self.store.members.join(self.room, [user]))
        if user not in self.joined:
            self.joined[user] = self.delivered[user] = self.read[user] = self.top
            self.moves += 1

    @rule(user=USERS)
    def leave(self, user: int) -> None:
        self.run(self.store.members.leave(self.room, user))
        if user in self.joined:
            self.left.append((user, self.joined.pop(user), self.delivered.pop(user), self.top))
            del self.read[user]
            self.moves += 1

    # Time

    @rule(back=BACK, end=st.sampled_from([expire, vanish]))
    def one_ends(self, back: int, end: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """End a message by the clock, or by the TTL of its hash before any job looked."""
        row = self.log[-1 - back % self.top]
        if row.live:
            self.run(end(self.store, row.seq, room=self.room))
            row.expired = True

    @rule(overtaken=st.booleans())
    def the_job_runs(self, overtaken: bool) -> None:
        """Process all ended messages, perhaps with two jobs, one of which was so slow that the other took over."""
        over = {row.seq: row for row in self.log if (row.expired or row.deleted) and not row.cleared}
        if not over:
            return
        slow = self._claim(over) if overtaken else []
        claimed = self._claim(over)
        assert {record.due.seq for record in claimed} == over.keys()
        for record in claimed:
            row = over[record.due.seq]
            assert record.live == row.live
            assert {missed.user for missed in record.missed} == self._missing(row)
            if row.live:
                assert (record.sender, record.id, record.body in (row.body, None)) == (
                    row.sender,
                    row.id,
                    True,
                )
        assert self.run(self.store.expiry.finalize(slow)) == 0
        assert self.run(self.store.expiry.finalize(claimed)) == len(over)
        for row in over.values():
            row.cleared = True
            self.changed.pop(row.seq, None)

    def _claim(self, over: dict[int, Logged]) -> list[Expired]:
        self.run(tick(self.store))
        self.run(due(self.store, *over, room=self.room))
        return self.run(
            self.store.expiry.read(self.run(self.store.expiry.claim(f"{next(_serial)}", room=self.room)))
        )

    # What holds after every step

    @invariant()
    def place_and_cursors_agree(self) -> None:
        [place] = self.run(self.store.log.positions([self.room]))
        assert place is not None
        assert (place.epoch, place.top, place.members) == (self.epoch, self.top, self.moves)
        assert (place.rev, self.run(changed(self.store, room=self.room))) == (self.rev, self.changed)
        for user in (1, 2, 3):
            expected = self.delivered.get(user), self.read.get(user)
            assert self.run(cursors(self.store, user, room=self.room)) == expected

    @invariant()
    def the_report_agrees(self) -> None:
        for row in self.log:
            assert set(self.run(missing(self.store, row.seq, room=self.room))) == self._missing(row), row

    def _missing(self, row: Logged) -> set[int]:
        if not row.live:
            return set()
        named = {user for seq, user in self.passed_over if seq == row.seq}
        named |= {
            user for user in self.joined if self.joined[user] < row.seq and self.delivered[user] < row.seq
        }
        named |= {
            user for user, joined, cursor, top in self.left if joined < row.seq <= top and cursor < row.seq
        }
        return {user for user in named if user != row.sender and row.is_for(user)}

    @invariant()
    def nobody_is_named_who_never_owed(self) -> None:
        for row in self.log:
            assert self._missing(row) <= row.owed

    @invariant()
    def those_who_owe_a_live_message_lag_and_nobody_else(self) -> None:
        lagging = {
            user
            for user, cursor in self.delivered.items()
            if any(row.readable and row.sender != user and row.is_for(user) for row in self.log[cursor:])
        }
        claimed = self.run(self.store.retries.owing(self.room, self.epoch, [1, 2, 3]))
        assert {row.user: row.cursor for row in claimed} == {user: self.delivered[user] for user in lagging}

    @invariant()
    def receipts_agree(self) -> None:
        for sender in (1, 2, 3):
            [(_, rows)] = self.run(self.store.cursors.receipts([(self.room, sender)]))
            assert rows == [
                row
                for row in map(self._receipt, (row for row in self.log if row.live))
                if row[3] and self.log[row[0] - 1].sender == sender
            ]

    def _receipt(self, row: Logged) -> tuple[int, int, int, int]:
        owing = {
            user
            for user, joined in self.joined.items()
            if joined < row.seq and user != row.sender and row.is_for(user)
        }
        holding = {
            user
            for user in owing
            if self.delivered[user] >= row.seq and (row.seq, user) not in self.passed_over
        }
        seen = {user for user in holding if self.read[user] >= row.seq}
        return row.seq, len(holding), len(seen), len(owing)

    @invariant()
    def unread_agrees(self) -> None:
        asked = [(user, Held()) for user in self.joined]
        standings = self.run(stand_together(self.store, self.room, asked))
        for user, standing in zip(self.joined, standings, strict=True):
            unread = [
                row
                for row in self.log[self.read[user] :]
                if row.readable and row.sender != user and row.is_for(user)
            ]
            assert standing is not None
            assert standing.unread == len(unread)
            assert standing.people == frozenset(self.joined)


@pytest.mark.parametrize("examples", [15, pytest.param(50, marks=pytest.mark.proof)], ids=["few", "many"])
def test_the_store_and_the_model_agree_in_every_interleaving(redis_url: str, examples: int) -> None:
    async def nobody(room: str) -> list[int]:
        return [1, 2, 3]

    async def open_store() -> Store:
        return Store(connections.async_client(), Policy(), members_of=nobody)

    with asyncio.Runner() as runner:
        StoreMachine.runner = runner
        StoreMachine.store = runner.run(open_store())
        try:
            run_state_machine_as_test(
                StoreMachine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=30,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    print_blob=True,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
                ),
            )
        finally:
            runner.run(connections.close())
