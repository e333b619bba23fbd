"""The store when its server fails: full, restarted, frozen, without its scripts or the end of its file."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator

import pytest

from messaging.errors import BacklogFull, Unavailable
from messaging.store import Store
from messaging.store.records import Accepted, AckRow, Append, Held, Read, RoomKey
from tests.store.test_store import heard
from tests.support.messages import (
    ADA,
    ALAN,
    GRACE,
    HOUR_MS,
    ROOM,
    accept,
    acknowledge,
    cursors,
    due,
    dump,
    expire,
    message,
    missing,
    read,
)
from tests.support.servers import Server

AOF_TAIL = 4_096
SKIP = 1_048_576
DAY_MS = 24 * HOUR_MS


def step(store: Store) -> int:
    """Return by how much the first append of a room in the present life of the store raises its top."""
    return SKIP + int(store.life[:5], 16)


class TestRestarted:
    async def test_no_seq_is_assigned_twice_although_the_end_of_the_file_is_lost(
        self, server: Server, own_store: Store
    ) -> None:
        given = await accept(own_store, *(message(f"{n} {'x' * 200}") for n in range(60)))
        for n in range(20):
            given += await accept(own_store, message(f"{n} {'y' * 200}", user=GRACE))
        server.kill()
        server.cut_tail(AOF_TAIL)
        server.start()
        [place] = await own_store.log.positions([ROOM])
        assert place is not None
        assert 60 <= place.top < 80, "only the tail is lost"

        async with own_store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            [fresh, second] = await accept(own_store, message("fresh"), message("second"))
            lines = (await heard(pubsub)).split("\n")
        assert fresh.epoch == given[0].epoch
        assert fresh.seq == place.top + 1 + step(own_store) > max(answer.seq for answer in given)
        assert second.seq == fresh.seq + 1
        assert lines[1] == f"{fresh.seq} {place.top} {ADA} -"
        assert json.loads(lines[2])["after"] == place.top
        assert "after" not in json.loads(lines[4])

    async def test_messages_kept_of_a_lost_end_are_whole(self, server: Server, own_store: Store) -> None:
        await accept(own_store, message())
        for n in range(40):
            await accept(own_store, message(f"{n} {'y' * 200}", user=GRACE))
        server.kill()
        server.cut_tail(AOF_TAIL + 1)
        server.start()
        slice_ = await read(own_store, ALAN)
        assert [row.seq for row in slice_.messages] == list(range(1, slice_.top + 1))
        assert await own_store.client.zcard(f"{ROOM.key}:live") == slice_.top
        assert await own_store.client.zcard(f"{ROOM.prefix}expiring") == slice_.top

    async def test_every_answered_message_survives_kill(self, server: Server, own_store: Store) -> None:
        first = message("first")
        [answer] = await accept(own_store, first)
        await acknowledge(own_store, GRACE, 1)
        server.kill()
        server.start()
        [again] = await accept(own_store, first)
        assert (again.seq, again.duplicate) == (answer.seq, True)
        assert await missing(own_store, 1) == {ALAN: "offline"}

    async def test_only_the_first_append_of_a_life_skips(self, server: Server, own_store: Store) -> None:
        await accept(own_store)
        server.kill()
        server.start()
        seqs = [(await accept(own_store))[0].seq for _ in range(3)]
        assert seqs == [2 + step(own_store), 3 + step(own_store), 4 + step(own_store)]

    async def test_a_repeat_does_not_skip(self, server: Server, own_store: Store) -> None:
        first = message()
        await accept(own_store, first)
        server.kill()
        server.start()
        await accept(own_store, first)
        assert (await read(own_store, GRACE)).top == 1

    async def test_a_cursor_above_the_lost_end_acks_nothing_new(
        self, server: Server, own_store: Store
    ) -> None:
        """A client with a lost message syncs from there. It gets the new message, because its seq is higher."""
        for n in range(60):
            [last] = await accept(own_store, message(f"{n} {'y' * 200}"))
        server.kill()
        server.cut_tail(AOF_TAIL)
        server.start()
        await accept(own_store, message("fresh"))
        assert [row.body for row in (await read(own_store, GRACE, last.seq)).messages] == ["fresh"]

    async def test_the_senders_cursor_does_not_jump_over_the_skipped(
        self, server: Server, own_store: Store
    ) -> None:
        await accept(own_store, message(), message(user=GRACE))
        server.kill()
        server.start()
        await accept(own_store, message())
        assert (await cursors(own_store, ADA))[0] == 1

    async def test_no_rev_is_given_twice_and_only_the_first_change_of_a_life_skips(
        self, server: Server, own_store: Store
    ) -> None:
        await accept(own_store, message(), message(), message(ttl_ms=DAY_MS))
        revs = [(await own_store.changes.edit(ROOM, ADA, None, 1, "b", open_history=False)).rev]
        for change in (
            lambda: own_store.changes.delete(ROOM, ADA, None, 1, open_history=False),
            lambda: own_store.changes.extend(ROOM, ADA, None, 2, DAY_MS, open_history=False),
            lambda: own_store.changes.edit(ROOM, ADA, None, 2, "c", open_history=False),
        ):
            server.kill()
            server.start()
            revs.append((await change()).rev)
        revs.append((await own_store.changes.edit(ROOM, ADA, None, 2, "d", open_history=False)).rev)
        server.kill()
        server.start()
        await own_store.changes.shorten(ROOM, 3_600)  # of two messages
        [place] = await own_store.log.positions([ROOM])
        assert place is not None
        revs.append(place.rev)
        steps = [later - earlier for earlier, later in itertools.pairwise(revs)]
        assert steps == [1 + SKIP, 1 + SKIP, 1 + SKIP, 1, 2 + SKIP]

    async def test_changes_before_a_restart_are_returned_after_it(
        self, server: Server, own_store: Store
    ) -> None:
        await accept(own_store, message(), message())
        await own_store.changes.edit(ROOM, ADA, None, 1, "b", open_history=False)
        server.kill()
        server.start()
        await own_store.changes.delete(ROOM, ADA, None, 2, open_history=False)
        slice_ = await read(own_store, GRACE, 2, rev=0)
        assert [(rev, row.body) for rev, row in slice_.changed] == [(1, "b")]
        assert (slice_.gone, slice_.rev) == ([(2, "deleted")], 2 + SKIP)

    async def test_a_claim_and_its_message_survive_kill(self, server: Server, own_store: Store) -> None:
        await accept(own_store)
        await expire(own_store, 1)
        await due(own_store, 1)
        claimed = await own_store.expiry.claim("t")
        server.kill()
        server.start()
        assert await own_store.expiry.claim("t") == claimed
        [one] = await own_store.expiry.read(claimed)
        assert {missed.user for missed in one.missed} == {GRACE, ALAN}
        assert await own_store.expiry.finalize([one]) == 1

    async def test_a_restarted_store_has_a_new_life(self, server: Server, own_store: Store) -> None:
        await accept(own_store)
        before = own_store.life
        server.kill()
        server.start()
        await accept(own_store)
        assert before != own_store.life != ""


class TestLoading:
    async def test_a_loading_store_is_unavailable_and_unchanged(
        self, server: Server, own_store: Store
    ) -> None:
        await accept(own_store, *(message() for _ in range(3_000)))
        kept = await dump(own_store)
        server.kill()
        # It waits 0.1 ms at every command of its file, and serves clients at every 1,024th.
        server.start("--key-load-delay", "100", ready=False)
        server.wait_until_loading()
        late = message("late")
        [answer], joined = await asyncio.gather(
            own_store.log.append([late]), own_store.members.join(ROOM, [9]), return_exceptions=True
        )
        assert isinstance(answer, Unavailable)
        assert answer.retry_after_ms is not None
        assert isinstance(joined, Unavailable)
        server.kill()
        server.start()
        assert await dump(own_store) == kept
        [again] = await accept(own_store, late)
        assert not again.duplicate


class TestFull:
    @pytest.fixture
    async def full(self, store: Store) -> AsyncIterator[Store]:
        await accept(store, message("a"), message("b"))
        await store.client.config_set("maxmemory", 1)
        try:
            yield store
        finally:
            await store.client.config_set("maxmemory", 0)

    async def test_a_log_that_cannot_be_created_fails_only_the_messages_of_its_room(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await accept(store, message("a"))
        create_log = store.members.create_log

        async def fill_and_create(room: RoomKey) -> None:
            await store.client.config_set("maxmemory", 1)
            await create_log(room)

        monkeypatch.setattr(store.members, "create_log", fill_and_create)
        try:
            stored, refused = await store.log.append(
                [message("b"), message("c", room=RoomKey("without-log", ROOM.partition))]
            )
        finally:
            await store.client.config_set("maxmemory", 0)
        assert isinstance(stored, Accepted)
        assert isinstance(refused, BacklogFull)

    async def test_append_is_refused_for_now_and_stores_nothing(self, full: Store) -> None:
        before = await dump(full)
        answers = await full.log.append([message("c"), message("d", user=GRACE)])
        assert [type(answer) for answer in answers] == [BacklogFull, BacklogFull]
        assert all(
            isinstance(answer, BacklogFull) and answer.retryable and answer.retry_after_ms
            for answer in answers
        )
        assert await dump(full) == before

    async def test_the_same_id_is_accepted_when_there_is_room_again(self, full: Store) -> None:
        late = message("c")
        await full.log.append([late])
        await full.client.config_set("maxmemory", 0)
        [answer] = await accept(full, late)
        assert (answer.seq, answer.duplicate) == (3, False)

    async def test_reads_and_operations_that_free_memory_continue(self, full: Store) -> None:
        slice_ = await read(full, GRACE)
        assert [row.body for row in slice_.messages] == ["a", "b"]
        assert (await full.log.history(ROOM, GRACE, before=9)).messages
        assert await acknowledge(full, GRACE, 2, 1) == 1
        [standing] = await full.members.member_positions(GRACE, [(ROOM, Held(slice_.epoch, 2))])
        assert standing.delivered == 2
        assert [row.user for row in await full.retries.owing(ROOM, slice_.epoch, [GRACE, ALAN])] == [ALAN]
        assert await full.retries.record_attempt(ROOM, ALAN, 0, 5.0)
        assert (await full.cursors.receipts([(ROOM, ADA)]))[0][1] == [(1, 1, 1, 2), (2, 1, 0, 2)]
        assert (await full.cursors.recipients(ROOM, 1)).delivered == 1
        await full.members.leave(ROOM, ALAN)
        assert await missing(full, 1) == {ALAN: "left_room"}

    async def test_no_member_is_half_joined(self, full: Store) -> None:
        before = await dump(full)
        with pytest.raises(BacklogFull):
            await full.members.join(ROOM, [9])
        assert await dump(full) == before

    async def test_scripts_lost_in_a_full_store_are_loaded_again(self, full: Store) -> None:
        await full.client.script_flush()
        assert await acknowledge(full, GRACE, 2) == 1


class TestScriptsGone:
    async def test_every_operation_loads_the_scripts_again(self, store: Store) -> None:
        [accepted] = await accept(store)
        reads = [Read(room=ROOM, epoch=accepted.epoch, since=0)]
        for verb in (
            lambda: store.log.append([message()]),
            lambda: store.log.read_after(GRACE, reads),
            lambda: store.log.history(ROOM, GRACE, before=9),
            lambda: store.cursors.acknowledge([AckRow(ROOM, accepted.epoch, GRACE, 1, None)]),
            lambda: store.members.member_positions(GRACE, [(ROOM, Held())]),
            lambda: store.cursors.receipts([(ROOM, ADA)]),
            lambda: store.cursors.recipients(ROOM, 1),
            lambda: store.retries.owing(ROOM, accepted.epoch, [GRACE]),
            lambda: store.retries.record_attempt(ROOM, GRACE, 0, 5.0),
            lambda: store.members.join(ROOM, [9]),
            lambda: store.members.leave(ROOM, 9),
            lambda: store.members.create_log(ROOM),
            lambda: store.changes.edit(ROOM, ADA, None, 1, "other", open_history=False),
            lambda: store.changes.extend(ROOM, ADA, None, 1, DAY_MS, open_history=False),
            lambda: store.changes.shorten(ROOM, 60),
            lambda: store.changes.delete(ROOM, ADA, None, 1, open_history=False),
            lambda: due(store, 1),
            lambda: store.expiry.claim("t"),
            lambda: store.expiry.claim("u", room=ROOM),
        ):
            await store.client.script_flush()
            await verb()
        claimed = await store.expiry.read(await store.expiry.claim("t"))
        await store.client.script_flush()
        assert await store.expiry.finalize(claimed) == 1

    async def test_a_batch_over_several_partitions_is_accepted_once(self, store: Store) -> None:
        await accept(store)
        batch = [_in_partition(partition) for partition in range(5)]
        await store.client.script_flush()
        answers = await store.log.append(batch)
        assert [(answer.seq, answer.duplicate) for answer in answers if isinstance(answer, Accepted)] == [
            (1, False)
        ] * 5
        again = await store.log.append(batch)
        assert [(answer.seq, answer.duplicate) for answer in again if isinstance(answer, Accepted)] == [
            (1, True)
        ] * 5

    async def test_the_same_life_does_not_skip(self, store: Store) -> None:
        await accept(store)
        await store.client.script_flush()
        assert [answer.seq for answer in await accept(store)] == [2]


def _in_partition(partition: int) -> Append:
    return message(room=RoomKey(f"room-{partition}", partition))


class TestFrozen:
    @pytest.fixture
    async def frozen(self, store: Store, store_process: subprocess.Popen[bytes]) -> AsyncIterator[Store]:
        await accept(store)
        store_process.send_signal(signal.SIGSTOP)
        try:
            yield store
        finally:
            store_process.send_signal(signal.SIGCONT)

    async def test_append_is_unavailable_within_four_seconds(
        self, frozen: Store, store_process: subprocess.Popen[bytes]
    ) -> None:
        late = message("late")
        began_s = time.monotonic()
        [answer] = await frozen.log.append([late])
        assert time.monotonic() - began_s < 4
        assert isinstance(answer, Unavailable)
        assert answer.retryable
        store_process.send_signal(signal.SIGCONT)
        await accept(frozen, late)  # stored before or stored now: once
        assert [row.body for row in (await read(frozen, GRACE)).messages] == ["hello", "late"]

    async def test_every_other_operation_is_unavailable_too(self, frozen: Store) -> None:
        began_s = time.monotonic()
        with pytest.raises(Unavailable):
            await frozen.log.positions([ROOM])
        assert time.monotonic() - began_s < 4

    async def test_a_stopped_store_is_unavailable_at_once(self, server: Server, own_store: Store) -> None:
        await accept(own_store)
        server.kill()
        [answer] = await own_store.log.append([message()])
        assert isinstance(answer, Unavailable)
        with pytest.raises(Unavailable):
            await own_store.members.join(ROOM, [9])
        server.start()
        await accept(own_store)
