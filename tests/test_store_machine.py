"""The store against a plain model: whatever the order of verbs, members and devices, both say the same.

The model knows the rules of docs/protocol.md and nothing of Redis. Time passes by moving a message's expiry, never by waiting.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from messaging import pools
from messaging.errors import IdReused, MessagingError, NotMember
from messaging.policy import Policy
from messaging.records import Accepted, AckRow, Append, OtherEpoch, Read, RoomKey, Slice
from messaging.store import Store
from tests.messages import cursors, expire, message, missing, vanish

T = TypeVar("T")
USERS = st.sampled_from([1, 2, 3])
DEVICES = st.sampled_from([(user, device) for user in (1, 2, 3) for device in ("phone", "desk")])
IDS = st.sampled_from([f"00000000-0000-0000-0000-00000000000{n}" for n in range(6)])
BODIES = st.sampled_from(["hello", "bye"])
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
    expired: bool = False


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
        self.epoch = self.run(self.store.init(self.room))

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(verb)

    @property
    def top(self) -> int:
        return len(self.log)

    # Accepting

    @rule(user=USERS, id_=IDS, body=BODIES)
    def append(self, user: int, id_: str, body: str) -> None:
        """Also the repeat of an id: there are few of them."""
        [answer] = self.run(self.store.append([self._message(user, id_, body)]))
        self._check_append(user, id_, body, answer)

    @rule(user=USERS, ids=st.lists(IDS, min_size=2, max_size=4))
    def append_batch(self, user: int, ids: list[str]) -> None:
        answers = self.run(self.store.append([self._message(user, id_, "hello") for id_ in ids]))
        for id_, answer in zip(ids, answers, strict=True):
            self._check_append(user, id_, "hello", answer)

    def _message(self, user: int, id_: str, body: str) -> Append:
        return message(body, user=user, id_=id_, room=self.room)

    def _check_append(self, user: int, id_: str, body: str, answer: Accepted | MessagingError) -> None:
        first = self.sent.get((user, id_))
        if first is not None and first[0] != body:
            assert isinstance(answer, IdReused)
        elif first is not None:
            assert answer == dataclasses.replace(first[1], duplicate=True)
        elif user not in self.joined:
            assert isinstance(answer, NotMember)
        else:
            assert isinstance(answer, Accepted)
            assert (answer.epoch, answer.seq, answer.duplicate) == (self.epoch, self.top + 1, False)
            self.sent[user, id_] = body, answer
            owed = {member for member in self.joined if member != user}
            self.log.append(Logged(answer.seq, user, body, id_, owed))
            if self.delivered[user] == answer.seq - 1:
                self.delivered[user] = answer.seq

    # Reading

    @rule(device=DEVICES, since=st.integers(0, 12), limit=LIMITS)
    def read_after(self, device: tuple[int, str], since: int, limit: int) -> None:
        user, _ = device
        self._check_read(user, since, limit)

    @rule(device=DEVICES, limit=LIMITS)
    def sync(self, device: tuple[int, str], limit: int) -> None:
        """A device reads on from its own last, which need not be the user's cursor."""
        since = self.device_last.get(device, 0)
        slice_ = self._check_read(device[0], since, limit)
        if slice_ is not None:
            self.device_last[device] = slice_.upto

    def _check_read(self, user: int, since: int, limit: int) -> Slice | None:
        asked = Read(room=self.room, epoch=self.epoch, since=since, limit=limit)
        [answer] = self.run(self.store.read_after(user, [asked]))
        if user not in self.joined:
            assert isinstance(answer, NotMember)
            return None
        if since > self.top:
            assert answer == OtherEpoch(self.epoch)
            return None
        assert isinstance(answer, Slice)
        start = max(since, self.joined[user])
        rows = self.log[start:][:limit]
        seen = [(row.seq, row.body, row.id) for row in rows if not row.expired]
        assert [(row.seq, row.body, row.id) for row in answer.messages] == seen
        assert answer.gone == [(row.seq, "expired") for row in rows if row.expired]
        assert answer.more == (len(self.log[start:]) > limit)
        assert answer.upto == (rows[-1].seq if answer.more else self.top)
        for row in rows:
            if (
                row.expired
                and user in row.owed
                and self.joined[user] < row.seq
                and self.delivered[user] < row.seq
            ):
                self.passed_over.add((row.seq, user))
        return answer

    @rule(user=USERS, before=st.integers(0, 12), limit=LIMITS)
    def history(self, user: int, before: int, limit: int) -> None:
        if user not in self.joined:
            with pytest.raises(NotMember):
                self.run(self.store.history(self.room, user, before=before, limit=limit))
            return
        page = self.run(self.store.history(self.room, user, before=before, limit=limit))
        visible = [row.seq for row in self.log[self.joined[user] : max(0, before - 1)] if not row.expired]
        assert [row.seq for row in page.messages] == visible[-limit:]
        if not page.more:
            assert len(visible) <= limit

    # Acknowledging

    @rule(device=DEVICES)
    def acknowledge_what_was_synced(self, device: tuple[int, str]) -> None:
        self._check_ack(device[0], self.device_last.get(device, 0), None)

    @rule(user=USERS, delivered=st.none() | st.integers(0, 12), read=st.none() | st.integers(0, 12))
    def acknowledge(self, user: int, delivered: int | None, read: int | None) -> None:
        self._check_ack(user, delivered, read)

    @rule(user=USERS, epoch=st.just("other"))
    def acknowledge_another_epoch(self, user: int, epoch: str) -> None:
        assert self.run(self.store.acknowledge([AckRow(self.room, epoch, user, self.top, self.top)])) == [-3]

    def _check_ack(self, user: int, delivered: int | None, read: int | None) -> None:
        [answer] = self.run(self.store.acknowledge([AckRow(self.room, self.epoch, user, delivered, read)]))
        if max(delivered or 0, read or 0) > self.top:
            assert answer == -5
            return
        if user not in self.joined:
            assert answer in (0, -2)
            return
        before = self.delivered[user], self.read[user]
        self.delivered[user] = max(self.delivered[user], delivered or 0)
        self.read[user] = max(self.read[user], min(read or 0, self.delivered[user]))
        assert answer == (before != (self.delivered[user], self.read[user]))

    # Members

    @rule(user=USERS)
    def join(self, user: int) -> None:
        self.run(self.store.join(self.room, [user]))
        if user not in self.joined:
            self.joined[user] = self.delivered[user] = self.read[user] = self.top
            self.moves += 1

    @rule(user=USERS)
    def leave(self, user: int) -> None:
        self.run(self.store.leave(self.room, user))
        if user in self.joined:
            self.left.append((user, self.joined.pop(user), self.delivered.pop(user), self.top))
            del self.read[user]
            self.moves += 1

    # Time

    @rule(back=st.integers(0, 4))
    def one_expires(self, back: int) -> None:
        if back < self.top:
            self.run(expire(self.store, self.top - back, room=self.room))
            self.log[-1 - back].expired = True

    @rule(back=st.integers(0, 4))
    def one_vanishes(self, back: int) -> None:
        """Its Hash's own TTL took it before any job looked."""
        if back < self.top:
            self.run(vanish(self.store, self.top - back, room=self.room))
            self.log[-1 - back].expired = True

    # What holds after every step

    @invariant()
    def place_and_cursors_agree(self) -> None:
        [place] = self.run(self.store.places([self.room]))
        assert place is not None
        assert (place.epoch, place.top, place.members) == (self.epoch, self.top, self.moves)
        for user in (1, 2, 3):
            expected = self.delivered.get(user), self.read.get(user)
            assert self.run(cursors(self.store, user, room=self.room)) == expected

    @invariant()
    def the_report_agrees(self) -> None:
        for row in self.log:
            assert set(self.run(missing(self.store, row.seq, room=self.room))) == self._missing(row), row

    def _missing(self, row: Logged) -> set[int]:
        named = {user for seq, user in self.passed_over if seq == row.seq}
        named |= {
            user for user in self.joined if self.joined[user] < row.seq and self.delivered[user] < row.seq
        }
        named |= {
            user for user, joined, cursor, top in self.left if joined < row.seq <= top and cursor < row.seq
        }
        return named - {row.sender}

    @invariant()
    def nobody_is_named_who_never_owed(self) -> None:
        for row in self.log:
            assert self._missing(row) <= row.owed

    @invariant()
    def those_who_owe_a_live_message_lag_and_nobody_else(self) -> None:
        lagging = {
            user
            for user, cursor in self.delivered.items()
            if any(not row.expired and row.sender != user for row in self.log[cursor:])
        }
        found = self.run(self.store.owing(self.room, self.epoch, [1, 2, 3]))
        assert {row.user: row.cursor for row in found} == {user: self.delivered[user] for user in lagging}

    @invariant()
    def receipts_agree(self) -> None:
        for sender in (1, 2, 3):
            [(_, rows)] = self.run(self.store.receipts([(self.room, sender)]))
            assert rows == [
                row
                for row in map(self._receipt, self.log)
                if row[3] and self.log[row[0] - 1].sender == sender
            ]

    def _receipt(self, row: Logged) -> tuple[int, int, int, int]:
        owing = {user for user, joined in self.joined.items() if joined < row.seq and user != row.sender}
        holding = {
            user
            for user in owing
            if self.delivered[user] >= row.seq and (row.seq, user) not in self.passed_over
        }
        seen = {user for user in holding if self.read[user] >= row.seq}
        return row.seq, len(holding), len(seen), len(owing)

    @invariant()
    def unread_agrees(self) -> None:
        for user in self.joined:
            [standing] = self.run(self.store.standings(user, [(self.room, "", 0)]))
            live = [row for row in self.log[self.read[user] :] if not row.expired and row.sender != user]
            assert standing.unread == len(live)
            assert standing.people == frozenset(self.joined)


def test_the_store_and_the_model_agree_in_every_interleaving(redis_url: str) -> None:
    async def nobody(room: str) -> list[int]:
        return [1, 2, 3]

    async def open_store() -> Store:
        return Store(pools.async_client(), Policy(), members_of=nobody)

    with asyncio.Runner() as runner:
        StoreMachine.runner = runner
        StoreMachine.store = runner.run(open_store())
        try:
            run_state_machine_as_test(
                StoreMachine,
                settings=settings(
                    max_examples=80,
                    stateful_step_count=30,
                    deadline=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
                ),
            )
        finally:
            runner.run(pools.close())
