"""Operations on rooms: the state of database, store and open sockets afterwards, also when one of them is down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone

from messaging.bridge import in_db_thread
from messaging.errors import (
    BadName,
    BadRequest,
    BadTtl,
    Conflict,
    Forbidden,
    NoSuchUser,
    NotMember,
    Unavailable,
)
from messaging.models import AuditEntry, Membership, Room
from messaging.rooms import actions as rooms
from messaging.rooms import memberships
from messaging.rooms.memberships import Change, Departure, key_of
from messaging.store import Store, open_store
from messaging.store.members import Members
from messaging.store.records import RoomKey, Shortened, Stored
from tests.support.messages import accept, message
from tests.support.people import Events, in_store, person, room_of, rows_of, unavailable

pytestmark = pytest.mark.usefixtures("verbs")


@pytest.fixture
def store_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the store refuse the calls of rooms."""
    monkeypatch.setattr(Members, "join", unavailable)
    monkeypatch.setattr(Members, "leave", unavailable)


# ── Creating ──


async def test_a_new_room_has_its_owner_and_members_in_the_database_and_the_store(
    ada: User, grace: User
) -> None:
    room = await room_of(ada, grace)

    assert await rows_of(room) == {"ada": "owner", "grace": "member"}
    assert await in_store(room, ada)
    assert await in_store(room, grace)


async def test_every_member_of_a_new_room_is_told(ada: User, grace: User, events: Events) -> None:
    room = await room_of(ada, grace)

    heard = [await events.next(), await events.next()]

    expected = {"type": "membership_changed", "room": room.id}
    assert heard == [expected | {"user": ada.pk}, expected | {"user": grace.pk}]


async def test_the_owner_named_among_the_members_stays_the_owner_once(ada: User) -> None:
    assert await rows_of(await room_of(ada, ada)) == {"ada": "owner"}


async def test_a_room_with_an_unknown_member_is_not_created(ada: User) -> None:
    with pytest.raises(NoSuchUser):
        await rooms.create_room(ada.pk, "Atlas", members=["nobody"])
    assert not await Room.objects.aexists()


async def test_a_room_is_created_while_the_store_is_unavailable(ada: User, store_away: None) -> None:
    assert await rows_of(await room_of(ada)) == {"ada": "owner"}


@pytest.mark.parametrize(
    "name", ["", "  ", "a" * 81, "a\0b", "a\u202eb", "\u200b", "\u2066x", "a\ud800", "line\nline", "\u3164"]
)
async def test_a_name_that_hides_something_is_refused(ada: User, name: str) -> None:
    with pytest.raises(BadName):
        await rooms.create_room(ada.pk, name)


@pytest.mark.parametrize(
    "name", ["Atlas", "发布筹备", "<b>bold</b>", "a" * 80, "می\u200cخواهم", "👩\u200d🚀"]
)
async def test_a_name_is_kept_as_it_was_written(ada: User, name: str) -> None:
    assert (await rooms.create_room(ada.pk, f" {name} ")).name == name


async def test_a_direct_room_cannot_be_created_as_a_plain_room(ada: User) -> None:
    with pytest.raises(BadRequest):
        await rooms.create_room(ada.pk, "us", kind="direct")


@pytest.mark.parametrize(
    ("ttl_s", "ttl_max_s"),
    [
        (9, None),
        (0, None),
        (-1, None),
        (10**12, None),
        (None, 9),
        (None, 28 * 86_400 + 1),
        (None, 10**30),
        (60, 59),
    ],
)
async def test_a_lifetime_outside_the_bounds_is_refused(
    ada: User, ttl_s: int | None, ttl_max_s: int | None
) -> None:
    with pytest.raises(BadTtl):
        await rooms.create_room(ada.pk, "Atlas", ttl_s=ttl_s, ttl_max_s=ttl_max_s)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((None, None), (3_600, 28 * 86_400)),
        ((10, None), (10, 28 * 86_400)),
        ((None, 60), (60, 60)),
        ((28 * 86_400, None), (28 * 86_400, 28 * 86_400)),
    ],
)
async def test_a_lifetime_that_is_not_given_is_the_sites_within_the_longest(
    ada: User, given: tuple[int | None, int | None], kept: tuple[int, int]
) -> None:
    room = await rooms.create_room(ada.pk, "Atlas", ttl_s=given[0], ttl_max_s=given[1])
    assert (room.ttl_s, room.ttl_max_s) == kept


# ── Direct rooms ──


async def test_two_people_have_one_direct_room_for_both(ada: User, grace: User) -> None:
    first = await rooms.open_direct(ada.pk, "grace")
    second = await rooms.open_direct(grace.pk, "ada")

    assert first.id == second.id
    assert await rows_of(first) == {"ada": "member", "grace": "member"}
    assert await in_store(first, grace)


async def test_a_direct_room_opened_by_both_at_once_is_one(ada: User, grace: User) -> None:
    first, second = await asyncio.gather(
        rooms.open_direct(ada.pk, "grace"), rooms.open_direct(grace.pk, "ada")
    )
    assert first.id == second.id


async def test_each_sees_a_direct_room_by_the_other_ones_name(ada: User, grace: User) -> None:
    room = await rooms.open_direct(ada.pk, "grace")
    assert await in_db_thread(memberships.room_name_for, room, ada.pk) == "grace"
    assert await in_db_thread(memberships.room_name_for, room, grace.pk) == "ada"


async def test_direct_room_with_oneself_is_refused(ada: User) -> None:
    with pytest.raises(Conflict):
        await rooms.open_direct(ada.pk, "ada")


async def test_a_direct_room_is_neither_left_nor_joined_nor_named(ada: User, grace: User) -> None:
    await person("bob")
    room = await rooms.open_direct(ada.pk, "grace")

    for refused in (
        rooms.leave_room(ada.pk, room.id),
        rooms.remove_member(ada.pk, room.id, grace.pk),
        rooms.add_member(ada.pk, room.id, "bob"),
        rooms.change_room(ada.pk, room.id, Change(name="us")),
    ):
        with pytest.raises(Conflict):
            await refused
    assert set(await rows_of(room)) == {"ada", "grace"}


async def test_either_of_two_changes_the_lifetime_of_their_room(ada: User, grace: User) -> None:
    room = await rooms.open_direct(ada.pk, "grace")
    assert (await rooms.change_room(grace.pk, room.id, Change(ttl_s=30))).ttl_s == 30


async def test_people_are_found_by_username_in_upper_and_lower_case(ada: User, grace: User) -> None:
    assert await rooms.open_direct(ada.pk, " Grace ")


@pytest.mark.parametrize("name", ["nobody", "", "gr\0ace", "x" * 5_000, "\ud800", "grace\u200b"])
async def test_direct_room_with_an_unknown_name_is_refused(ada: User, grace: User, name: str) -> None:
    with pytest.raises(NoSuchUser):
        await rooms.open_direct(ada.pk, name)


async def test_a_closed_account_cannot_be_written_to(ada: User) -> None:
    await person("gone", is_active=False)
    with pytest.raises(NoSuchUser):
        await rooms.open_direct(ada.pk, "gone")


# ── Joining and adding ──


async def test_anybody_joins_a_public_room_and_only_once(ada: User, grace: User) -> None:
    room = await room_of(ada, kind="public")

    await rooms.join_room(grace.pk, room.id)
    await rooms.join_room(grace.pk, room.id)

    assert await rows_of(room) == {"ada": "owner", "grace": "member"}
    assert await in_store(room, grace)


async def test_a_private_room_cannot_be_joined_nor_told_from_none(ada: User, grace: User) -> None:
    private = await room_of(ada)
    for room_id in (private.id, "none"):
        with pytest.raises(NotMember):
            await rooms.join_room(grace.pk, room_id)


async def test_join_while_the_store_is_down_fails_and_succeeds_when_repeated(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada, kind="public")
    with monkeypatch.context() as away:
        away.setattr(Members, "join", unavailable)
        with pytest.raises(Unavailable):
            await rooms.join_room(grace.pk, room.id)
    assert not await in_store(room, grace)

    await rooms.join_room(grace.pk, room.id)

    assert await in_store(room, grace)


async def test_only_owner_and_moderators_add_members(ada: User, grace: User) -> None:
    await person("bob")
    room = await room_of(ada, grace)

    with pytest.raises(Forbidden):
        await rooms.add_member(grace.pk, room.id, "bob")
    await Membership.objects.filter(user=grace).aupdate(role="moderator")
    _, new = await rooms.add_member(grace.pk, room.id, "bob")
    _, again = await rooms.add_member(ada.pk, room.id, "bob")

    assert (new, again) == (True, False)
    assert set(await rows_of(room)) == {"ada", "grace", "bob"}


async def test_non_member_cannot_add_or_change_or_detect_a_room(ada: User, grace: User) -> None:
    room = await room_of(ada)
    for refused in (
        rooms.add_member(grace.pk, room.id, "grace"),
        rooms.change_room(grace.pk, room.id, Change(name="mine")),
        rooms.remove_member(grace.pk, room.id, ada.pk),
        rooms.leave_room(grace.pk, room.id),
    ):
        with pytest.raises(NotMember):
            await refused


# ── Leaving and removing ──


async def test_leaving_ends_the_row_the_stores_membership_and_is_heard(
    ada: User, grace: User, events: Events
) -> None:
    room = await room_of(ada, grace)

    await rooms.leave_room(grace.pk, room.id)

    assert await rows_of(room) == {"ada": "owner"}
    assert not await Membership.objects.filter(user=grace).aexists()
    assert not await in_store(room, grace)
    for _ in "made", "made":
        await events.next()
    assert await events.next() == {"type": "membership_changed", "room": room.id, "user": grace.pk}


async def test_member_who_leaves_while_the_store_is_down_is_out_and_the_sweep_finishes_it(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada, grace)
    with monkeypatch.context() as away:
        away.setattr(Members, "leave", unavailable)
        await rooms.leave_room(grace.pk, room.id)
    assert await rows_of(room) == {"ada": "owner"}
    assert await in_store(room, grace)

    assert await rooms.finish_leaving() == 0  # another process may still be working on it
    await Membership.objects.filter(user=grace).aupdate(leaving_at=timezone.now() - timedelta(seconds=61))
    assert await rooms.finish_leaving() == 1

    assert not await in_store(room, grace)
    assert not await Membership.objects.filter(user=grace).aexists()
    assert await rooms.finish_leaving() == 0


async def test_join_that_a_crash_interrupted_is_finished_by_the_sweep(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada, kind="public")
    await open_store().members.create_log(key_of(room))

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as crash:
        crash.setattr(Members, "join", killed)
        with pytest.raises(asyncio.CancelledError):
            await rooms.join_room(grace.pk, room.id)
    assert not await in_store(room, grace)

    assert await rooms.finish_joining() == 0  # another process may still be working on it
    await Membership.objects.filter(user=grace).aupdate(joining_at=timezone.now() - timedelta(seconds=61))
    assert await rooms.finish_joining() == 1

    assert await in_store(room, grace)
    assert await rows_of(room) == {"ada": "owner", "grace": "member"}
    assert await rooms.finish_joining() == 0


async def test_user_who_is_removed_while_their_join_is_finished_is_no_member_of_the_store(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada, kind="public")
    await open_store().members.create_log(key_of(room))
    await Membership.objects.acreate(room=room, user=grace, joining_at=timezone.now() - timedelta(seconds=61))
    join = Members.join

    async def join_late(self: Members, key: RoomKey, users: Iterable[int]) -> None:
        await rooms.remove_member(ada.pk, room.id, grace.pk)
        await join(self, key, users)

    monkeypatch.setattr(Members, "join", join_late)
    await rooms.finish_joining()
    assert await rows_of(room) == {"ada": "owner"}
    assert not await in_store(room, grace)


async def test_user_who_is_added_while_the_store_is_down_is_no_member(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada, kind="private")
    await open_store().members.create_log(key_of(room))
    join = Members.join
    for executed in (False, True):  # an answer may be lost after the store has executed the call

        async def lost(self: Members, key: RoomKey, users: Iterable[int], executed: bool = executed) -> None:
            if executed:
                await join(self, key, users)
            raise Unavailable

        with monkeypatch.context() as away:
            away.setattr(Members, "join", lost)
            with pytest.raises(Unavailable):
                await rooms.add_member(ada.pk, room.id, "grace")
        assert await rows_of(room) == {"ada": "owner"}
        await Membership.objects.filter(user=grace).aupdate(leaving_at=timezone.now() - timedelta(seconds=61))
        await rooms.finish_leaving()
        assert not await in_store(room, grace)
        assert await rooms.add_member(ada.pk, room.id, "grace") == (grace.pk, True)
        assert await in_store(room, grace)
        assert not await Membership.objects.filter(joining_at__isnull=False).aexists()
        await rooms.remove_member(ada.pk, room.id, grace.pk)


async def test_an_unfinished_leave_stays_marked_while_the_store_is_unavailable(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room_of(ada)
    await Membership.objects.aupdate(leaving_at=timezone.now() - timedelta(hours=1))
    monkeypatch.setattr(Members, "leave", unavailable)

    with pytest.raises(Unavailable):
        await rooms.finish_leaving()

    assert await Membership.objects.filter(leaving_at__isnull=False).acount() == 1


async def test_join_during_an_unfinished_leave_begins_a_new_membership(ada: User, grace: User) -> None:
    room = await room_of(ada, grace, kind="public")
    before = await Membership.objects.aget(user=grace)
    await Membership.objects.filter(user=grace).aupdate(leaving_at=timezone.now())

    await rooms.join_room(grace.pk, room.id)

    after = await Membership.objects.aget(user=grace)
    assert after.pk != before.pk
    assert after.leaving_at is None
    assert await in_store(room, grace)


async def test_a_late_second_finish_does_not_delete_a_new_membership(ada: User, grace: User) -> None:
    room = await room_of(ada, grace, kind="public")
    departure = await in_db_thread(memberships.mark_own_leaving, grace.pk, room.id)
    await rooms.join_room(grace.pk, room.id)

    await in_db_thread(memberships.delete_marked, departure)

    assert "grace" in await rows_of(room)


@pytest.mark.parametrize(("role", "new_owner"), [("moderator", "bob"), ("member", "grace")])
async def test_oldest_moderator_else_member_becomes_owner_when_the_last_owner_leaves(
    ada: User, grace: User, role: str, new_owner: str, events: Events
) -> None:
    bob = await person("bob")
    room = await room_of(ada, grace, bob)
    await Membership.objects.filter(user=bob).aupdate(role=role)

    await rooms.leave_room(ada.pk, room.id)

    assert (await rows_of(room))[new_owner] == "owner"
    await events.until(user=ada.pk)
    await events.until(user={"grace": grace, "bob": bob}[new_owner].pk)


async def test_member_becomes_owner_when_both_owners_leave_at_the_same_time(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await person("bob")
    room = await room_of(ada, grace, bob)
    await Membership.objects.filter(user=grace).aupdate(role="owner")
    both = threading.Barrier(2)
    appoint_owner = memberships._appoint_owner

    def together(room: Room) -> int | None:
        new_owner = appoint_owner(room)
        with suppress(threading.BrokenBarrierError):  # the other one waits until this one ends
            both.wait(0.5)
        return new_owner

    def leave(user: User) -> None:
        try:
            memberships.mark_own_leaving(user.pk, room.id)
        finally:
            connections.close_all()

    monkeypatch.setattr(memberships, "_appoint_owner", together)
    await asyncio.gather(*(asyncio.to_thread(leave, user) for user in (ada, grace)))
    staying = Membership.objects.filter(room=room, leaving_at=None)
    assert [(row.user_id, row.role) async for row in staying] == [(bob.pk, "owner")]


async def test_a_room_with_two_owners_keeps_the_other(ada: User, grace: User) -> None:
    bob = await person("bob")
    room = await room_of(ada, grace, bob)
    await Membership.objects.filter(user=bob).aupdate(role="owner")

    await rooms.leave_room(ada.pk, room.id)

    assert await rows_of(room) == {"grace": "member", "bob": "owner"}


async def test_the_last_one_leaves_an_empty_room(ada: User) -> None:
    room = await room_of(ada)
    await rooms.leave_room(ada.pk, room.id)
    assert await rows_of(room) == {}


@pytest.mark.parametrize(
    ("by", "whom", "allowed"),
    [
        ("owner", "moderator", True),
        ("owner", "member", True),
        ("moderator", "member", True),
        ("moderator", "moderator", False),
        ("moderator", "owner", False),
        ("member", "member", False),
        ("member", "owner", False),
    ],
)
async def test_only_a_higher_rank_removes_a_member(
    ada: User, grace: User, by: str, whom: str, allowed: bool
) -> None:
    room = await room_of(ada, grace)
    await Membership.objects.filter(user=ada).aupdate(role=by)
    await Membership.objects.filter(user=grace).aupdate(role=whom)

    if allowed:
        await rooms.remove_member(ada.pk, room.id, grace.pk)
    else:
        with pytest.raises(Forbidden):
            await rooms.remove_member(ada.pk, room.id, grace.pk)

    assert ("grace" not in await rows_of(room)) is allowed
    assert await in_store(room, grace) is not allowed


async def test_every_member_can_remove_themselves(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    await rooms.remove_member(grace.pk, room.id, grace.pk)
    assert set(await rows_of(room)) == {"ada"}


async def test_non_member_cannot_be_removed(ada: User, grace: User) -> None:
    room = await room_of(ada)
    with pytest.raises(NoSuchUser):
        await rooms.remove_member(ada.pk, room.id, grace.pk)


async def test_a_departure_is_finished_twice_without_harm(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    row = await Membership.objects.aget(user=grace)
    departure = Departure(row.pk, key_of(room), grace.pk)
    await Membership.objects.filter(pk=row.pk).aupdate(leaving_at=timezone.now())

    await asyncio.gather(rooms.finish(departure), rooms.finish(departure))

    assert not await in_store(room, grace)
    assert set(await rows_of(room)) == {"ada"}


async def test_many_rooms_are_left_at_once_and_direct_ones_stay(
    ada: User, grace: User, events: Events
) -> None:
    left = [await room_of(grace, ada, kind=kind) for kind in ("public", "private") for _ in range(12)]
    kept = await rooms.open_direct(ada.pk, "grace")
    foreign = await room_of(grace)

    ids = [room.id for room in (*left, kept, foreign)]
    assert sorted(await rooms.leave_rooms(ada.pk, [*ids, "none"])) == sorted(room.id for room in left)
    assert await rooms.leave_rooms(ada.pk, ids) == []

    assert [row.room_id async for row in Membership.objects.filter(user=ada)] == [kept.id]
    for room in left:
        assert not await in_store(room, ada)
    with pytest.raises(NotMember):
        await rooms.leave_room(ada.pk, left[0].id)


async def test_leaving_many_rooms_while_the_store_is_down_asks_it_once(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [await room_of(grace, ada) for _ in range(3)]
    calls: list[RoomKey] = []

    async def away(_: Members, room: RoomKey, user: int) -> None:
        calls.append(room)
        raise Unavailable

    monkeypatch.setattr(Members, "leave", away)
    assert len(await rooms.leave_rooms(ada.pk, [room.id for room in left])) == 3
    assert len(calls) == 1, "the sweep finishes the others"
    assert not await Membership.objects.filter(user=ada, leaving_at=None).aexists()


# ── Changing ──


async def test_a_change_leaves_the_rest_as_it_was_and_is_heard(ada: User, events: Events) -> None:
    room = await room_of(ada, topic="before", ttl_s=60, ttl_max_s=600)

    changed = await rooms.change_room(ada.pk, room.id, Change(name="Borealis", ttl_s=120))

    assert (changed.name, changed.topic, changed.ttl_s, changed.ttl_max_s) == ("Borealis", "before", 120, 600)
    await events.until(type="room_changed", room=room.id)


async def test_a_mere_member_does_not_change_a_room(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    with pytest.raises(Forbidden):
        await rooms.change_room(grace.pk, room.id, Change(topic="mine"))


@pytest.mark.parametrize(
    "change",
    [
        Change(ttl_s=9),
        Change(ttl_s=601),
        Change(ttl_max_s=59),
        Change(ttl_max_s=10**9),
        Change(ttl_s=90, ttl_max_s=80),
    ],
)
async def test_a_room_refuses_lifetimes_that_contradict_each_other(ada: User, change: Change) -> None:
    room = await room_of(ada, ttl_s=60, ttl_max_s=600)
    with pytest.raises(BadTtl):
        await rooms.change_room(ada.pk, room.id, change)


async def audited(room: Room) -> list[tuple[str, int | None, str, dict[str, int]]]:
    rows = AuditEntry.objects.filter(room_key=room.id).order_by("pk")
    return [row async for row in rows.values_list("verb", "user_key", "user_name", "detail")]


async def test_lifetime_change_is_audited_and_nothing_else_is(ada: User) -> None:
    room = await room_of(ada, ttl_s=60)

    await rooms.change_room(ada.pk, room.id, Change(ttl_s=60, topic="the same lifetime"))
    await rooms.change_room(ada.pk, room.id, Change(ttl_s=120))
    await rooms.change_room(None, room.id, Change(ttl_s=30))

    assert await audited(room) == [
        ("lifetime", ada.pk, "ada", {"from": 60, "to": 120}),
        ("lifetime", None, "", {"from": 120, "to": 30}),
    ]


async def test_a_lifetime_is_changed_while_the_store_is_unavailable(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada)
    monkeypatch.setattr(Store, "now_ms", unavailable)

    await rooms.change_room(ada.pk, room.id, Change(ttl_s=60))

    [entry] = [row async for row in AuditEntry.objects.filter(room_key=room.id)]
    assert timezone.now() - entry.at < timedelta(minutes=1)


async def test_a_private_room_shows_changes_of_its_lifetime_since_one_joined_and_a_public_one_all(
    ada: User, grace: User
) -> None:
    for kind, seen in (("private", 0), ("public", 1)):
        room = await room_of(ada, kind=kind)
        await rooms.change_room(ada.pk, room.id, Change(ttl_s=60))
        await rooms.add_member(ada.pk, room.id, "grace")
        assert len(await in_db_thread(memberships.lifetime_changes, grace.pk, room.id, 20)) == seen


async def test_the_newest_changes_come_oldest_first(ada: User) -> None:
    room = await room_of(ada)
    for ttl_s in range(10, 15):
        await rooms.change_room(ada.pk, room.id, Change(ttl_s=ttl_s))

    changes = await in_db_thread(memberships.lifetime_changes, ada.pk, room.id, 3)

    assert [change.detail["to"] for change in changes] == [12, 13, 14]


async def test_shortening_is_counted_first_and_audited_when_done(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    await accept(open_store(), *[message(user=grace.pk, room=key_of(room)) for _ in range(3)])
    [short] = await accept(open_store(), message(user=grace.pk, room=key_of(room), ttl_ms=20_000))

    counted = await rooms.shorten(ada.pk, room.id, 30, dry_run=True)
    assert counted == Shortened(looked=4, shortened=3, ended=0)
    assert await audited(room) == []
    assert await rooms.shorten(ada.pk, room.id, 30, dry_run=False) == counted

    detail = {"ttl": 30, "looked": 4, "shortened": 3, "ended": 0}
    assert await audited(room) == [("shorten", ada.pk, "ada", detail)]
    ends = [item.expires_at - item.sent_at for item in await newest(room, grace)]
    assert ends == [30_000, 30_000, 30_000, short.expires_at - short.sent_at]


async def newest(room: Room, reader: User) -> list[Stored]:
    return (await open_store().log.history(key_of(room), reader.pk, before=2**53 - 1)).messages


async def test_only_owner_and_moderators_shorten_messages(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    direct = await rooms.open_direct(ada.pk, "grace")
    with pytest.raises(Forbidden):
        await rooms.shorten(grace.pk, room.id, 30, dry_run=True)
    with pytest.raises(NotMember):
        await rooms.shorten((await person("eve")).pk, room.id, 30, dry_run=True)
    for item in (ada, grace):
        assert await rooms.shorten(item.pk, direct.id, 30, dry_run=True) == Shortened(0, 0, 0)
    assert await rooms.shorten(None, room.id, 30, dry_run=True) == Shortened(0, 0, 0)


@pytest.mark.parametrize("ttl_s", [9, -1, 28 * 86_400 + 1, 10**30])
async def test_existing_messages_get_no_lifetime_outside_the_sites_bounds(ada: User, ttl_s: int) -> None:
    room = await room_of(ada)
    with pytest.raises(BadTtl):
        await rooms.shorten(ada.pk, room.id, ttl_s, dry_run=False)


async def test_a_verb_needs_no_channel_layer(ada: User, grace: User, monkeypatch: pytest.MonkeyPatch) -> None:
    room = await room_of(ada, grace)

    class Broken:
        async def group_send(self, *_: object) -> None:
            raise ConnectionRefusedError

    monkeypatch.setattr(rooms.control, "get_channel_layer", Broken)
    await rooms.leave_room(grace.pk, room.id)

    assert set(await rows_of(room)) == {"ada"}


async def test_the_stores_log_is_made_with_all_members_at_the_first_use(ada: User, grace: User) -> None:
    room = await Room.objects.acreate(name="by hand", kind="private")
    await Membership.objects.abulk_create([Membership(room=room, user=user) for user in (ada, grace)])

    await open_store().members.join(key_of(room), [ada.pk])

    assert await in_store(room, grace)
