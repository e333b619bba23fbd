"""Make expired messages that nobody received, and check that each was reported to its sender."""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

TALKING, TALKERS = 10, 10  # rooms in which people talk during the measurement, and their members
MEMBERS, HOLDERS = 10, 2  # of an ordinary room: one writes, HOLDERS hold everything, the others are offline
CROWD_HOLDERS = 99  # of the large room
ONE_WRITER = 10  # rooms in which one person writes: more notices than are kept
NAMED_MOST = 100  # people in a dead letter and its notice: the contract


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load: `due` messages, a hundredth of them in a room of `crowd` members, the rest in 99 rooms of ten."""

    due: int
    crowd: int
    rate: float
    idle_s: float

    @property
    def each(self) -> int:
        return self.due // 100


@dataclasses.dataclass(slots=True)
class Seeded:
    """The seeded rooms to talk in; {message id: number of members who missed it}, messages per writer and rooms of the due messages."""

    talking: list[dict[str, Any]]
    missed: dict[str, int]
    writers: Counter[int]
    rooms: list[Any]  # RoomKey


def seed(load: Load) -> Seeded:
    """Make people, rooms, and messages that are over as soon as they are stored."""
    from messaging import demo
    from messaging.bridge import run_async

    talking = [talking_room(demo.seed_fresh(TALKERS, 0, 1, sessions=True).users) for _ in range(TALKING)]
    people = [one.id for one in demo.seed_fresh(99 * MEMBERS, 0, 1).users]
    crowd = [one.id for one in demo.seed_fresh(load.crowd, 0, 1).users]
    groups = [people[at : at + MEMBERS] for at in range(0, len(people), MEMBERS)]
    for group in groups[1:ONE_WRITER]:
        group[0] = people[0]
    found = Seeded(talking, {}, Counter(), [])
    run_async(_fill, load, [(group, HOLDERS) for group in groups] + [(crowd, CROWD_HOLDERS)], found)
    return found


def talking_room(people: Sequence[Any], away: Sequence[int] = ()) -> dict[str, Any]:
    """Make a room; return it as the load generator takes it: with the members who connect, not those who are `away`."""
    room = room_of([*(one.id for one in people), *away])
    return {"id": room.id, "members": [{"id": one.id, "cookie": one.session} for one in people]}


def room_of(users: Sequence[int]) -> Any:
    from messaging.models import Membership, Room

    room = Room.objects.create(name="measured")
    Membership.objects.bulk_create([Membership(room=room, user_id=user) for user in users], batch_size=500)
    return room


async def _fill(load: Load, groups: Sequence[tuple[list[int], int]], found: Seeded) -> None:
    from messaging.bridge import in_db_thread
    from messaging.store import open_store
    from messaging.store.records import AckRow, Append, RoomKey

    store = open_store()
    for users, holders in groups:
        room = await in_db_thread(room_of, users)
        key = RoomKey(room.id, room.partition)
        epoch = await store.members.create_log(key)
        writer, away = users[0], len(users) - 1 - holders
        texts = [
            Append(room=key, user=writer, name="ada", id=str(uuid.uuid4()), body="x" * 100, ttl_ms=1)
            for _ in range(load.each)
        ]
        answers = await store.log.append(texts)
        top = max(answer.seq for answer in answers)  # type: ignore[union-attr]
        await store.cursors.acknowledge(
            [AckRow(key, epoch, user, top, top, judged=True) for user in users[1 : 1 + holders]]
        )
        found.rooms.append(key)
        found.missed |= {text.id: away for text in texts}
        found.writers[writer] += len(texts)


def due() -> int:
    """Return how many messages the job would take now: not those that are claimed."""
    from messaging.bridge import run_async
    from messaging.store import open_store

    async def count() -> int:
        return (await open_store().expiry.overdue()).due

    return run_async(count)


def left(seeded: Seeded) -> int:
    """Return how many of the messages the store still has."""
    from messaging.bridge import run_async
    from messaging.store import open_store

    async def count() -> int:
        return sum(
            await open_store().scripts.pipeline([("ZCARD", f"{room.key}:live") for room in seeded.rooms])
        )

    return run_async(count)


def faults(seeded: Seeded) -> list[str]:
    """Say what is not in the database as it must be: a letter and a notice for each message, and who missed it."""
    from django.db.models import Sum

    from messaging.expiry.notices import MAX_WAITING
    from messaging.models import DeadLetter, MissedRecipient, Notice

    letters = dict(DeadLetter.objects.values_list("message_id", "missing_total"))
    named = MissedRecipient.objects.count()
    summed = sum(max(0, count - MAX_WAITING) for count in seeded.writers.values())
    kinds = Counter(Notice.objects.values_list("kind", flat=True))
    told = sum(
        row["messages"] for row in Notice.objects.filter(kind="summary").values_list("data", flat=True)
    )
    wrong = {
        "dead letters": (DeadLetter.objects.count(), len(seeded.missed)),
        "messages whose missing are counted right": (
            sum(letters.get(id_) == away for id_, away in seeded.missed.items()),
            len(seeded.missed),
        ),
        "missed in all": (
            DeadLetter.objects.aggregate(sum=Sum("missing_total"))["sum"] or 0,
            sum(seeded.missed.values()),
        ),
        "people named": (named, sum(min(NAMED_MOST, away) for away in seeded.missed.values())),
        "notices": (kinds["undelivered"], len(seeded.missed) - summed),
        "messages in summaries": (told, summed),
        "letters set aside": (DeadLetter.objects.exclude(fault="").count(), 0),
    }
    return [f"{what}: {is_} and not {must}" for what, (is_, must) in wrong.items() if is_ != must]
