"""Members who missed a message, as one text: unpacking returns the packed members, and ranges are short."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from messaging.expiry.packing import pack, unpack
from messaging.store.records import Missed

MISSED = st.builds(
    Missed,
    st.integers(0, 40) | st.integers(0, 2**53 - 1),
    st.sampled_from(["offline", "no_ack", "client_rejected", "left_room"]),
    st.integers(0, 2**31 - 1),
)
MANY = st.lists(MISSED, unique_by=lambda one: one.user)


@given(MANY)
def test_unpack_returns_the_packed_members(missed: list[Missed]) -> None:
    wanted = sorted(missed, key=lambda one: (one.reason, one.attempts, one.user))
    assert unpack(pack(missed)) == wanted


@given(MANY.flatmap(lambda missed: st.tuples(st.just(missed), st.permutations(missed))))
def test_the_order_does_not_matter(lists: tuple[list[Missed], list[Missed]]) -> None:
    assert pack(lists[0]) == pack(lists[1])


@given(st.lists(MISSED))
def test_each_user_is_unpacked_once(missed: list[Missed]) -> None:
    users = [one.user for one in unpack(pack(missed))]
    assert sorted(users) == sorted({one.user for one in missed})


@given(st.sets(st.integers(0, 60), min_size=1))
def test_adjacent_ranges_are_merged(users: set[int]) -> None:
    runs = sum(user - 1 not in users for user in users)
    assert pack(Missed(user, "offline", 0) for user in users).count(",") == runs - 1


def test_format_is_the_documented_one() -> None:
    missed = [Missed(user, "offline", 0) for user in (*range(18, 9_901), *range(1, 17))]
    assert pack([*missed, Missed(17, "no_ack", 3)]) == "no_ack:3:17;offline:0:1-16,18-9900"
    assert (pack([]), unpack("")) == ("", [])


def test_ten_thousand_that_make_no_run_are_packed_in_a_moment() -> None:
    missed = [Missed(user, "offline", 0) for user in range(0, 20_000, 2)]
    began = time.perf_counter()
    packed = pack(missed)
    assert time.perf_counter() - began < 0.5
    assert len(packed) < 60_000
