"""The comparison of the store with the database and with the memory of server processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db.models import F
from django.utils import timezone

from messaging.bridge import in_db_thread
from messaging.errors import Unavailable
from messaging.models import Room, StoreLoss, StoreMark, moment
from messaging.store import Store, open_store
from messaging.store.records import Mark, RoomKey

from . import members

ACCEPTED_DAYS = 35  # the days whose accepted messages are compared: messages live at most four weeks

log = logging.getLogger(__name__)


async def mark() -> None:
    """Check, then write the next mark, first to the store. Raises Unavailable, BacklogFull and DatabaseError."""
    await check()
    store = open_store()
    accepted, live = await store.stats.accepted_by_day(ACCEPTED_DAYS), await store.stats.count_messages()
    last, marks = await in_db_thread(_last_mark), await store.marks.read()
    if last and any(mark.number < last.number for mark in marks):
        return  # the store went back since the check: a new mark would hide it from the next one
    life = await _clean_log(store, marks)
    number = max([last.number if last else 0, *(mark.number for mark in marks)]) + 1
    await store.marks.write(number, life)
    await in_db_thread(_write_mark, number, accepted, live)


async def check() -> bool:
    """Compare the marks of the store with the database; record and repair a loss. Return whether there is one.

    Every process may do this at any time.

    The database is read first, because a mark is written to the store first. If the store has later marks, the database is an older copy.
    """
    last = await in_db_thread(_last_mark)
    if last is None:
        return False
    store = open_store()
    marks = await store.marks.read()
    if max(mark.number for mark in marks) > last.number + 1:  # a killed job leaves a difference of 1
        await members.remove_unknown()
    behind = {partition: mark for partition, mark in enumerate(marks) if mark.number < last.number}
    if not behind:
        return False
    safe_ms = min(mark.at_ms for mark in behind.values())
    lost = min(last.live, await _accepted_less(store, last))
    incident = f"mark-{last.number}"
    if not await in_db_thread(_begin, incident, safe_ms, lost):
        return True
    rooms = await in_db_thread(_rooms_of, list(behind))
    log.error("the store lost messages", extra={"lost": lost, "rooms": len(rooms), "safe_until_ms": safe_ms})
    await store.marks.renew(rooms, incident=incident, safe_ms=safe_ms)
    await in_db_thread(_finish, incident)
    return True


async def record_rooms(lost: Mapping[RoomKey, int]) -> None:
    """Record and repair the loss of the newest messages of rooms: {room: number of messages}.

    A larger loss, of which the marks tell, is repaired by `check` alone. The row is written first: a room that has its new epoch is not
    found again.
    """
    if await check():
        return
    store = open_store()
    life, marks = await store.marks.life(), await store.marks.read()
    incident = f"life-{life}"
    # A mark that was written after the loss does not tell until when messages are safe.
    safe_ms = min(_safe_ms(marks[room.partition], life) for room in lost)
    await in_db_thread(_add, incident, safe_ms, 0)
    for room, messages in lost.items():
        [is_new] = await store.marks.renew([room], incident=incident, safe_ms=safe_ms)
        if is_new:
            log.error("the store lost messages", extra={"lost": messages, "room": room.id})
            await in_db_thread(_add, incident, safe_ms, messages)


async def _clean_log(store: Store, marks: Sequence[Mark]) -> str:
    """Let the store rewrite its log, once in each life. Return the life to write with the next mark, '' to try again.

    The log of a store that lost its end may end with a part of a transaction. The store ignores it at this start, but appends to it: at its
    next start it executes the part (Valkey 8.1). A message would be back without the record of its id, also if it was sent again.
    """
    life = await store.marks.life()
    if all(mark.life == life for mark in marks):
        return life
    try:
        await store.stats.rewrite_log()
    except Unavailable as error:  # for example, another rewrite is under way
        log.warning("the store's log was not rewritten", extra={"reason": str(error)})
        return ""
    return life


def _safe_ms(mark: Mark, life: str) -> int:
    return mark.at_ms if mark.life not in ("", life) else 0


async def _accepted_less(store: Store, last: StoreMark) -> int:
    """Return by how many accepted messages the store's counts are lower than at the last mark."""
    accepted = await store.stats.accepted_by_day(ACCEPTED_DAYS)
    return sum(max(0, number - accepted.get(int(day), 0)) for day, number in last.accepted.items())


def _last_mark() -> StoreMark | None:
    return StoreMark.objects.first()


def _write_mark(number: int, accepted: Mapping[int, int], live: int) -> None:
    StoreMark.objects.update_or_create(
        pk=1,
        defaults={"number": number, "accepted": dict(accepted), "live": live},
    )


def _begin(incident: str, safe_ms: int, messages: int) -> bool:
    """Write the loss, unless it is known; return whether it must still be repaired."""
    loss, _ = StoreLoss.objects.get_or_create(
        incident=incident,
        defaults={"at": timezone.now(), "safe_until": _moment_or_none(safe_ms), "messages": messages},
    )
    return loss.repaired_at is None


def _finish(incident: str) -> None:
    StoreLoss.objects.filter(incident=incident).update(repaired_at=timezone.now())


def _add(incident: str, safe_ms: int, messages: int) -> None:
    now = timezone.now()
    StoreLoss.objects.get_or_create(
        incident=incident, defaults={"at": now, "safe_until": _moment_or_none(safe_ms), "repaired_at": now}
    )
    StoreLoss.objects.filter(incident=incident).update(messages=F("messages") + messages)


def _rooms_of(partitions: list[int]) -> list[RoomKey]:
    rooms = Room.objects.filter(partition__in=partitions).values_list("pk", "partition")
    return [RoomKey(room, partition) for room, partition in rooms.iterator()]


def _moment_or_none(at_ms: int) -> datetime | None:
    return moment(at_ms) if at_ms else None
