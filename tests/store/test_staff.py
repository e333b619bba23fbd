"""The operations of the staff on rows of the store: retry, reset, delete, extend, close, with an outcome for each row."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from django.contrib.auth.models import User

from messaging.admin import operations
from messaging.expiry.requeue import Outcome
from messaging.models import AuditEntry, Room
from messaging.policy import Policy
from messaging.rooms.memberships import key_of
from messaging.store import Store, open_store, scripts
from tests.support.messages import ADA, GRACE, HOUR_MS, ROOM, accept, message
from tests.support.people import Events, person, room_of

pytestmark = pytest.mark.usefixtures("verbs")
SECRET = "see you at nine"


@pytest.fixture
async def people(verbs: None) -> tuple[User, User, User]:
    return await person("ada"), await person("grace"), await person("alan")


@pytest.fixture
async def room(people: tuple[User, User, User]) -> Room:
    """A room of the three, with two messages that ada sent a minute ago."""
    ada, grace, alan = people
    made = await room_of(ada, grace, alan, ttl_max_s=7_200)
    store = open_store()
    key = key_of(made)
    await accept(store, *(message(SECRET, user=ada.pk, room=key) for _ in range(2)))
    for seq in (1, 2):
        await store.client.hset(f"{key.key}:msg:{seq}", "sent_at", await store.now_ms() - 60_000)
    return made


async def connect(*users: User) -> None:
    await open_store().presence.report("process", [user.pk for user in users], 60)


async def attempted(room: Room, user: User, times: int, wait_s: float = 60.0) -> None:
    for count in range(times):
        assert await open_store().retries.record_attempt(key_of(room), user.pk, count, wait_s)


async def attempts_of(room: Room, user: User) -> tuple[int, bool] | None:
    """Return the attempts of a member who owes something, and whether the next one is due."""
    store = open_store()
    [place] = await store.log.positions([key_of(room)])
    assert place is not None
    owing = await store.retries.owing(key_of(room), place.epoch, [user.pk])
    return (owing[0].attempts, owing[0].next_at_ms <= await store.now_ms()) if owing else None


def results(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(str(outcome.result), outcome.why) for outcome in outcomes]


class TestRetrying:
    async def test_a_room_is_swept_at_once_although_its_sweep_is_not_due(
        self, room: Room, events: Events
    ) -> None:
        [outcome] = await operations.retry_rooms([room.pk])
        assert outcome == Outcome(room.pk, outcome.result)
        event = await events.until(type="sweep", room=room.pk)
        assert event["mark"] == 2

    async def test_a_manual_sweep_sets_no_heartbeat(self, room: Room) -> None:
        await operations.retry_rooms([room.pk])
        assert "retry_undelivered" not in await open_store().stats.beats()

    async def test_rooms_without_due_messages_and_deleted_rooms_are_skipped(
        self, room: Room, people: tuple[User, User, User]
    ) -> None:
        quiet = await room_of(*people, name="Quiet")
        outcomes = await operations.retry_rooms([quiet.pk, "gone", room.pk])
        assert results(outcomes) == [("skipped", "nothing_due"), ("skipped", "room_gone"), ("done", "")]

    async def test_a_connected_member_is_due_at_once_and_keeps_the_count(
        self, room: Room, people: tuple[User, User, User], events: Events
    ) -> None:
        _, grace, _ = people
        await connect(grace)
        await attempted(room, grace, 2)
        assert await attempts_of(room, grace) == (2, False)
        assert results(await operations.retry_members([f"{room.pk}:{grace.pk}"])) == [("done", "")]
        assert await attempts_of(room, grace) == (2, True)
        await events.until(type="sweep", room=room.pk)

    async def test_a_member_is_skipped_with_the_reason(
        self, room: Room, people: tuple[User, User, User]
    ) -> None:
        ada, grace, alan = people
        await connect(grace)
        await attempted(room, grace, Policy().attempts_max)
        places = [f"{room.pk}:{user.pk}" for user in (ada, grace, alan)]
        outcomes = await operations.retry_members([*places, f"gone:{ada.pk}", f"{room.pk}:x"])
        assert {outcome.key: outcome.why for outcome in outcomes} == {
            places[0]: "caught_up",
            places[1]: "gave_up",
            places[2]: "away",
            f"gone:{ada.pk}": "room_gone",
            f"{room.pk}:x": "room_gone",
        }

    async def test_attempts_that_gave_up_are_reset_and_pushed_again(
        self, room: Room, people: tuple[User, User, User]
    ) -> None:
        _, grace, alan = people
        await connect(grace)
        await attempted(room, grace, Policy().attempts_max)
        places = [f"{room.pk}:{user.pk}" for user in (grace, alan)]
        outcomes = await operations.reset_attempts(places)
        assert results(outcomes) == [("done", ""), ("skipped", "no_attempts")]
        assert await attempts_of(room, grace) == (0, True)
        assert results(await operations.retry_members(places[:1])) == [("done", "")]


class TestMessages:
    async def test_staff_who_are_no_members_delete_as_a_moderator_would(self, room: Room) -> None:
        outsider = await person("staff")
        outcomes = await operations.delete_messages(
            [f"{room.pk}:1", f"{room.pk}:1", f"{room.pk}:9", "gone:1", f"{room.pk}:x"], by=outsider.pk
        )
        assert results(outcomes) == [
            ("done", ""),
            ("skipped", "unknown"),
            ("skipped", "unknown"),
            ("skipped", "room_gone"),
            ("skipped", "room_gone"),
        ]
        store = open_store()
        assert [message.seq for message in await store.lists.live(0, 10, key_of(room))] == [2]
        entry = await AuditEntry.objects.aget()
        assert (entry.verb, entry.user_name, entry.room_key, entry.seq) == ("delete", "staff", room.pk, 1)
        assert SECRET not in str(entry.__dict__)

    async def test_a_message_lives_longer_within_its_rooms_bounds(self, room: Room) -> None:
        outsider = await person("staff")
        store = open_store()
        now_ms = await store.now_ms()
        outcomes = await operations.extend_messages([f"{room.pk}:1", f"{room.pk}:9"], 7_200, by=outsider.pk)
        assert results(outcomes) == [("done", ""), ("skipped", "unknown")]
        outcomes = await operations.extend_messages([f"{room.pk}:2"], 7_201, by=outsider.pk)
        assert results(outcomes) == [("skipped", "bad_ttl")]
        ends = {message.seq: message.expires_at for message in await store.lists.live(0, 10, key_of(room))}
        assert ends[1] >= now_ms + 2 * HOUR_MS
        assert ends[2] < now_ms + 2 * HOUR_MS
        assert await AuditEntry.objects.filter(verb="extend", user_name="staff").acount() == 1


class TestRoomsAndMembers:
    async def test_a_lifetime_is_changed_in_the_name_of_its_staff_member_and_existing_messages_only_when_asked(
        self, room: Room
    ) -> None:
        member = await person("staff")
        counted, rooms = await operations.count_shortened([room.pk, "gone"], 30)
        assert rooms == 2
        assert (counted.looked, counted.shortened, counted.ended) == (2, 2, 2)
        for shorten, lives in ((False, 2), (True, 0)):
            outcomes = await operations.change_lifetimes([room.pk, "gone"], 30, shorten=shorten, by=member.pk)
            assert results(outcomes) == [("done", ""), ("skipped", "room_gone")]
            assert len(await open_store().lists.live(0, 10, key_of(room))) == lives
        assert (await Room.objects.aget()).ttl_s == 30
        assert [(entry.verb, entry.user_name) async for entry in AuditEntry.objects.order_by("at")] == [
            ("lifetime", "staff"),
            ("shorten", "staff"),
        ]
        outcomes = await operations.change_lifetimes([room.pk], 86_400, shorten=False, by=member.pk)
        assert results(outcomes) == [("skipped", "bad_ttl")]

    async def test_connections_are_closed_once_for_each_user_and_offline_users_are_skipped(
        self, people: tuple[User, User, User], events: Events
    ) -> None:
        _, grace, alan = people
        await connect(grace)
        outcomes = await operations.close_connections([("1", grace.pk), ("2", grace.pk), ("3", alan.pk)])
        assert results(outcomes) == [("done", ""), ("done", ""), ("skipped", "not_connected")]
        await events.until(type="close_user", user=grace.pk)


async def test_an_unavailable_store_fails_the_first_row_and_leaves_the_others(
    room: Room, people: tuple[User, User, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, grace, _ = people
    nowhere = redis.asyncio.Redis(unix_socket_path="/nowhere/store.sock")
    monkeypatch.setattr(open_store()._calls, "scripts", scripts.Scripts(nowhere, deadline_s=0.5))
    members = [f"{room.pk}:{user.pk}" for user in (ada, grace)]
    runs: list[Any] = [
        operations.retry_rooms([room.pk, room.pk]),
        operations.retry_members(members),
        operations.reset_attempts(members),
        operations.delete_messages([f"{room.pk}:1", f"{room.pk}:2"], by=ada.pk),
        operations.extend_messages([f"{room.pk}:1", f"{room.pk}:2"], 60, by=ada.pk),
        operations.change_lifetimes([room.pk, room.pk], 60, shorten=True, by=ada.pk),
        operations.close_connections([("1", ada.pk), ("2", grace.pk)]),
    ]
    for run in runs:
        assert results(await run) == [("failed", "unavailable")]


async def test_retrying_now_moves_no_due_attempt_and_creates_none(store: Store) -> None:
    await accept(store)
    assert await store.retries.retry_now(ROOM, [GRACE, ADA]) == 0
    assert await store.retries.record_attempt(ROOM, GRACE, 0, 0.0)
    before = await store.client.hget(f"{ROOM.key}:attempts", GRACE)
    assert await store.retries.retry_now(ROOM, [GRACE, ADA]) == 1
    assert await store.client.hget(f"{ROOM.key}:attempts", GRACE) == before
    assert not await store.client.hexists(f"{ROOM.key}:attempts", ADA)
