"""Fill a store with messages by the product's own script, many calls in flight at once; run as a command of the site that it fills.

`python -m bench.fill.rooms '{"room": id, "messages": n}'` fills one room of the database; `'{"fresh": [from, to]}'` makes the rooms of
these numbers, of two members and 100 messages each, which every member has acknowledged: the other rooms of an
installation.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from typing import Any

A_ROOM = 100  # messages
SENDER, OTHER = MEMBERS = (1, 2)
AT_ONCE = 8  # calls
DAY_MS = 86_400_000
BODY = "x" * 100


async def members_of(room: str) -> list[int]:
    return list(MEMBERS)


def key(number: int) -> Any:
    """Return the room of a number."""
    from messaging.models import PARTITIONS
    from messaging.store.records import RoomKey

    return RoomKey(f"r{number:010}", number % PARTITIONS)  # as long as a room's id is


def message(room: Any, user: int = SENDER, ttl_ms: int = DAY_MS) -> Any:
    from messaging.store.records import Append

    return Append(room=room, user=user, name="ada", id=str(uuid.uuid4()), body=BODY, ttl_ms=ttl_ms)


async def at_once(calls: Sequence[Any]) -> None:
    """Await coroutines, a fixed number at a time."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(call: Any) -> None:
        async with turns:
            await call

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(call))


async def fill(store: Any, rooms: Sequence[int], *, each: int = A_ROOM, ttl_ms: int = DAY_MS) -> None:
    """Store `each` messages in each room of these numbers, acknowledged by everybody."""
    await at_once([_fill_room(store, key(number), each, ttl_ms) for number in rooms])


async def _fill_room(store: Any, room: Any, each: int, ttl_ms: int) -> None:
    from messaging.store.records import AckRow

    epoch = await store.members.create_log(room)
    for at in range(0, each, A_ROOM):
        await append(store, [message(room, ttl_ms=ttl_ms) for _ in range(min(A_ROOM, each - at))])
    await store.cursors.acknowledge([AckRow(room, epoch, OTHER, each, each, judged=True)])


async def append(store: Any, messages: Sequence[Any]) -> None:
    """Store messages. Raises what the store answers in place of one."""
    for answer in await store.log.append(messages):
        if isinstance(answer, Exception):
            raise answer


async def _command(plan: dict[str, Any]) -> None:
    from messaging.policy import Policy
    from messaging.store import Store, connections, open_store

    if "fresh" in plan:
        await fill(Store(connections.async_client(), Policy(), members_of=members_of), range(*plan["fresh"]))
    else:
        await _fill_one(open_store(), plan["room"], plan["messages"])
    await connections.close()


async def _fill_one(store: Any, room_id: str, messages: int) -> None:
    from messaging.bridge import in_db_thread

    room, writer = await in_db_thread(_room, room_id)
    await store.members.create_log(room)
    await at_once(
        [
            append(store, [message(room, writer) for _ in range(min(A_ROOM, messages - at))])
            for at in range(0, messages, A_ROOM)
        ]
    )


def _room(room_id: str) -> tuple[Any, int]:
    """Return a room of the database and its first member."""
    from messaging.models import Membership, Room
    from messaging.store.records import RoomKey

    room = Room.objects.get(pk=room_id)
    writer = Membership.objects.filter(room=room).order_by("pk").values_list("user_id", flat=True)[0]
    return RoomKey(room.id, room.partition), writer


def fill_rooms(system: Any, plan: dict[str, Any]) -> None:
    """Fill the store of a running system (bench.starting.Running), on the generator's core."""
    from bench.processes import GENERATOR_CORE, on_core
    from bench.systems import ROOT, site_env

    command = on_core(GENERATOR_CORE, [sys.executable, "-m", "bench.fill.rooms", json.dumps(plan)])
    folder = system.place.folder / "site"
    subprocess.run(command, cwd=ROOT, env=site_env(folder, system.place.store_url), check=True)


def main(plan: dict[str, Any]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    import django

    django.setup()
    asyncio.run(_command(plan))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
