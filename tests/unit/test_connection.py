"""One socket's queue: coalescing, its bounds, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from messaging import protocol
from messaging.live.connection import WAITING_MOST, Bucket, Feed, State
from messaging.policy import Policy, Rate
from messaging.protocol import Close
from tests.support.messages import ADA
from tests.support.sockets import MEMBER_ROOM, connect, until


def pong(n: int) -> str:
    return protocol.encode(protocol.Pong(n=n)).decode()


class TestPush:
    async def test_a_single_frame_goes_as_an_object(self) -> None:
        connection, socket = connect(ADA)
        connection.push(pong(1))
        await connection.written()
        assert socket.sends == ['{"type":"pong","n":1}']

    async def test_what_comes_while_a_send_is_under_way_goes_as_one_array(self) -> None:
        connection, socket = connect(ADA)
        socket.reads.clear()
        connection.push(pong(0))
        await until(lambda: connection.sending_since_s is not None)
        for n in range(1, 4):
            connection.push(pong(n))
        socket.reads.set()
        await connection.written()
        assert [json.loads(text) for text in socket.sends] == [
            {"type": "pong", "n": 0},
            [{"type": "pong", "n": n} for n in (1, 2, 3)],
        ]

    async def test_several_frames_joined_by_commas_go_as_an_array(self) -> None:
        connection, socket = connect(ADA)
        connection.push(f"{pong(1)},{pong(2)}", 2)
        await connection.written()
        assert [frame["n"] for frame in socket.frames] == [1, 2]
        assert socket.sends[0].startswith("[")

    async def test_an_array_holds_no_more_bytes_than_the_contract_says(self) -> None:
        policy = dataclasses.replace(Policy(), answer_max=2_000)
        connection, socket = connect(ADA, policy)
        frames = [
            json.dumps({"type": "x", "n": n, "text": "é😀" * 40}, ensure_ascii=False) for n in range(60)
        ]
        for frame in frames:
            connection.push(frame, 1)
        await connection.written()
        assert [frame["n"] for frame in socket.frames] == list(range(60))
        assert len(socket.sends) > 5
        assert max(len(text.encode()) for text in socket.sends) <= 2_000

    async def test_messages_not_yet_handed_over_are_counted(self) -> None:
        connection, socket = connect(ADA)
        socket.reads.clear()
        connection.push(pong(0), 1)
        connection.push(f"{pong(1)},{pong(2)}", 2)
        connection.push(pong(3))
        assert connection.unsent == 3
        socket.reads.set()
        await connection.written()
        assert connection.unsent == 0

    async def test_a_sender_waits_for_room_before_another_read(self) -> None:
        policy = dataclasses.replace(Policy(), unsent_max=2)
        connection, socket = connect(ADA, policy)
        socket.reads.clear()
        connection.push(f"{pong(1)},{pong(2)}", 2)
        waiting = asyncio.ensure_future(connection.wait_for_room())
        await until(lambda: connection.sending_since_s is not None)
        assert not waiting.done()
        socket.reads.set()
        await asyncio.wait_for(waiting, 3)


class TestBounds:
    async def test_frames_that_pile_up_end_the_connection(self) -> None:
        connection, socket = connect(ADA)
        socket.reads.clear()
        for n in range(WAITING_MOST + 1):
            connection.push(pong(n))
        assert connection.closed is Close.TOO_MUCH
        connection.push(pong(0))
        assert len(connection._waiting) == WAITING_MOST + 1, "nothing is queued any more"
        await connection.finish()

    async def test_falling_behind_tells_the_position_and_stops_the_room(self) -> None:
        connection, socket = connect(ADA)
        feed = Feed(MEMBER_ROOM)
        feed.epoch, feed.state = "e", State.OPEN
        connection.fall_behind(feed, 9, 4)
        await connection.written()
        assert feed.state is State.BEHIND
        assert socket.frames == [
            {"type": "position", "room": MEMBER_ROOM.key.id, "epoch": "e", "top": 9, "rev": 4}
        ]


class TestEnd:
    async def test_close_says_why_and_the_first_reason_holds(self) -> None:
        connection, socket = connect(ADA)
        connection.close(Close.NO_SESSION)
        connection.close(Close.TOO_MUCH)
        assert connection.ended.done()
        await connection.finish()
        assert socket.close_code == Close.NO_SESSION

    async def test_close_when_written_lets_the_answer_out_first(self) -> None:
        connection, socket = connect(ADA)
        connection.push(pong(1))
        connection.close_when_written(Close.TOO_MANY_BAD_FRAMES)
        await asyncio.wait_for(asyncio.shield(connection.ended), 3)
        assert socket.frames == [{"type": "pong", "n": 1}]
        assert connection.closed is Close.TOO_MANY_BAD_FRAMES

    async def test_a_peer_that_does_not_read_does_not_hold_it(self) -> None:
        connection, socket = connect(ADA)
        socket.reads.clear()
        connection.push(pong(1))
        connection.close(Close.TOO_MUCH)
        await asyncio.wait_for(connection.finish(), 3)
        assert socket.close_code is None

    async def test_a_peer_that_is_gone_ends_it(self) -> None:
        connection, _ = connect(ADA)

        async def gone(event: dict[str, object]) -> None:
            raise OSError

        connection._send = gone
        connection.push(pong(1))
        await asyncio.wait_for(asyncio.shield(connection.ended), 3)

    async def test_a_handler_that_raises_closes_it_with_1011(self) -> None:
        connection, _ = connect(ADA)
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))

        async def fail() -> None:
            raise ZeroDivisionError

        connection.spawn(fail())
        await asyncio.wait_for(asyncio.shield(connection.ended), 3)
        assert connection.closed is Close.HANDLER_FAILED
        assert isinstance(faults[0]["exception"], ZeroDivisionError)

    async def test_what_runs_beside_ends_with_it(self) -> None:
        connection, _ = connect(ADA)
        begun = asyncio.Event()

        async def wait() -> None:
            begun.set()
            await asyncio.Event().wait()

        connection.spawn(wait())
        await begun.wait()
        [task] = connection.tasks
        await connection.finish()
        await asyncio.wait([task], timeout=3)
        assert task.cancelled()


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
