"""One connection: its tasks, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from messaging import protocol
from messaging.errors import NotMember, Unavailable
from messaging.live.feed import Feed, FeedState
from messaging.live.lane import Lane
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store.records import Slice
from tests.support.messages import ADA
from tests.support.sockets import MEMBER_ROOM, connect, until


def pong(n: int) -> str:
    return protocol.encode(protocol.Pong(n=n)).decode()


class TestRooms:
    async def test_a_room_that_is_not_the_users_is_an_error(self) -> None:
        connection, _ = connect(ADA)
        with pytest.raises(NotMember):
            connection.feed("elsewhere")

    async def test_falling_behind_tells_the_position_and_stops_the_room(self) -> None:
        connection, socket = connect(ADA)
        feed = Feed(MEMBER_ROOM)
        feed.complete_read(Slice("e", 9, 4, 9, False, [], [], []))
        connection.fall_behind(feed, 9, 4)
        await connection.writer.drained()
        assert feed.state is FeedState.BEHIND
        assert socket.frames == [
            {"type": "position", "room": MEMBER_ROOM.key.id, "epoch": "e", "top": 9, "rev": 4}
        ]

    async def test_another_read_waits_until_the_socket_has_room(self) -> None:
        policy = dataclasses.replace(Policy(), unsent_max=2)
        connection, socket = connect(ADA, policy)
        socket.reads.clear()
        connection.writer.push(f"{pong(1)},{pong(2)}", 2)
        waiting = asyncio.ensure_future(connection.wait_until_writable())
        await until(lambda: connection.writer.sending_since_s is not None)
        assert not waiting.done()
        socket.reads.set()
        await asyncio.wait_for(waiting, 3)


class TestLane:
    async def test_work_runs_one_after_another_in_order(self) -> None:
        lane, log = Lane(), []

        async def work(n: int) -> None:
            async with lane.turn():
                log.append(("begin", n))
                await asyncio.sleep(0)
                log.append(("end", n))

        await asyncio.gather(*(work(n) for n in range(3)))
        assert log == [(what, n) for n in range(3) for what in ("begin", "end")]

    async def test_work_that_waited_for_unavailable_work_is_unavailable_too(self) -> None:
        lane, begun, go = Lane(), asyncio.Event(), asyncio.Event()

        async def fail() -> None:
            async with lane.turn():
                begun.set()
                await go.wait()
                raise Unavailable()

        async def work() -> str:
            async with lane.turn():
                return "done"

        failing, waiting = asyncio.ensure_future(fail()), asyncio.ensure_future(work())
        await begun.wait()
        await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(failing, waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 2
        assert await work() == "done", "later work is tried again"


class TestEnd:
    async def test_the_first_close_code_is_sent(self) -> None:
        connection, socket = connect(ADA)
        connection.close(Close.NO_SESSION)
        connection.close(Close.TOO_MUCH)
        assert connection.ended.done()
        await connection.finish()
        assert socket.close_code == Close.NO_SESSION

    async def test_close_when_written_sends_the_answer_first(self) -> None:
        connection, socket = connect(ADA)
        connection.writer.push(pong(1))
        connection.close_when_written(Close.TOO_MANY_BAD_FRAMES)
        await asyncio.wait_for(asyncio.shield(connection.ended), 3)
        assert socket.frames == [{"type": "pong", "n": 1}]
        assert connection.closed is Close.TOO_MANY_BAD_FRAMES

    async def test_a_peer_that_does_not_read_does_not_delay_the_end(self) -> None:
        connection, socket = connect(ADA)
        socket.reads.clear()
        connection.writer.push(pong(1))
        connection.close(Close.TOO_MUCH)
        await asyncio.wait_for(connection.finish(), 3)
        assert socket.close_code is None

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

    async def test_tasks_of_a_connection_end_with_it(self) -> None:
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
