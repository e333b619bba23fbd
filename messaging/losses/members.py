"""Members whom the database no longer has, because it was restored from an older copy.

They would be named in reports, and a new account may get the user id of one of them. Then the new user could read messages from before they joined.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from messaging.bridge import in_db_thread
from messaging.models import FormerUser, Membership, Room
from messaging.store import open_store
from messaging.store.records import RoomKey

ROOM_BATCH = 100

log = logging.getLogger(__name__)


async def remove_unknown() -> int:
    """Remove from the store the members whom the database does not have; return their number. Idempotent.

    The store is read first, because a row is inserted before its user joins in the store.
    """
    store, removed = open_store(), 0
    former = await in_db_thread(_former)  # deleted accounts, whose departures may be unfinished
    keys = await in_db_thread(_rooms)
    for start in range(0, len(keys), ROOM_BATCH):
        rooms = keys[start : start + ROOM_BATCH]
        members = await store.members.members_of_rooms(rooms)
        known = await in_db_thread(_known, [room.id for room in rooms])
        for room, users in zip(rooms, members, strict=True):
            unknown = users - known.get(room.id, set()) - former
            await store.members.forget(room, unknown)
            removed += len(unknown)
    if removed:
        log.warning("the database is an older copy: unknown members were removed", extra={"members": removed})
    return removed


def _rooms() -> list[RoomKey]:
    return [RoomKey(room, partition) for room, partition in Room.objects.values_list("pk", "partition")]


def _former() -> set[int]:
    return set(FormerUser.objects.values_list("user_key", flat=True))


def _known(rooms: Collection[str]) -> dict[str, set[int]]:
    """Return {room: users with a row}, also of those who are leaving: they may owe messages."""
    known: dict[str, set[int]] = {}
    for room, user in Membership.objects.filter(room__in=rooms).values_list("room", "user"):
        known.setdefault(room, set()).add(user)
    return known
