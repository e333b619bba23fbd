"""Limits of a connection and its user: token buckets, invalid frames, typing hints."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RateLimited
from messaging.live.limits import MAX_REFUSED, USER_SHARE, Bucket, Limits
from messaging.policy import Policy, Rate
from messaging.protocol import Close
from tests.support.messages import ADA, ALAN, GRACE
from tests.support.sockets import connect

POLICY = dataclasses.replace(Policy(), send_rate=Rate(per_s=0.001, burst=3))


def taken(limits: Limits, connection: object) -> int:
    """Take tokens until one is refused; return the number taken."""
    for count in range(1_000):
        try:
            limits.take("send", connection)  # type: ignore[arg-type]
        except RateLimited:
            return count
    raise AssertionError("there is no limit")


class TestTake:
    async def test_each_connection_has_its_burst_and_its_user_four_of_them(self) -> None:
        limits = Limits(POLICY)
        connections = [connect(ADA, POLICY)[0] for _ in range(USER_SHARE + 1)]
        assert [taken(limits, connection) for connection in connections] == [3] * USER_SHARE + [0]

    @pytest.mark.parametrize(("processes", "share"), [(1, 4), (2, 2), (4, 1), (9, 1)])
    async def test_each_process_grants_a_user_a_part_but_never_less_than_one_connection(
        self, processes: int, share: int
    ) -> None:
        limits = Limits(POLICY, processes=lambda: processes)
        connections = [connect(ADA, POLICY)[0] for _ in range(share + 1)]
        assert [taken(limits, connection) for connection in connections] == [3] * share + [0]

    async def test_a_new_connection_applies_the_present_number_of_processes(self) -> None:
        processes = 1
        limits = Limits(POLICY, processes=lambda: processes)
        assert taken(limits, connect(ADA, POLICY)[0]) == 3
        processes = 4
        assert [taken(limits, connect(ADA, POLICY)[0]) for _ in range(2)] == [3, 0]

    async def test_a_user_who_reconnects_does_not_get_new_buckets(self) -> None:
        limits = Limits(POLICY)
        for connection in [connect(ADA, POLICY)[0] for _ in range(USER_SHARE)]:
            assert taken(limits, connection) == 3
            limits.forget(connection)
            limits.forget_user(ADA)
            limits.forget_user(ADA)
            assert limits._usage == limits._user_buckets == {}
        assert taken(limits, connect(ADA, POLICY)[0]) == 0

    async def test_full_buckets_of_users_without_connections_are_deleted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = Limits(POLICY)
        limits._unused_max = 1
        for user in (ADA, GRACE, ALAN):
            connection = connect(user, POLICY)[0]
            assert taken(limits, connection) == 3
            limits.forget(connection)
            limits.forget_user(user)
        assert len(limits._unused_buckets) == 3, "none is full yet"
        later_s = time.monotonic() + 100_000
        monkeypatch.setattr(time, "monotonic", lambda: later_s)
        limits._unused_max = 1
        limits.forget_user(ADA)
        assert not limits._unused_buckets

    async def test_kinds_of_frames_do_not_share(self) -> None:
        limits = Limits(POLICY)
        connection, _ = connect(ADA, POLICY)
        assert taken(limits, connection) == 3
        limits.take("ping", connection)

    async def test_many_refusals_in_a_row_close_the_connection(self) -> None:
        limits = Limits(POLICY)
        connection, _ = connect(ADA, POLICY)
        assert taken(limits, connection) == 3
        for _ in range(MAX_REFUSED - 1):
            with pytest.raises(RateLimited):
                limits.take("send", connection)
        assert connection.closed is None
        with pytest.raises(RateLimited):
            limits.take("send", connection)
        assert connection.closed is Close.TOO_MUCH


class TestOthers:
    async def test_the_last_of_too_many_bad_frames_is_reported(self) -> None:
        limits = Limits(Policy())
        connection, _ = connect(ADA)
        most = Policy().bad_frames_per_minute_max
        assert [limits.bad_frame(connection) for _ in range(most)] == [False] * (most - 1) + [True]

    async def test_a_room_gets_one_typing_hint_in_an_interval(self) -> None:
        limits = Limits(Policy())
        connection, _ = connect(ADA)
        assert [limits.take_typing(connection, room) for room in ("a", "a", "b")] == [True, False, True]


class TestBucket:
    def test_gives_its_burst_and_then_its_rate(self) -> None:
        bucket = Bucket(Rate(per_s=10, burst=3), now_s=0.0)
        assert [bucket.take(0.0) for _ in range(3)] == [0, 0, 0]
        assert bucket.take(0.0) == 0.1
        assert bucket.take(0.1) == 0

    def test_saves_no_more_than_its_burst(self) -> None:
        bucket = Bucket(Rate(per_s=10, burst=3), now_s=0.0)
        assert [bool(bucket.take(1_000.0)) for _ in range(4)] == [False, False, False, True]

    @given(waits=st.lists(st.floats(0, 2), max_size=80))
    def test_never_gives_more_than_burst_and_rate_together(self, waits: list[float]) -> None:
        bucket = Bucket(Rate(per_s=5, burst=10), now_s=0.0)
        now_s, taken = 0.0, 0
        for wait_s in waits:
            now_s += wait_s
            taken += bucket.take(now_s) == 0
            assert taken <= 10 + 5 * now_s + 1e-6
