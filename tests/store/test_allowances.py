"""A return to a room after a removal or departure, and the numbers of memberships that a user can make and be given."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone

from messaging import policy as policies
from messaging.bridge import in_db_thread
from messaging.errors import (
    NotAddable,
    RateLimited,
    Removed,
    TooManyRooms,
    Unavailable,
)
from messaging.models import Allowance, LastDeparture, Membership, Room
from messaging.policy import Rate
from messaging.rooms import actions as rooms
from messaging.rooms import allowances, memberships
from messaging.store.members import Members
from tests.support.people import person, room_of, rows_of, unavailable

pytestmark = pytest.mark.usefixtures("verbs")


# ── Becoming a member again ──


async def test_only_a_moderator_brings_back_a_user_who_was_removed_from_a_public_room(
    ada: User, grace: User
) -> None:
    room = await room_of(ada, grace, kind="public")
    await rooms.remove_member(ada.pk, room.id, grace.pk)

    with pytest.raises(Removed):
        await rooms.join_room(grace.pk, room.id)
    assert set(await rows_of(room)) == {"ada"}
    await rooms.add_member(ada.pk, room.id, "grace")
    await rooms.leave_room(grace.pk, room.id)
    await rooms.join_room(grace.pk, room.id)

    assert set(await rows_of(room)) == {"ada", "grace"}


async def test_user_who_removes_themselves_may_join_again(ada: User, grace: User) -> None:
    room = await room_of(ada, grace, kind="public")
    await rooms.remove_member(grace.pk, room.id, grace.pk)
    await rooms.join_room(grace.pk, room.id)
    assert set(await rows_of(room)) == {"ada", "grace"}


async def test_removal_holds_although_the_store_did_not_confirm_the_addition(
    ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada, grace, kind="public")
    await rooms.remove_member(ada.pk, room.id, grace.pk)
    with monkeypatch.context() as away:
        away.setattr(Members, "join", unavailable)
        with pytest.raises(Unavailable):
            await rooms.add_member(ada.pk, room.id, "grace")
    with pytest.raises(Removed):
        await rooms.join_room(grace.pk, room.id)


async def test_user_who_left_is_put_back_at_most_once_a_day(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)

    await rooms.leave_room(grace.pk, room.id)
    await rooms.add_member(ada.pk, room.id, "grace")  # they may have left by mistake
    await rooms.leave_room(grace.pk, room.id)
    with pytest.raises(NotAddable):
        await rooms.add_member(ada.pk, room.id, "grace")
    assert set(await rows_of(room)) == {"ada"}

    yesterday = timezone.now() - timedelta(days=1, seconds=1)
    await LastDeparture.objects.aupdate(put_back_at=yesterday)
    await rooms.add_member(ada.pk, room.id, "grace")
    assert set(await rows_of(room)) == {"ada", "grace"}


async def test_removal_in_between_does_not_let_a_user_be_put_back_more_often(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    await rooms.leave_room(grace.pk, room.id)
    await rooms.add_member(ada.pk, room.id, "grace")
    await rooms.remove_member(ada.pk, room.id, grace.pk)
    await rooms.add_member(ada.pk, room.id, "grace")
    await rooms.leave_room(grace.pk, room.id)
    with pytest.raises(NotAddable):
        await rooms.add_member(ada.pk, room.id, "grace")


async def test_staff_add_a_user_at_any_time(ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    for _ in range(3):
        await rooms.leave_room(grace.pk, room.id)
        await Membership.objects.acreate(room=room, user=grace)  # as the admin does
    assert set(await rows_of(room)) == {"ada", "grace"}


# ── Limits ──


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces numbers of the policy."""

    def set_(**numbers: Any) -> None:
        changed = dataclasses.replace(policies.current(), **numbers)
        monkeypatch.setattr(policies, "current", lambda: changed)

    return set_


def test_teacher_can_add_four_hundred_people_at_once_and_more_the_same_day() -> None:
    site = policies.Policy()
    assert site.membership_rate.burst >= 4 * 401
    assert site.added_rate.burst >= 100


async def test_memberships_are_counted_and_not_requests(
    ada: User, grace: User, limits: Callable[..., None]
) -> None:
    others = [await person(f"person {number}") for number in range(5)]
    limits(membership_rate=Rate(0.001, 6))
    names = [other.username for other in others]

    first = await rooms.create_room(ada.pk, "Atlas", members=names[:3], by=ada.pk)  # 4
    with pytest.raises(RateLimited) as refused:
        await rooms.create_room(ada.pk, "Borealis", members=names[:2], by=ada.pk)  # 3
    assert refused.value.retry_after_ms == pytest.approx(1_000_000, abs=60_000)
    await rooms.add_member(ada.pk, first.id, names[3])  # 1
    await rooms.add_member(ada.pk, first.id, names[3])  # nothing new
    await rooms.open_direct(grace.pk, "ada")  # grace makes it
    with pytest.raises(RateLimited):
        await rooms.open_direct(ada.pk, names[0])  # 2
    await rooms.open_direct(ada.pk, "grace")  # nothing new
    await rooms.join_room(ada.pk, (await room_of(grace, kind="public")).id)  # 1
    with pytest.raises(RateLimited):
        await rooms.add_member(ada.pk, first.id, names[4])

    assert await Room.objects.filter(name="Borealis").acount() == 0
    assert len(await rows_of(first)) == 5
    assert await Allowance.objects.filter(user=grace, kind="membership", tokens=4).aexists()


async def test_tokens_come_back_with_time_and_not_above_the_burst(
    ada: User, limits: Callable[..., None]
) -> None:
    limits(membership_rate=Rate(0.5, 3))
    for _ in range(3):
        await rooms.create_room(ada.pk, "Atlas", by=ada.pk)
    for passed_s, made in ((2, 1), (4, 2), (10**6, 3)):
        earlier = timezone.now() - timedelta(seconds=passed_s + 0.5)
        await Allowance.objects.filter(kind="membership").aupdate(tokens=0, at=earlier)
        await Allowance.objects.filter(kind="membership").aupdate(at=earlier)
        for _ in range(made):
            await rooms.create_room(ada.pk, "Atlas", by=ada.pk)
        with pytest.raises(RateLimited):
            await rooms.create_room(ada.pk, "Atlas", by=ada.pk)


async def test_room_with_more_people_than_the_burst_needs_all_tokens(
    ada: User, grace: User, limits: Callable[..., None]
) -> None:
    await person("bob")
    limits(membership_rate=Rate(0.001, 2))
    await rooms.create_room(ada.pk, "Atlas", members=["grace", "bob"], by=ada.pk)
    assert await Allowance.objects.filter(user=ada, kind="membership", tokens=-1).aexists()
    with pytest.raises(RateLimited) as refused:
        await rooms.create_room(ada.pk, "Atlas", by=ada.pk)
    assert refused.value.retry_after_ms == pytest.approx(2_000_000, abs=60_000)


async def test_many_users_together_cannot_put_one_into_more_rooms(
    ada: User, grace: User, limits: Callable[..., None]
) -> None:
    limits(added_rate=Rate(0.001, 3))
    bob = await person("bob")
    makers = [await person(f"maker {number}") for number in range(5)]
    for maker in makers[:2]:
        await rooms.create_room(maker.pk, "Atlas", members=["grace", "bob"], by=maker.pk)
    await rooms.open_direct(makers[2].pk, "grace")
    own = await rooms.create_room(makers[3].pk, "Own", by=makers[3].pk)
    for refused in (
        rooms.create_room(makers[3].pk, "Atlas", members=["grace", "bob"], by=makers[3].pk),
        rooms.open_direct(makers[4].pk, "grace"),
        rooms.add_member(makers[3].pk, own.id, "grace"),
    ):
        with pytest.raises(NotAddable, match=r"^grace cannot be added"):
            await refused
    assert await Room.objects.filter(name="Atlas").acount() == 2

    await rooms.leave_rooms(grace.pk, [row.room_id async for row in Membership.objects.filter(user=grace)])
    with pytest.raises(NotAddable):
        await rooms.add_member(makers[3].pk, own.id, "grace")
    public = await room_of(ada, kind="public")
    await rooms.join_room(grace.pk, public.id)
    await rooms.create_room(grace.pk, "Mine", by=grace.pk)
    await rooms.open_direct(grace.pk, "ada")
    await rooms.add_member(makers[3].pk, own.id, bob.username)


async def test_user_is_in_a_limited_number_of_rooms_by_others(
    ada: User, grace: User, limits: Callable[..., None]
) -> None:
    limits(rooms_by_others_max=2)
    for _ in range(2):
        await rooms.create_room(ada.pk, "Atlas", members=["grace"], by=ada.pk)
    with pytest.raises(NotAddable):
        await rooms.create_room(ada.pk, "Atlas", members=["grace"], by=ada.pk)
    await rooms.create_room(grace.pk, "Mine", by=grace.pk)
    await rooms.create_room(None, "By the staff", members=["grace"])
    row = await Membership.objects.filter(user=grace).afirst()
    assert row is not None
    await rooms.leave_room(grace.pk, row.room_id)
    await rooms.create_room(ada.pk, "Atlas", members=["grace"], by=ada.pk)


async def test_user_is_in_a_limited_number_of_rooms(
    ada: User, grace: User, limits: Callable[..., None]
) -> None:
    limits(rooms_max=2)
    public = await room_of(ada, kind="public")
    for _ in range(2):
        await rooms.create_room(grace.pk, "Mine", by=grace.pk)
    for refused in (
        rooms.join_room(grace.pk, public.id),
        rooms.create_room(grace.pk, "Mine", by=grace.pk),
        rooms.open_direct(grace.pk, "ada"),
    ):
        with pytest.raises(TooManyRooms, match=r"^You are in 2 rooms"):
            await refused
    with pytest.raises(NotAddable):
        await rooms.add_member(ada.pk, public.id, "grace")
    assert await rows_of(public) == {"ada": "owner"}


async def test_staff_commands_and_the_demo_are_not_limited(
    ada: User, grace: User, limits: Callable[..., None]
) -> None:
    limits(membership_rate=Rate(0.001, 1), added_rate=Rate(0.001, 1), rooms_max=1, rooms_by_others_max=1)
    for _ in range(3):
        await rooms.create_room(ada.pk, "Atlas", members=["grace"])
    await in_db_thread(memberships.insert_direct, ada.pk, "grace")
    assert not await Allowance.objects.aexists()


async def test_two_requests_at_once_take_two_tokens(ada: User, limits: Callable[..., None]) -> None:
    limits(write_rate=Rate(0.001, 4))

    def take() -> bool:
        try:
            allowances.take_write(ada.pk)
        except RateLimited:
            return False
        finally:
            connections.close_all()
        return True

    await asyncio.to_thread(take)
    taken = await asyncio.gather(*(asyncio.to_thread(take) for _ in range(6)))
    assert sorted(taken) == [False] * 3 + [True] * 3
