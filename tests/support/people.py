"""Two people and their rooms, and the control events that open sockets would hear."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.layers import get_channel_layer
from django.contrib.auth.models import User

from messaging.control import GROUP
from messaging.errors import Unavailable
from messaging.models import Membership, Room
from messaging.rooms import actions as rooms
from messaging.rooms.memberships import key_of
from messaging.store import open_store

DEADLINE_S = 5.0


async def person(name: str, **fields: Any) -> User:
    """Create an account."""
    return await User.objects.acreate(username=name, **fields)


async def unavailable(*_: object) -> None:
    """Stand in for a call of a store that is down."""
    raise Unavailable()


async def room_of(owner: User, *members: User, **fields: Any) -> Room:
    """Make a room, private by default."""
    given = {"name": "Atlas", "kind": "private"} | fields
    name = given.pop("name")
    return await rooms.create_room(owner.pk, name, members=[member.username for member in members], **given)


async def rows_of(room: Room) -> dict[str, str]:
    """Return {name: role} of the members in the database."""
    rows = Membership.objects.filter(room=room, leaving_at=None)
    return {name: role async for name, role in rows.values_list("user__username", "role")}


async def in_store(room: Room, user: User) -> bool:
    """Return whether `user` is a member in the store."""
    key = key_of(room)
    return await open_store().client.zscore(f"{key.key}:joined", user.pk) is not None


class Events:
    """The control events of one test, as a server process receives them."""

    def __init__(self) -> None:
        self.layer = get_channel_layer()
        self.channel = ""

    async def listen(self) -> None:
        self.channel = await self.layer.new_channel()
        await self.layer.group_add(GROUP, self.channel)

    async def next(self) -> dict[str, Any]:
        """Return the next event, its type without the prefix `control.`."""
        async with asyncio.timeout(DEADLINE_S):
            event = await self.layer.receive(self.channel)
        return event | {"type": event["type"].removeprefix("control.")}

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """Skip events until one has these fields, and return it."""
        while True:
            event = await self.next()
            if wanted.items() <= event.items():
                return event
