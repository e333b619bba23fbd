"""Rooms with expired messages that no job has processed."""

from __future__ import annotations

from django.contrib.auth.models import User
from msgspec.structs import replace

from messaging.models import Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from tests.support.messages import accept, expire, message
from tests.support.people import room_of

LATE_MS = 60_000


async def expired_room(
    sender: User, *members: User, count: int = 1, late_ms: int = LATE_MS, name: str = "Atlas"
) -> Room:
    """Make a room in which `sender` wrote `count` messages that every member missed."""
    room = await room_of(sender, *members, name=name)
    await let_expire(room, sender, count=count, late_ms=late_ms)
    return room


async def let_expire(room: Room, sender: User, *, count: int = 1, late_ms: int = LATE_MS) -> None:
    """Let `sender` write messages that expired `late_ms` ago. Their times are moved instead of the clock."""
    key, store = key_of(room), open_store()
    messages = [replace(message(user=sender.pk, room=key), name=sender.username) for _ in range(count)]
    seqs = [accepted.seq for accepted in await accept(store, *messages)]
    await expire(store, *seqs, room=key, late_ms=late_ms)
