"""Publications: cut, held, merged, skipped, dropped; and the positions that repair lost ones."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.live import hub as hubs
from messaging.live import positions as live_positions
from messaging.live.feed import FeedState
from messaging.live.hub import Hub, HubListener
from messaging.live.positions import Positions
from messaging.live.publications import MAX_BATCH_CHARACTERS, Batch, parse_batches
from messaging.live.registry import Registry
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import RoomKey
from tests.support.messages import ADA, ALAN, GRACE, ROOM, accept, acknowledge, message, read
from tests.support.sockets import MEMBER_ROOM, connect, open_feed, resume, until

FRAME = '{"type":"message","seq":%d}'


@dataclasses.dataclass
class Reports:
    """Reports of the hub and of the check of positions."""

    accepted: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    cursors_moved: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    members_changed: list[str] = dataclasses.field(default_factory=list)
    lost: dict[RoomKey, int] = dataclasses.field(default_factory=dict)

    async def record_lost(self, lost: Mapping[RoomKey, int]) -> None:
        self.lost.update(lost)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def positions(store: Store, reports: Reports, monkeypatch: pytest.MonkeyPatch) -> Positions:
    monkeypatch.setattr(live_positions, "PUBLISH_LATENCY_S", 0.05)
    return Positions(
        store,
        Registry(),
        Policy(),
        members_changed=reports.members_changed.append,
        record_lost=reports.record_lost,
    )


@pytest.fixture
async def hub(positions: Positions, reports: Reports) -> AsyncIterator[Hub]:
    listener = HubListener(
        accepted=lambda room, sender, _after: reports.accepted.append((room, sender)),
        cursors_moved=lambda room, above: reports.cursors_moved.append((room, above)),
        restored=positions.check,
    )
    hub = Hub(positions.registry, Policy(), listener)
    running = asyncio.ensure_future(hub.run())
    yield hub
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def published(*rows: tuple[int, int, int, str]) -> str:
    """Return what append publishes for rows of (seq, after, sender, only)."""
    lines = ["M e1"]
    for seq, after, sender, only in rows:
        lines += [f"{seq} {after} {sender} {only}", FRAME % seq]
    return "\n".join(lines)


class TestCut:
    def test_adjacent_messages_for_everybody_are_one_batch(self) -> None:
        [batch] = parse_batches(published((1, 0, ADA, "-"), (2, 1, GRACE, "-"), (3, 2, ADA, "-")))
        text = ",".join(FRAME % seq for seq in (1, 2, 3))
        assert batch == Batch("e1", 0, 3, 3, text, frozenset({ADA, GRACE}))

    def test_a_resend_to_some_is_a_separate_batch_in_its_place(self) -> None:
        batches = list(parse_batches(published((1, 0, ADA, "-"), (2, 1, ADA, "2,3"), (3, 2, ADA, "-"))))
        assert [(batch.after, batch.last, batch.only) for batch in batches] == [
            (0, 1, None),
            (1, 2, frozenset({2, 3})),
            (2, 3, None),
        ]

    def test_a_skip_begins_a_new_batch(self) -> None:
        batches = list(parse_batches(published((5, 4, ADA, "-"), (900, 5, ADA, "-"), (902, 901, ADA, "-"))))
        assert [(batch.after, batch.last) for batch in batches] == [(4, 900), (901, 902)]

    def test_a_batch_is_smaller_than_the_limit_of_one_array(self) -> None:
        body = "x" * 4_000
        lines = ["M e1"]
        for seq in range(1, 51):
            lines += [f"{seq} {seq - 1} {ADA} -", f'{{"body":"{body}"}}']
        batches = list(parse_batches("\n".join(lines)))
        assert [batches[0].after, batches[-1].last] == [0, 50]
        assert all(len(batch.text) <= MAX_BATCH_CHARACTERS + batch.count for batch in batches)

    @given(
        steps=st.lists(
            st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["-", "-", "2,3"])), min_size=1
        )
    )
    def test_every_frame_is_in_one_batch_in_order(self, steps: list[tuple[int, int, str]]) -> None:
        rows, top = [], 0
        for step, sender, only in steps:
            rows.append((top + step, top, sender, only))
            top += step
        batches = list(parse_batches(published(*rows)))
        assert ",".join(batch.text for batch in batches) == ",".join(FRAME % row[0] for row in rows)
        assert [batch.after for batch in batches] == [0, *(batch.last for batch in batches[:-1])]
        assert sum(batch.count for batch in batches) == len(rows)
        assert frozenset().union(*(batch.senders for batch in batches)) == {row[2] for row in rows}


class TestFanOut:
    async def test_every_connection_gets_it_including_those_of_the_sender(
        self, store: Store, hub: Hub
    ) -> None:
        sockets = [(await open_feed(store, hub, user))[2] for user in (ADA, ADA, GRACE)]
        await accept(store, message("a"), message("b"))
        for socket in sockets:
            assert [frame["body"] for frame in await socket.until("message", 2)] == ["a", "b"]

    async def test_a_connection_that_left_gets_nothing(self, store: Store, hub: Hub) -> None:
        gone, _, silent = await open_feed(store, hub, GRACE)
        _, _, socket = await open_feed(store, hub, ALAN)
        hub.registry.leave(gone)
        hub.registry.leave(gone)
        await accept(store)
        await socket.until("message")
        assert silent.frames == []
        assert GRACE not in hub.registry.by_user

    async def test_a_resend_to_some_is_skipped_for_the_others_in_its_place(
        self, store: Store, hub: Hub
    ) -> None:
        await store.members.create_log(ROOM)
        sockets = {user: (await open_feed(store, hub, user))[2] for user in (ADA, GRACE, ALAN)}
        [place] = await store.log.positions([ROOM])
        assert place is not None
        text = published((1, 0, ADA, "-"), (2, 1, ADA, str(GRACE)), (3, 2, ADA, "-")).replace(
            "e1", place.epoch
        )
        await store.client.publish(ROOM.key, text)
        for user in (ADA, GRACE):
            await sockets[user].until("message", 3)
        await sockets[ALAN].until("message", 2)
        [first, skipped, last] = sockets[ALAN].frames
        assert (first["seq"], last["seq"]) == (1, 3)
        assert skipped["type"] == "resumed"
        assert (skipped["ok"], skipped["from"], skipped["upto"]) == (True, 1, 2)
        assert (skipped["messages"], skipped["gone"]) == ([], [[2, "not_for_you"]])
        assert "changed" not in skipped

    async def test_a_connected_sender_is_noted_for_receipts(
        self, store: Store, hub: Hub, reports: Reports
    ) -> None:
        _, _, socket = await open_feed(store, hub, ADA)
        await accept(store, message(user=GRACE), message(user=ADA))
        await socket.until("message", 2)
        assert reports.accepted == [(ROOM.id, ADA)]

    async def test_an_ack_marks_the_rooms_cursors_as_moved(
        self, store: Store, hub: Hub, reports: Reports
    ) -> None:
        _, _, socket = await open_feed(store, hub, ADA)
        await accept(store)
        await socket.until("message")
        await acknowledge(store, GRACE, 1)
        await until(lambda: reports.cursors_moved)

    async def test_typing_is_sent_to_the_others(self, store: Store, hub: Hub) -> None:
        await store.members.create_log(ROOM)
        _, _, own = await open_feed(store, hub, ADA)
        _, _, other = await open_feed(store, hub, GRACE)
        await store.presence.publish_typing(ROOM, ADA)
        assert await other.until("typing") == [{"type": "typing", "room": ROOM.id, "user": ADA}]
        assert own.frames == []


class TestMerge:
    async def test_messages_published_during_a_read_follow_it(self, store: Store, hub: Hub) -> None:
        await accept(store, message("read"))
        connection, socket = connect(GRACE)
        hub.registry.enter(connection)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        with hub.reading(feed):
            slice_ = await read(store, GRACE)
            await accept(store, message("during the read"))
            await until(lambda: feed.held)
            assert socket.frames == []
            hub.merge(connection, feed, slice_)
        await accept(store, message("after"))
        assert [frame["body"] for frame in await socket.until("message", 2)] == ["during the read", "after"]

    async def test_messages_of_the_read_are_not_sent_again(self, store: Store, hub: Hub) -> None:
        await store.members.create_log(ROOM)
        connection, socket = connect(GRACE)
        hub.registry.enter(connection)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        with hub.reading(feed):
            await accept(store, message("both heard and read"))
            await until(lambda: feed.held)
            slice_ = await read(store, GRACE)
            hub.merge(connection, feed, slice_)
        assert feed.last == slice_.upto == 1
        await accept(store, message("after"))
        assert [frame["seq"] for frame in await socket.until("message")] == [2]

    async def test_a_new_feed_holds_nothing_before_its_first_read(self, store: Store, hub: Hub) -> None:
        await store.members.create_log(ROOM)
        connection, socket = connect(GRACE)
        hub.registry.enter(connection)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        await accept(store, message("before the read"))
        await until(lambda: hub.registry.rooms[ROOM.id].top == 1)
        assert (feed.state, feed.held) == (FeedState.NEW, [])
        assert (await resume(store, hub, connection, feed)).upto == 1, "the read returns it"
        await accept(store, message("after"))
        await socket.until("message")
        assert socket.seqs == [2]

    async def test_messages_held_for_one_read_are_not_sent_after_another(
        self, store: Store, hub: Hub
    ) -> None:
        await accept(store, message("read"))
        connection, socket = connect(GRACE)
        hub.registry.enter(connection)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        with hub.reading(feed):
            slice_ = await read(store, GRACE)
            await accept(store, message("during the read"))
            await until(lambda: feed.held)
            hub.merge(connection, feed, slice_)
        assert feed.held == []
        await resume(store, hub, connection, feed, since=2)
        await accept(store, message("after"))
        await socket.until("message", 2)
        assert socket.seqs == [2, 3]

    async def test_a_read_with_more_to_come_sends_nothing_until_the_next(
        self, store: Store, hub: Hub
    ) -> None:
        await accept(store, *(message() for _ in range(3)))
        connection, socket = connect(GRACE)
        hub.registry.enter(connection)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        with hub.reading(feed):
            slice_ = await read(store, GRACE, limit=2)
            hub.merge(connection, feed, slice_)
        _, _, other = await open_feed(store, hub, ALAN)
        await accept(store)
        await other.until("message")
        assert feed.state is FeedState.BEHIND
        assert socket.frames == []
        await resume(store, hub, connection, feed, since=2)
        await accept(store)
        assert [frame["seq"] for frame in await socket.until("message")] == [5]

    async def test_a_read_that_failed_leaves_the_feed_behind(self, store: Store, hub: Hub) -> None:
        connection, _ = connect(GRACE)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        with pytest.raises(TimeoutError), hub.reading(feed):
            raise TimeoutError
        assert feed.state is FeedState.BEHIND

    async def test_too_many_held_messages_end_in_a_position(self, store: Store, hub: Hub) -> None:
        hub.policy = dataclasses.replace(hub.policy, unsent_max=3)
        await store.members.create_log(ROOM)
        connection, socket = connect(GRACE, hub.policy)
        hub.registry.enter(connection)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        with hub.reading(feed):
            slice_ = await read(store, GRACE)
            for _ in range(5):
                await accept(store)
            await until(lambda: hub.registry.rooms[ROOM.id].top == 5)
            hub.merge(connection, feed, slice_)
        assert [frame["top"] for frame in await socket.until("position")] == [5]
        assert socket.seqs == []

    async def test_no_held_message_follows_the_position(self, store: Store, hub: Hub) -> None:
        hub.policy = dataclasses.replace(hub.policy, unsent_max=3)
        await store.members.create_log(ROOM)
        connection, socket = connect(GRACE, hub.policy)
        hub.registry.enter(connection)
        feed = await hub.add_feed(connection, MEMBER_ROOM)
        with hub.reading(feed):
            slice_ = await read(store, GRACE)
            await accept(store, message(), message())
            await accept(store, message(), message())
            await accept(store, message())
            await until(lambda: len(feed.held) == 3)
            hub.merge(connection, feed, slice_)
        await connection.writer.drained()
        assert [frame["type"] for frame in socket.frames] == ["message", "message", "position"]


class TestSlowReader:
    async def test_slow_reader_gets_a_position_and_nothing_more_until_it_syncs(
        self, store: Store, hub: Hub
    ) -> None:
        await store.members.create_log(ROOM)
        policy = dataclasses.replace(hub.policy, unsent_max=10)
        hub.policy = policy
        connection, feed, slow = await open_feed(
            store, hub, GRACE, dataclasses.replace(policy, unsent_max=10)
        )
        _, _, quick = await open_feed(store, hub, ALAN, dataclasses.replace(policy, unsent_max=1_000))
        slow.reads.clear()
        for n in range(40):
            await accept(store, message(str(n)))
        await quick.until("message", 40)
        assert connection.writer.unsent <= 10
        assert feed.state is FeedState.BEHIND
        slow.reads.set()
        await slow.until("position")
        await connection.writer.drained()
        assert slow.frames[-1]["type"] == "position"
        assert slow.frames[-1]["top"] > slow.seqs[-1] == len(slow.seqs)
        slice_ = await resume(store, hub, connection, feed, since=slow.seqs[-1])
        assert slice_.upto == 40
        await accept(store, message("again live"))
        await until(lambda: 41 in slow.seqs)


class TestPosition:
    async def test_a_message_that_was_never_heard_is_revealed(
        self, store: Store, hub: Hub, positions: Positions
    ) -> None:
        _, feed, socket = await open_feed(store, hub, GRACE)
        hub._subscription.remove(ROOM.key)  # as if the publication were lost
        [accepted] = await accept(store)
        await positions.check()
        [position] = await socket.until("position")
        assert position == {"type": "position", "room": ROOM.id, "epoch": accepted.epoch, "top": 1, "rev": 0}
        assert feed.state is FeedState.BEHIND

    async def test_a_client_that_has_everything_is_told_once(
        self, store: Store, hub: Hub, positions: Positions
    ) -> None:
        _, feed, socket = await open_feed(store, hub, GRACE)
        await accept(store)
        await socket.until("message")
        await positions.check()
        await positions.check()
        await accept(store)
        await socket.until("message", 2)
        assert [frame["type"] for frame in socket.frames] == ["message", "position", "message"]
        assert feed.state is FeedState.OPEN

    async def test_a_lost_change_is_revealed(self, store: Store, hub: Hub, positions: Positions) -> None:
        _, _, socket = await open_feed(store, hub, GRACE)
        await store.client.hset(ROOM.key, "rev", 3)
        await positions.check()
        assert [frame["rev"] for frame in await socket.until("position")] == [3]

    async def test_another_epoch_is_revealed(self, store: Store, hub: Hub, positions: Positions) -> None:
        await accept(store)
        _, feed, socket = await open_feed(store, hub, GRACE)
        await store.client.delete(ROOM.key)
        epoch = await store.members.create_log(ROOM)
        await positions.check()
        assert [frame["epoch"] for frame in await socket.until("position")] == [epoch]
        assert feed.state is FeedState.BEHIND

    async def test_a_lost_membership_event_is_revealed(
        self, store: Store, hub: Hub, positions: Positions, reports: Reports
    ) -> None:
        await open_feed(store, hub, GRACE)
        hub.registry.rooms[ROOM.id].members = 0
        await positions.check()
        assert reports.members_changed == []
        await store.members.leave(ROOM, ALAN)
        await positions.check()
        assert reports.members_changed == [ROOM.id]

    async def test_a_feed_during_a_read_is_unchanged(
        self, store: Store, hub: Hub, positions: Positions
    ) -> None:
        _, feed, socket = await open_feed(store, hub, GRACE)
        with hub.reading(feed):
            hub._subscription.remove(ROOM.key)
            await accept(store)
            await positions.check()
            assert feed.state is FeedState.READING
        assert socket.frames == []

    async def test_a_lost_subscription_is_restored_and_positions_are_checked(
        self, store: Store, hub: Hub
    ) -> None:
        _, _, socket = await open_feed(store, hub, GRACE)
        await store.client.client_kill_filter(_type="pubsub")
        [accepted] = await accept(store, message("published to nobody, or not"))
        await until(lambda: socket.of("position") or socket.of("message"))
        assert socket.frames[-1].get("top", socket.frames[-1].get("seq")) == accepted.seq


async def test_an_empty_room_stays_for_a_moment_and_is_forgotten(
    store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.members.create_log(ROOM)
    connection, _, _ = await open_feed(store, hub, GRACE)
    hub.registry.leave(connection)
    hub.forget_empty_rooms()
    assert ROOM.id in hub.registry.rooms
    monkeypatch.setattr(hubs, "FORGET_AFTER_S", 0.0)
    hub.forget_empty_rooms()
    assert ROOM.id not in hub.registry.rooms
