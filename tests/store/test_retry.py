"""Retry: silence is counted and messages are pushed again; an ack, an expiry or the last attempt ends it.

The waits of the policy are made short. The tests check the pushes and counts, not their times.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from messaging.errors import Unavailable
from messaging.live.connection import Connection
from messaging.live.feed import Feed, FeedState
from messaging.live.hub import Hub, HubListener
from messaging.live.registry import Registry
from messaging.live.retry import Retry
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store
from messaging.store.records import Owing, RoomKey
from tests.support.messages import ADA, ALAN, GRACE, ROOM, accept, acknowledge, expire, message, missing
from tests.support.sockets import Socket, open_feed, until

QUICK = Policy(ack_timeout_s=0.05, backoff_cap_s=0.1)
PATIENT = Policy(ack_timeout_s=30.0)


@dataclasses.dataclass
class Process:
    """The parts of one server process that retry."""

    store: Store
    hub: Hub
    retry: Retry

    async def open(self, user: int) -> tuple[Connection, Feed, Socket]:
        return await open_feed(self.store, self.hub, user)

    def end(self, connection: Connection) -> None:
        self.retry.forget(connection)
        self.hub.registry.leave(connection)


NewProcess = Callable[..., Awaitable[Process]]


@pytest.fixture
async def new_process(store: Store) -> AsyncIterator[NewProcess]:
    """Return a function that starts a process with its own policy."""
    processes: list[Process] = []
    running: list[asyncio.Future[None]] = []

    async def start(policy: Policy = QUICK, **changes: object) -> Process:
        policy = dataclasses.replace(policy, **changes)  # type: ignore[arg-type]
        own_store = Store(store.client, policy, members_of=store.members.members_of)
        registry = Registry()
        retry = Retry(own_store, registry, policy)
        hub = Hub(registry, policy, HubListener(pushed=retry.pushed))
        processes.append(Process(own_store, hub, retry))
        running.append(asyncio.ensure_future(hub.run()))
        return processes[-1]

    yield start
    for process in processes:
        for connection in list(process.hub.registry.connections):
            process.end(connection)
            await connection.finish()
    for task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def counted(store: Store, user: int) -> int:
    """Return the number of attempts that the store has counted."""
    value = await store.client.hget(f"{ROOM.key}:attempts", str(user))
    return int(value.split(b"|")[0]) if value else 0


def attempts(socket: Socket) -> list[int]:
    """Return the attempts that arrived, each named once."""
    return list(dict.fromkeys(frame["attempt"] for frame in socket.of("message") if "attempt" in frame))


async def ack(process: Process, connection: Connection, feed: Feed, seq: int) -> None:
    """Process an ack as delivery does."""
    feed.acknowledged(seq)
    await acknowledge(process.store, connection.user, seq)


class TestSilence:
    async def test_unacknowledged_messages_are_pushed_again_and_numbered(
        self, new_process: NewProcess
    ) -> None:
        process = await new_process()
        _, _, socket = await process.open(GRACE)
        await accept(process.store, message("a"), message("b"))
        await socket.until("message", 6)
        first, again, third = socket.frames[:2], socket.frames[2:4], socket.frames[4:6]
        assert [frame["seq"] for frame in first] == [frame["seq"] for frame in again] == [1, 2]
        assert [frame.get("attempt") for frame in first + again + third] == [None, None, 1, 1, 2, 2]

    async def test_only_messages_above_the_cursor_are_pushed_again(self, new_process: NewProcess) -> None:
        process = await new_process()
        connection, _, socket = await process.open(GRACE)
        await acknowledge(process.store, GRACE, 0)
        await accept(process.store, message("a"), message("b"))
        await socket.until("message", 2)
        await acknowledge(process.store, GRACE, 1)
        await until(lambda: attempts(socket))
        assert {frame["seq"] for frame in socket.of("message") if "attempt" in frame} == {2}
        assert connection.closed is None

    async def test_an_ack_ends_the_silence(self, new_process: NewProcess) -> None:
        process = await new_process()
        connection, feed, socket = await process.open(GRACE)
        await accept(process.store)
        await until(lambda: attempts(socket))
        await ack(process, connection, feed, 1)
        assert await counted(process.store, GRACE) == 0
        await until(lambda: connection not in process.retry._timers)
        assert await counted(process.store, GRACE) == 0

    async def test_an_ack_by_another_device_of_the_user_ends_the_silence(
        self, new_process: NewProcess
    ) -> None:
        process = await new_process()
        connection, feed, socket = await process.open(GRACE)
        await accept(process.store)
        await socket.until("message")
        await acknowledge(process.store, GRACE, 1)  # by a device at another process
        await until(lambda: feed.silence is None and connection not in process.retry._timers)
        assert attempts(socket) == []

    async def test_senders_do_not_owe_their_own_messages(self, new_process: NewProcess) -> None:
        process = await new_process()
        connection, feed, socket = await process.open(ADA)
        await accept(process.store)
        await socket.until("message")
        await until(lambda: feed.silence is None and connection not in process.retry._timers)
        assert attempts(socket) == []

    async def test_an_expired_message_is_not_pushed_again(self, new_process: NewProcess) -> None:
        process = await new_process(ack_timeout_s=0.1)
        connection, feed, socket = await process.open(GRACE)
        await accept(process.store)
        await expire(process.store, 1)
        await socket.until("message")
        await until(lambda: feed.silence is None and connection not in process.retry._timers)
        assert attempts(socket) == []

    async def test_silence_during_a_send_is_not_counted(self, new_process: NewProcess) -> None:
        process = await new_process()
        _, _, slow = await process.open(GRACE)
        _, _, quick = await process.open(ALAN)
        slow.reads.clear()
        await accept(process.store)
        await until(lambda: 2 in attempts(quick))
        assert await counted(process.store, GRACE) == 0
        slow.reads.set()
        await until(lambda: attempts(slow))

    async def test_a_feed_that_must_sync_is_told_the_position_instead(self, new_process: NewProcess) -> None:
        process = await new_process()
        _, feed, socket = await process.open(GRACE)
        await accept(process.store)
        await socket.until("message")
        feed.fall_behind(0, 0)
        await socket.until("position")
        assert attempts(socket) == []
        assert await counted(process.store, GRACE) >= 1

    async def test_without_recovery_nothing_is_pushed_again(self, new_process: NewProcess) -> None:
        process = await new_process(recovery=False)
        connection, feed, socket = await process.open(GRACE)
        await accept(process.store)
        await socket.until("message")
        assert feed.silence is None
        assert connection not in process.retry._timers

    async def test_silence_in_one_room_is_noticed_although_another_waits_longer(
        self, new_process: NewProcess
    ) -> None:
        process = await new_process(PATIENT)
        connection, feed, _ = await process.open(GRACE)
        late = process.retry
        late.pushed(connection, feed)
        assert late._timers[connection].when() == feed.silence.due_s
        feed.silence.due_s += 60
        late._set_timer(connection)
        second = Feed(dataclasses.replace(feed.room, key=RoomKey("second", 7)))
        connection.feeds["second"] = second
        late.pushed(connection, second)
        assert late._timers[connection].when() == second.silence.due_s
        del connection.feeds["second"]


class TestThirdAndLast:
    async def test_the_third_silence_closes_the_connection(self, new_process: NewProcess) -> None:
        process = await new_process()
        connection, _, socket = await process.open(GRACE)
        await accept(process.store)
        await asyncio.wait_for(asyncio.shield(connection.ended), 5)
        assert connection.closed is Close.ACKS_MISSING
        assert attempts(socket) == [1, 2, 3]
        assert await counted(process.store, GRACE) == 3

    async def test_a_silent_client_that_reconnects_continues_the_count_and_is_not_closed_again(
        self, new_process: NewProcess
    ) -> None:
        process = await new_process()
        first, _, _ = await process.open(GRACE)
        await accept(process.store)
        await asyncio.wait_for(asyncio.shield(first.ended), 5)
        process.end(first)
        connection, feed, socket = await process.open(GRACE)
        process.hub.report_pushed(connection, feed)  # as after the `resumed` that contained the message
        await until(lambda: len(attempts(socket)) >= 2)
        assert attempts(socket)[:2] == [4, 5]
        assert connection.closed is None

    async def test_no_attempt_follows_the_last_one_until_an_ack(self, new_process: NewProcess) -> None:
        process = await new_process(attempts_max=2)
        connection, feed, socket = await process.open(GRACE)
        await accept(process.store)
        await until(lambda: feed.silence is not None and feed.silence.due_s is None)
        await until(lambda: 2 in attempts(socket))
        assert await missing(process.store, 1) == {GRACE: "no_ack", ALAN: "offline"}
        await accept(process.store, message("another"))
        await until(lambda: 2 in socket.seqs)
        assert feed.silence.due_s is None, "a new message is pushed once and starts no new silence"
        process.end(connection)

        again, feed, socket = await process.open(GRACE)
        process.hub.report_pushed(again, feed)
        await until(lambda: feed.silence is not None and feed.silence.due_s is None)
        assert attempts(socket) == []
        await ack(process, again, feed, 2)
        await accept(process.store, message("after the ack"))
        await until(lambda: attempts(socket))
        assert attempts(socket)[0] == 1


class TestCounting:
    async def test_two_processes_never_count_the_same_attempt(self, new_process: NewProcess) -> None:
        processes = [await new_process(attempts_max=4, silences_to_close=9) for _ in range(2)]
        sockets = [(await process.open(GRACE))[2] for process in processes]
        await accept(processes[0].store)
        await until(lambda: any(4 in attempts(socket) for socket in sockets))
        both = attempts(sockets[0]) + attempts(sockets[1])
        assert sorted(both) == [1, 2, 3, 4]

    async def test_two_connections_of_one_process_never_count_the_same_attempt(
        self, new_process: NewProcess
    ) -> None:
        process = await new_process(attempts_max=4, silences_to_close=9)
        sockets = [(await process.open(GRACE))[2] for _ in range(2)]
        await accept(process.store)
        await until(lambda: any(4 in attempts(socket) for socket in sockets))
        assert sorted(attempts(sockets[0]) + attempts(sockets[1])) == [1, 2, 3, 4]

    async def test_each_user_has_a_separate_count(self, new_process: NewProcess) -> None:
        process = await new_process(attempts_max=2)
        for user in (GRACE, ALAN):
            await process.open(user)
        await accept(process.store)
        for user in (GRACE, ALAN):
            async with asyncio.timeout(5):
                while await counted(process.store, user) < 2:
                    await asyncio.sleep(0.01)
        assert await missing(process.store, 1) == {GRACE: "no_ack", ALAN: "no_ack"}


class TestSweep:
    async def sweep(self, process: Process, mark: int) -> None:
        [place] = await process.store.log.positions([ROOM])
        assert place is not None
        await process.retry.sweep(ROOM.id, place.epoch, mark)

    async def test_sweep_pushes_to_connections_that_owe_something_at_or_below_the_mark(
        self, new_process: NewProcess
    ) -> None:
        process = await new_process(PATIENT)
        _, _, owing = await process.open(GRACE)
        _, _, settled = await process.open(ALAN)
        await accept(process.store)
        await owing.until("message")
        await settled.until("message")
        await acknowledge(process.store, ALAN, 1)
        await self.sweep(process, mark=1)
        await owing.until("message", 2)
        assert attempts(owing) == [1]
        assert attempts(settled) == []
        assert await counted(process.store, ALAN) == 0

    async def test_messages_younger_than_the_mark_are_not_pushed(self, new_process: NewProcess) -> None:
        process = await new_process(PATIENT)
        await process.open(GRACE)
        await accept(process.store)
        await self.sweep(process, mark=0)
        assert await counted(process.store, GRACE) == 0

    async def test_two_concurrent_sweeps_count_once(self, new_process: NewProcess) -> None:
        process = await new_process(PATIENT)
        _, _, socket = await process.open(GRACE)
        await accept(process.store)
        await socket.until("message")
        await asyncio.gather(self.sweep(process, mark=1), self.sweep(process, mark=1))
        await self.sweep(process, mark=1)
        assert await counted(process.store, GRACE) == 1

    async def test_attempts_that_ended_begin_again_after_an_ack_by_another_device(
        self, new_process: NewProcess
    ) -> None:
        process = await new_process(attempts_max=2)
        _, feed, socket = await process.open(GRACE)
        other, other_feed, _ = await process.open(GRACE)
        await accept(process.store)
        await until(lambda: feed.silence is not None and feed.silence.due_s is None)
        await ack(process, other, other_feed, 1)
        process.end(other)
        await accept(process.store, message("after the ack"))
        await until(lambda: 2 in socket.seqs)
        await self.sweep(process, mark=2)
        await until(lambda: any(f["seq"] == 2 and f.get("attempt") == 1 for f in socket.of("message")))

    async def test_position_is_sent_after_a_lost_fan_out(
        self, new_process: NewProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = await new_process(PATIENT)
        _, feed, socket = await process.open(GRACE)
        monkeypatch.setattr(process.hub, "_on_messages", lambda room, text: None)
        await accept(process.store)
        await self.sweep(process, mark=1)
        [position] = await socket.until("position")
        assert position["top"] == 1
        assert feed.state is FeedState.BEHIND
        assert await counted(process.store, GRACE) == 1

    async def test_a_room_without_connections_here_is_ignored(self, new_process: NewProcess) -> None:
        process = await new_process(PATIENT)
        await process.retry.sweep("elsewhere", "e", 1)
        assert process.hub.registry.rooms == {}


async def test_a_store_that_does_not_answer_costs_no_attempt_and_the_silence_stays(
    new_process: NewProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await new_process()
    connection, feed, socket = await process.open(GRACE)
    owing = process.store.retries.owing
    refused: list[object] = []

    async def away(*asked: object) -> list[Owing]:
        refused.append(asked)
        raise Unavailable()

    await accept(process.store)
    await socket.until("message")
    monkeypatch.setattr(process.store.retries, "owing", away)
    await until(lambda: len(refused) > 2)
    assert feed.silence is not None
    assert connection.closed is None
    monkeypatch.setattr(process.store.retries, "owing", owing)
    await until(lambda: attempts(socket))
    assert attempts(socket)[0] == 1


async def test_an_attempt_whose_answer_was_lost_is_not_asked_for_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(store)
    pipelines = store.scripts._pipelines
    call, asked = pipelines.call, []

    async def lose_answer(commands: Sequence[tuple[object, ...]]) -> list[object]:
        asked.append(commands)
        await call(commands)
        raise ConnectionError("the answer was on its way")

    monkeypatch.setattr(pipelines, "call", lose_answer)
    with pytest.raises(Unavailable):
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
    assert len(asked) == 1
    assert await counted(store, GRACE) == 1
