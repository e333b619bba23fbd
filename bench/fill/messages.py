"""Fill a site with waiting messages and dead letters by the store's own operations; print the rows that staff would search for.

Run as a separate command, with the environment of the site that it fills: `python -m bench.fill.messages --rooms 1000 --each 100 --letters 10000`
prints this JSON:

    `{"staff": {id, session}, "wanted": {room, seq, message, person, sender}, "crowd": {room, top}, "letter": {id, message, person},`
    `"count": {name: number}}`

Every message lacks recipients: of a room's five members one writes, two hold everything, two are offline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MEMBERS, HOLDERS = 5, 2  # of an ordinary room
DAY_MS = 86_400_000
LIVES_MS = (DAY_MS, 27 * DAY_MS)
AT_ONCE = 2_000  # messages given to the store at a time
LETTERS_AT_ONCE = 500  # in one transaction
REASONS = ("offline", "no_ack", "client_rejected", "left_room")


def fill(options: argparse.Namespace) -> dict[str, Any]:
    """Make it all; return what is printed."""
    from django.contrib.auth import get_user_model

    from messaging import demo
    from messaging.bridge import run_async

    chance = random.Random(1)
    [staff] = demo.seed_fresh(1, 0, 1, sessions=True).users
    get_user_model().objects.filter(pk=staff.id).update(is_staff=True, is_superuser=True)
    groups = _groups(demo.seed_fresh(max(MEMBERS, options.rooms // 2), 0, 1).users, options.rooms)
    crowd = demo.seed_fresh(options.crowd, 0, 1).users if options.crowd else []
    rooms = _rooms([*groups, crowd] if crowd else groups)
    run_async(_say, rooms[: len(groups)], groups, options.each, HOLDERS, chance)
    if crowd:
        run_async(_say, rooms[-1:], [crowd], options.crowd_each, HOLDERS, chance)
    letter = _report(rooms[: len(groups)], groups, options.letters, chance)
    middle = len(groups) // 2
    return {
        "staff": {"id": staff.id, "session": staff.session},
        "wanted": run_async(_wanted, rooms[middle], groups[middle], options.each // 2),
        "crowd": {"room": rooms[-1].id, "top": options.crowd_each} if crowd else None,
        "letter": letter,
        "count": _count(),
    }


def _groups(people: Sequence[Any], rooms: int) -> list[list[Any]]:
    """Return the members of each room: neighbours in a circle, so that everybody is in a few rooms."""
    step = max(1, len(people) // rooms)
    return [
        [people[(step * number + place) % len(people)] for place in range(MEMBERS)] for number in range(rooms)
    ]


def _rooms(groups: Sequence[Sequence[Any]]) -> list[Any]:
    from messaging.models import Membership, Room, partition_of

    rooms = [Room(name=f"Room {number:05}", kind="private") for number in range(len(groups))]
    for room in rooms:
        room.partition = partition_of(room.id)  # bulk_create does not call save()
    Room.objects.bulk_create(rooms, batch_size=500)
    members = [
        Membership(room=room, user_id=one.id)
        for room, group in zip(rooms, groups, strict=True)
        for one in group
    ]
    Membership.objects.bulk_create(members, batch_size=500)
    return rooms


async def _say(
    rooms: Sequence[Any], groups: Sequence[Sequence[Any]], each: int, holders: int, chance: random.Random
) -> None:
    """Let the first member of each room say `each` messages, and some of the others hold them."""
    from messaging.rooms.memberships import key_of
    from messaging.store import open_store
    from messaging.store.records import AckRow, Append

    store = open_store()
    keys = [key_of(room) for room in rooms]
    epochs = [await store.members.create_log(key) for key in keys]
    waiting: list[Any] = []
    for key, group in zip(keys, groups, strict=True):
        for _ in range(each):
            waiting.append(
                Append(
                    room=key,
                    user=group[0].id,
                    name=group[0].name,
                    id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
                    body="x" * 100,
                    ttl_ms=chance.randint(*LIVES_MS),
                )
            )
            if len(waiting) == AT_ONCE:
                await _append(store, waiting)
                waiting.clear()
    await _append(store, waiting)
    for key, epoch, group in zip(keys, epochs, groups, strict=True):
        acks = [AckRow(key, epoch, one.id, each, each, judged=True) for one in group[1 : 1 + holders]]
        await store.cursors.acknowledge(acks)


async def _append(store: Any, messages: Sequence[Any]) -> None:
    part = max(1, len(messages) // 4)
    parts = [messages[at : at + part] for at in range(0, len(messages), part)]
    for answers in await asyncio.gather(*(store.log.append(some) for some in parts)):
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer


def _report(
    rooms: Sequence[Any], groups: Sequence[Sequence[Any]], count: int, chance: random.Random
) -> dict[str, Any] | None:
    """Write `count` dead letters of the last six days, by the job's own way; return one in the middle."""
    from messaging.bridge import run_async
    from messaging.expiry import reports
    from messaging.rooms.memberships import key_of
    from messaging.store import clock_ms
    from messaging.store.records import Due, Expired, Missed

    now_ms = run_async(clock_ms)
    expired = []
    for number in range(count):
        room, group = rooms[number % len(rooms)], groups[number % len(rooms)]
        ended_at = now_ms - chance.randint(60_000, 6 * DAY_MS)
        missed = tuple(
            Missed(one.id, chance.choice(REASONS), chance.randint(0, 8)) for one in group[1 + HOLDERS :]
        )
        expired.append(
            Expired(
                due=Due(key_of(room), 10**9 + number, ended_at, str(ended_at)),
                epoch="before",
                live=True,
                sender=group[0].id,
                id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
                name=group[0].name,
                body="y" * 100,
                sent_at=ended_at - 3_600_000,
                expires_at=ended_at,
                reply_to=None,
                resends=None,
                total=MEMBERS - 1,
                missed=missed,
            )
        )
    letters: list[Any] = []
    for at in range(0, count, LETTERS_AT_ONCE):
        letters += reports.record(expired[at : at + LETTERS_AT_ONCE], now_ms).letters
    if not letters:
        return None
    one, group = expired[count // 2], groups[count // 2 % len(rooms)]
    return {"id": str(reports.key_of(one)), "message": one.id, "person": group[-1].name}


async def _wanted(room: Any, group: Sequence[Any], seq: int) -> dict[str, Any]:
    from messaging.rooms.memberships import key_of
    from messaging.store import open_store

    [found] = await open_store().lists.live_by_seq([(key_of(room), seq)])
    return {
        "room": room.id,
        "seq": seq,
        "message": found.id,
        "person": group[-1].name,
        "sender": group[0].name,
    }


def _count() -> dict[str, int]:
    from messaging.bridge import run_async
    from messaging.models import DeadLetter, Membership, Notice, Room
    from messaging.store import open_store

    async def stored() -> int:
        return await open_store().stats.count_messages()

    tables = {"letters": DeadLetter, "notices": Notice, "rooms": Room, "memberships": Membership}
    return {"stored": run_async(stored), **{name: model.objects.count() for name, model in tables.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fill.messages", description=__doc__)
    parser.add_argument("--rooms", type=int, default=1_000)
    parser.add_argument("--each", type=int, default=100, help="messages of each room")
    parser.add_argument("--crowd", type=int, default=0, help="members of one room more")
    parser.add_argument("--crowd-each", type=int, default=0, help="its messages")
    parser.add_argument("--letters", type=int, default=10_000)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    kept = Path(os.environ["DATA_DIR"]) / "secret-key"  # or the session would be valid nowhere else
    os.environ.setdefault("DJANGO_SECRET_KEY", kept.read_text().strip())
    import django

    django.setup()
    json.dump(fill(options), sys.stdout)


if __name__ == "__main__":
    main()
