"""Actions on rooms and members. Each changes the database, then the store, then informs the open sockets.

Joining: write the row with a mark -> `join` in the store -> remove the mark -> a control event makes open sockets read the row.
Leaving: mark the row -> `leave` in the store -> delete the row -> the control event.

A user may read and write from the moment the row is written until it is marked as leaving. After a crash, `finish_joining` or the user's
next `hello` finishes a join, and `finish_leaving` finishes a departure.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from messaging import control
from messaging.bridge import in_db_thread
from messaging.errors import BadRequest, Unavailable
from messaging.models import Room
from messaging.store import clock_ms, open_store
from messaging.store.records import Held, Shortened

from . import memberships, permissions
from .memberships import Change, Departure
from .names import clean_name, clean_topic

log = logging.getLogger(__name__)

MAX_INITIAL_MEMBERS = 500  # people named when a room is created
LEAVE_BATCH = 20  # rooms that are left in one transaction: other users' writes wait for it


async def create_room(
    owner: int | None,
    name: str,
    *,
    kind: str = Room.Kind.PUBLIC,
    topic: str = "",
    ttl_s: int | None = None,
    ttl_max_s: int | None = None,
    members: Sequence[str] = (),
    by: int | None = None,
) -> Room:
    """Create a public or private room, with an optional owner and with the people named in `members`; return it.

    `by`: the user who makes it, within their limits; None: the staff, without limits.

    Raises BadName, BadTtl, BadRequest, NoSuchUser; with `by` RateLimited, TooManyRooms, NotAddable. Works without the store: the first
    `hello` creates the log.
    """
    if kind not in (Room.Kind.PUBLIC, Room.Kind.PRIVATE):
        raise BadRequest("A room is public or private.")
    if len(members) > MAX_INITIAL_MEMBERS:
        raise BadRequest(f"At most {MAX_INITIAL_MEMBERS} people at once.")
    ttl_s, ttl_max_s = memberships.lifetimes(ttl_s, ttl_max_s)
    room = Room(name=clean_name(name), topic=clean_topic(topic), kind=kind, ttl_s=ttl_s, ttl_max_s=ttl_max_s)
    users = await in_db_thread(memberships.insert_room, room, owner, members, by)
    await settle_new(room, users)
    return room


async def open_direct(user: int, name: str) -> Room:
    """Return the direct room of `user` and the person with this username. Create it if it does not exist.

    Raises NoSuchUser, RateLimited, TooManyRooms, NotAddable, Conflict if both are the same user.
    """
    room, users = await in_db_thread(memberships.insert_direct, user, name, user)
    await settle_new(room, users)
    return room


async def join_room(user: int, room_id: str) -> Room:
    """Make `user` a member of a public room. Idempotent.

    Raises NotMember if it is not public, Removed, RateLimited, TooManyRooms, Unavailable.
    """
    room = await in_db_thread(permissions.public_room, room_id)
    await _join(room, user, user)
    return room


async def add_member(by: int, room_id: str, name: str) -> tuple[int, bool]:
    """Make the person with this username a member; return the user id and whether the membership is new.

    Only owners and moderators may do this. Idempotent. Raises NotMember, Forbidden, Conflict for a direct room, NoSuchUser, RateLimited,
    NotAddable, Unavailable.
    """
    room = await in_db_thread(permissions.moderated_room, by, room_id)
    person = await in_db_thread(memberships.person, name)
    return person.pk, await _join(room, person.pk, by)


async def leave_room(user: int, room_id: str) -> None:
    """End a user's own membership. Undelivered messages are kept for the senders' reports.

    Raises NotMember, Conflict for a direct room.
    """
    await finish(await in_db_thread(memberships.mark_own_leaving, user, room_id))


async def leave_rooms(user: int, room_ids: Sequence[str]) -> list[str]:
    """End a user's own memberships; return the ids of the rooms that they left.

    Direct rooms are kept. Rooms of which the user is no member are ignored.
    """
    departures: list[Departure] = []
    for start in range(0, len(room_ids), LEAVE_BATCH):
        batch = room_ids[start : start + LEAVE_BATCH]
        departures += await in_db_thread(memberships.mark_all_own_leaving, user, batch)
    await finish_all(departures)
    return [departure.room.id for departure in departures]


async def remove_member(by: int, room_id: str, user: int) -> None:
    """End the membership of a member with a lower rank than `by`, or of `by` themselves.

    Raises NotMember, Forbidden, Conflict for a direct room, NoSuchUser.
    """
    await finish(await in_db_thread(memberships.mark_removed, by, room_id, user))


async def change_room(by: int | None, room_id: str, change: Change, *, staff: int | None = None) -> Room:
    """Change a room's name, topic or lifetimes. New lifetimes apply to new messages.

    `by` None: a staff action, recorded under the user id `staff`.

    Raises NotMember, Forbidden, BadName, BadTtl, Conflict for the name or topic of a direct room.
    """
    checked = Change(
        name=None if change.name is None else clean_name(change.name),
        topic=None if change.topic is None else clean_topic(change.topic),
        ttl_s=change.ttl_s,
        ttl_max_s=change.ttl_max_s,
    )
    now_ms = await clock_ms()
    room = await in_db_thread(memberships.update_room, by, room_id, checked, now_ms=now_ms, staff=staff)
    await control.announce("room_changed", room=room.id)
    return room


async def shorten(
    by: int | None, room_id: str, ttl_s: int, *, dry_run: bool, staff: int | None = None
) -> Shortened:
    """Make the existing messages of a room expire at most `ttl_s` seconds after they were sent. With `dry_run`, only count them.

    Owners, moderators and both members of a direct room may do this. `by` None: a staff action, recorded under the user id
    `staff`. Idempotent. Raises NotMember, Forbidden, BadTtl, Unavailable.
    """
    room = await in_db_thread(memberships.shortenable_room, by, room_id, ttl_s)
    shortened = await open_store().changes.shorten(memberships.key_of(room), ttl_s, dry_run=dry_run)
    if not dry_run:
        now_ms = await clock_ms()
        user = staff if by is None else by
        await in_db_thread(memberships.record_shortening, room, user, ttl_s, shortened, now_ms=now_ms)
    return shortened


async def finish_joining() -> int:
    """Finish joins that have been marked for more than a minute, after a crash; return their number.

    The sweep calls this. Idempotent. Raises Unavailable; the other joins then stay marked.
    """
    joins = await in_db_thread(memberships.stuck_joins)
    for room, user in joins:
        # As a `hello` does it: a user whose membership ends in the meantime leaves the store again.
        await open_store().members.member_positions(user, [(room, Held())])
        await in_db_thread(memberships.mark_joined, room.id, [user])
    return len(joins)


async def finish_leaving() -> int:
    """Finish departures that have been marked for more than a minute, after a crash or without a store; return their number.

    The sweep calls this. Idempotent, also for two calls at once. Raises Unavailable; the other departures then stay marked.
    """
    departures = await in_db_thread(memberships.stuck_departures)
    for departure in departures:
        await settle_leaving(departure)
    return len(departures)


async def settle_joining(room: Room, users: Collection[int]) -> None:
    """Inform the store and the open sockets of memberships whose rows are written. Idempotent. Raises Unavailable."""
    try:
        await open_store().members.join(memberships.key_of(room), users)
        await in_db_thread(memberships.mark_joined, room.id, users)
    finally:
        for user in users:
            if not await control.announce("membership_changed", room=room.id, user=user):
                break


async def settle_new(room: Room, users: Collection[int]) -> None:
    """Inform the store and the open sockets of memberships. If the store is unavailable, the first `hello` does it."""
    try:
        await settle_joining(room, users)
    except Unavailable:
        log.warning("members joined room %s while the store is unavailable", room.id)


async def settle_leaving(departure: Departure) -> None:
    """Remove the member of a marked row from the store, delete the row, inform the open sockets. Idempotent.

    Raises Unavailable; the row then stays marked. A marked row gives no access.
    """
    try:
        await open_store().members.leave(departure.room, departure.user)
        await in_db_thread(memberships.delete_marked, departure)
    finally:
        for user in filter(None, (departure.user, departure.new_owner)):
            await control.announce("membership_changed", room=departure.room.id, user=user)


async def finish(departure: Departure) -> bool:
    """Finish a departure; return False if the store is unavailable. Then it stays marked for `finish_leaving`."""
    try:
        await settle_leaving(departure)
    except Unavailable:
        log.warning("user %s left room %s while the store is unavailable", departure.user, departure.room.id)
        return False
    return True


async def finish_all(departures: Sequence[Departure]) -> None:
    """Finish departures, one after the other. If the store is unavailable, the others stay marked too, without a wait for each."""
    for departure in departures:
        if not await finish(departure):
            break


async def _join(room: Room, user: int, by: int) -> bool:
    departure = await in_db_thread(memberships.departure_of, room, user)
    if departure is not None:
        # Otherwise the store would keep the earlier membership, and the member would owe all messages sent since it began.
        await settle_leaving(departure)
    new = await in_db_thread(memberships.insert_membership, room, user, by)
    try:
        await settle_joining(room, [user])
    except Unavailable:
        if new:  # the caller gets an error, so the user must not be a member; the store may have joined them all the same
            await in_db_thread(memberships.withdraw_membership, room, user)
        raise
    return new
