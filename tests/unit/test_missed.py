"""The members who missed a message, compared with a simple model: members join, read, leave and rejoin in any order."""

from __future__ import annotations

import dataclasses

from hypothesis import event, given
from hypothesis import strategies as st

from messaging.store.missed import MissedCalculator
from messaging.store.records import Missed

TOP = 12
SEQS = range(1, TOP + 1)
USERS = range(1, 7)
SENDER = 1


@dataclasses.dataclass(frozen=True)
class Stay:
    """One membership: from a top to a top (None: until now), with a cumulative cursor between."""

    joined: int
    cursor: int
    left: int | None

    def owes(self, seq: int) -> bool:
        return self.joined < seq and (self.left is None or seq <= self.left)


@st.composite
def stays(draw: st.DrawFn) -> list[Stay]:
    """Return the memberships of one user, one after the other."""
    found: list[Stay] = []
    ends = sorted(draw(st.lists(st.integers(0, TOP), max_size=4)))
    for joined, left in zip(ends[0::2], ends[1::2], strict=False):
        found.append(Stay(joined, draw(st.integers(joined, left)), left))
    if draw(st.booleans()):
        joined = draw(st.integers(max(ends, default=0), TOP))
        found.append(Stay(joined, draw(st.integers(joined, TOP)), None))
    return found


@dataclasses.dataclass(frozen=True)
class Room:
    """All that the store has of a room; `outcome` is {seq: [(user, reason, attempts)]} of those who owed it."""

    stays: dict[int, list[Stay]]
    attempts: dict[int, int]
    only: dict[int, frozenset[int]]
    outcome: dict[int, list[tuple[int, str, int]]]

    def readers(self) -> MissedCalculator:
        present = {user: stay for user, all_ in self.stays.items() for stay in all_ if stay.left is None}
        return MissedCalculator(
            {user: stay.joined for user, stay in present.items()},
            # A member who joined while the cursors were read has none yet.
            {user: stay.cursor for user, stay in present.items() if stay.cursor != stay.joined},
            self.attempts,
            [
                (user, stay.joined, stay.cursor, stay.left)
                for user, all_ in self.stays.items()
                for stay in all_
                if stay.left is not None
            ],
        )

    def rows(self, seq: int) -> list[str]:
        return [f"{seq}|{user}|{reason}|{attempts}" for user, reason, attempts in self.outcome.get(seq, ())]

    # The model: one member at a time, every rule as in the contract.

    def owed(self, seq: int, user: int) -> bool:
        addressed = seq not in self.only or user in self.only[seq]
        return user != SENDER and addressed and any(stay.owes(seq) for stay in self.stays[user])

    def missed(self, seq: int, user: int) -> Missed | None:
        written = [(reason, attempts) for name, reason, attempts in self.outcome.get(seq, ()) if name == user]
        for strongest in ("client_rejected", "no_ack", "offline"):
            for reason, attempts in written[::-1]:
                if reason == strongest:
                    return Missed(user, reason, attempts)
        [stay] = [stay for stay in self.stays[user] if stay.owes(seq)]
        if stay.cursor >= seq:
            return None
        if stay.left is not None:
            return Missed(user, "left_room", 0)
        attempts = self.attempts.get(user, 0)
        return Missed(user, "no_ack" if attempts else "offline", attempts)


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    by_user = {user: draw(stays()) for user in USERS}
    present = [user for user, all_ in by_user.items() if all_ and all_[-1].left is None]
    attempts = draw(st.dictionaries(st.sampled_from(present), st.integers(1, 8))) if present else {}
    only = draw(st.dictionaries(st.sampled_from(SEQS), st.frozensets(st.sampled_from(USERS), min_size=1)))
    room = Room(by_user, attempts, only, {})
    for seq in SEQS:
        owing = [user for user in USERS if room.owed(seq, user)]
        if owing and draw(st.booleans()):
            reason = st.sampled_from(["offline", "no_ack", "client_rejected"])
            row = st.tuples(st.sampled_from(owing), reason, st.integers(0, 8))
            room.outcome[seq] = draw(st.lists(row, max_size=4))
    return room


@given(rooms())
def test_the_readers_and_the_model_agree_on_who_owed_and_who_missed(room: Room) -> None:
    readers = room.readers()
    for seq in SEQS:
        owing = [user for user in USERS if room.owed(seq, user)]
        total, missed = readers.for_message(seq, SENDER, only=room.only.get(seq), outcome=room.rows(seq))
        expected = {member for user in owing if (member := room.missed(seq, user)) is not None}
        assert len(missed) == len(expected), "every member once"
        assert set(missed) == expected
        # Members who left and had received it are no longer known.
        still_here = {user for user in owing if room.stays[user][-1].left is None}
        holding = {user for user in still_here if room.stays[user][-1].owes(seq)}
        assert total == len(holding | {member.user for member in expected})
        for member in missed:
            event(member.reason)


@given(rooms())
def test_messages_that_the_same_members_missed_share_one_value(room: Room) -> None:
    readers = dataclasses.replace(
        room, stays={user: [stay for stay in all_ if stay.left is None] for user, all_ in room.stays.items()}
    ).readers()
    present = [stay for all_ in room.stays.values() for stay in all_ if stay.left is None]
    between = {stay.joined for stay in present} | {stay.cursor for stay in present}
    for seq in set(SEQS[:-1]) - between:
        event("two in a row")
        assert readers.for_message(seq, SENDER)[1] is readers.for_message(seq + 1, SENDER)[1]


class TestSharing:
    READERS = MissedCalculator({1: 0, 2: 0, 3: 0, 4: 5}, {1: 9, 2: 2, 3: 0, 4: 5}, {3: 2})

    def test_messages_between_two_cursors_or_joinings_share_one_value(self) -> None:
        shared = [self.READERS.for_message(seq, 1)[1] for seq in (3, 4, 5)]
        assert shared[0] == (Missed(3, "no_ack", 2), Missed(2, "offline", 0))
        assert all(member is shared[0] for member in shared)

    def test_another_sender_or_lagging_member_gives_another_value(self) -> None:
        assert self.READERS.for_message(3, 2) == (2, (Missed(3, "no_ack", 2),))
        assert self.READERS.for_message(2, 1)[1] == (Missed(3, "no_ack", 2),)
        assert self.READERS.for_message(6, 1) == (
            3,
            (Missed(3, "no_ack", 2), Missed(2, "offline", 0), Missed(4, "offline", 0)),
        )

    def test_exceptions_of_one_leave_the_value_of_the_others(self) -> None:
        before = self.READERS.for_message(3, 1)
        total, missed = self.READERS.for_message(4, 1, outcome=["4|2|client_rejected|3"])
        assert (total, missed) == (2, (Missed(3, "no_ack", 2), Missed(2, "client_rejected", 3)))
        assert self.READERS.for_message(5, 1) == before
        assert self.READERS.for_message(5, 1)[1] is before[1]

    def test_members_who_left_share_one_value_too(self) -> None:
        readers = MissedCalculator({2: 0, 3: 0}, {3: 1}, {}, [(4, 0, 0, 9), (5, 0, 0, 3)])
        shared = [readers.for_message(seq, 1)[1] for seq in (2, 3)]
        assert shared[0] is shared[1]
        assert [missed.user for missed in shared[0]] == [2, 3, 4, 5]
        assert [missed.user for missed in readers.for_message(4, 1)[1]] == [2, 3, 4]
        assert [missed.user for missed in readers.for_message(3, 1, only=frozenset({4, 5}))[1]] == [4, 5]
        assert [missed.user for missed in readers.for_message(2, 1, only=frozenset({2, 4}))[1]] == [2, 4]


def test_member_who_rejoined_between_two_reads_owes_nothing_of_the_time_away() -> None:
    """The cursor was read before the leave, the joining after it."""
    readers = MissedCalculator({2: 5}, {2: 1}, {}, [(2, 0, 1, 3)])
    assert readers.for_message(3, 1) == (1, (Missed(2, "left_room", 0),))
    assert readers.for_message(4, 1) == (0, ())
    assert readers.for_message(6, 1) == (1, (Missed(2, "offline", 0),))


class TestReasons:
    """The most specific of several reasons is reported."""

    def told(self, *outcome: str, left: bool = False, attempts: int = 0) -> tuple[Missed, ...]:
        readers = MissedCalculator(
            {} if left else {2: 0}, {}, {2: attempts} if attempts else {}, [(2, 0, 0, 9)] if left else []
        )
        return readers.for_message(1, 1, outcome=outcome)[1]

    def test_most_specific_reason_is_reported(self) -> None:
        passed, silent, rejected = "1|2|offline|0", "1|2|no_ack|3", "1|2|client_rejected|1"
        assert self.told() == (Missed(2, "offline", 0),)
        assert self.told(attempts=4) == (Missed(2, "no_ack", 4),)
        assert self.told(passed, attempts=4) == (Missed(2, "offline", 0),), "the reason at its end"
        for rows in ((passed, silent), (silent, passed)):
            assert self.told(*rows) == (Missed(2, "no_ack", 3),)
        for rows in ((rejected, silent, passed), (passed, silent, rejected), (silent, rejected)):
            assert self.told(*rows) == (Missed(2, "client_rejected", 1),)

    def test_outcome_from_before_leaving_has_priority_over_left_room(self) -> None:
        assert self.told(left=True) == (Missed(2, "left_room", 0),)
        assert self.told("1|2|offline|0", left=True) == (Missed(2, "offline", 0),)

    def test_later_of_two_equal_reasons_counts(self) -> None:
        assert self.told("1|2|no_ack|1", "1|2|no_ack|2") == (Missed(2, "no_ack", 2),)

    def test_member_with_the_lowest_cursor_comes_first(self) -> None:
        readers = MissedCalculator(dict.fromkeys(range(1, 6), 0), {1: 9, 2: 3, 3: 1, 4: 3, 5: 2}, {})
        assert [missed.user for missed in readers.for_message(4, 1)[1]] == [3, 5, 2, 4]


def test_many_members_and_messages_are_quick_and_small() -> None:
    """10,000 members of whom 100 hold everything, a batch of 500 messages: one value of 9,899 names."""
    users = range(1, 10_001)
    readers = MissedCalculator(dict.fromkeys(users, 0), dict.fromkeys(range(1, 102), 500), {})
    values = [readers.for_message(seq, 1) for seq in range(1, 501)]
    assert {total for total, _ in values} == {9_999}
    assert len({id(missed) for _, missed in values}) == 1
    assert len(values[0][1]) == 9_899


def test_senders_do_not_multiply_the_values() -> None:
    readers = MissedCalculator(dict.fromkeys(range(1, 6), 0), {}, {})
    [first, second] = [readers.for_message(9, sender)[1] for sender in (4, 5)]
    assert {id(member) for member in first} & {id(member) for member in second} == {
        id(member) for member in first if member.user != 5
    }
