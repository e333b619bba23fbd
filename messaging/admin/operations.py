"""What the staff do about many rows of the store, one after the other, and what became of each.

Rows are named as on the staff's lists: ROOM, ROOM:USER, ROOM:SEQ. What stands in the way of one does not keep the next waiting; a
store that is away ends the run, and what was not reached is as it was. Whether somebody may do it, the lists ask.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence

from django.db import Error as DatabaseError
from redis.exceptions import RedisError

from messaging import audit, control, jobs, policy, rooms
from messaging.bridge import in_database
from messaging.errors import BacklogFull, BadTtl, MessagingError, NotMember, Unavailable
from messaging.expiry.requeue import Result
from messaging.models import Room
from messaging.rooms import memberships
from messaging.store import Store, open_store
from messaging.store.records import Changed, RoomKey, Shortened

MEMBERS_AT_ONCE = 500  # asked about in one call
COUNTED_FOR_S = 5.0  # somebody waits for the page

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row. `why` and `left_out`: codes, for which `admin_actions.WHY` has words."""

    key: str
    result: Result
    why: str = ""
    left_out: Sequence[str] = ()


def _skipped(key: str, why: str) -> Outcome:
    return Outcome(key, Result.SKIPPED, why)


_AWAY = (Unavailable, BacklogFull, RedisError, OSError)


def _failed(key: str, fault: Exception) -> Outcome:
    return Outcome(key, Result.FAILED, fault.code if isinstance(fault, MessagingError) else Unavailable.code)


# ── Undelivered ──


async def retry_rooms(names: Sequence[str]) -> list[Outcome]:
    """Sweep rooms now: push what is owed and due to whoever is connected."""
    outcomes: list[Outcome] = []
    known = await _rooms(names)
    for name in names:
        if name not in known:
            outcomes.append(_skipped(name, "room_gone"))
            continue
        try:
            told = await jobs.sweep(jobs.SweepOptions(room=memberships.key_of(known[name])))
        except _AWAY as fault:
            outcomes.append(_failed(name, fault))
            break
        outcomes.append(Outcome(name, Result.DONE) if told else _skipped(name, "nothing_due"))
    return outcomes


async def retry_members(places: Sequence[str]) -> list[Outcome]:
    """Push at once what members who are connected owe, due or not."""
    outcomes: list[Outcome] = []
    store = open_store()
    async for room, users in _by_room(places, outcomes):
        try:
            why = await _hindrances(store, room, users)
            ready = [user for user in users if not why[user]]
            if ready:
                await store.retries.retry_now(room, ready)
                if not await jobs.sweep(jobs.SweepOptions(room=room)):
                    why |= dict.fromkeys(ready, "nothing_due")
        except _AWAY as fault:
            outcomes.append(_failed(f"{room.id}:{users[0]}", fault))
            break
        outcomes += [
            _skipped(f"{room.id}:{user}", why[user])
            if why[user]
            else Outcome(f"{room.id}:{user}", Result.DONE)
            for user in users
        ]
    return outcomes


async def _hindrances(store: Store, room: RoomKey, users: Sequence[int]) -> dict[int, str]:
    """Return {user: why nothing would be pushed to him now}, '' where something would."""
    [place] = await store.log.positions([room])
    online: set[int] = set().union(*(await store.presence.online()).values())
    attempts: dict[int, int] = {}
    for at in range(0, len(users), MEMBERS_AT_ONCE):
        some = users[at : at + MEMBERS_AT_ONCE]
        owing = await store.retries.owing(room, place.epoch, some) if place else []
        attempts |= {one.user: one.attempts for one in owing}
    most = policy.current().attempts_max

    def hindrance(user: int) -> str:
        if user not in attempts:
            return "caught_up"
        if user not in online:
            return "away"
        return "gave_up" if attempts[user] >= most else ""

    return {user: hindrance(user) for user in users}


async def reset_attempts(places: Sequence[str]) -> list[Outcome]:
    """Count the attempts of members anew: whom the retries gave up are pushed to again by the next sweep."""
    outcomes: list[Outcome] = []
    store = open_store()
    async for room, users in _by_room(places, outcomes):
        try:
            counted = await store.retries.reset_attempts(room, users)
        except _AWAY as fault:
            outcomes.append(_failed(f"{room.id}:{users[0]}", fault))
            break
        outcomes += [
            Outcome(f"{room.id}:{user}", Result.DONE) if had else _skipped(f"{room.id}:{user}", "no_attempts")
            for user, had in zip(users, counted, strict=True)
        ]
    return outcomes


async def _by_room(
    places: Sequence[str], outcomes: list[Outcome]
) -> AsyncIterator[tuple[RoomKey, list[int]]]:
    """Yield the users of each room that is there, and note an outcome for the others."""
    known = await _rooms(place.rpartition(":")[0] for place in places)
    found: dict[RoomKey, list[int]] = {}
    for place in places:
        name, _, user = place.rpartition(":")
        if name in known and user.isdecimal():
            found.setdefault(memberships.key_of(known[name]), []).append(int(user))
        else:
            outcomes.append(_skipped(place, "room_gone"))
    for room, users in found.items():
        yield room, users


async def _rooms(names: Iterable[str]) -> dict[str, Room]:
    return await in_database(Room.objects.in_bulk, list(set(names)))


# ── Messages ──


async def delete_messages(places: Sequence[str], *, by: int) -> list[Outcome]:
    """Take messages away, as a moderator would: every screen loses them, nobody misses them."""
    return await _change("delete", places, by, None)


async def extend_messages(places: Sequence[str], ttl_s: int, *, by: int) -> list[Outcome]:
    """Let messages live at least `ttl_s` from now, within the bounds of their rooms."""
    return await _change("extend", places, by, ttl_s)


async def _change(verb: str, places: Sequence[str], by: int, ttl_s: int | None) -> list[Outcome]:
    outcomes: list[Outcome] = []
    known = await _rooms(place.rpartition(":")[0] for place in places)
    store = open_store()
    for place in places:
        name, _, seq = place.rpartition(":")
        if name not in known or not seq.isdecimal():
            outcomes.append(_skipped(place, "room_gone"))
            continue
        try:
            changed = await _change_one(store, known[name], int(seq), by, ttl_s)
        except (Unavailable, BacklogFull) as fault:
            outcomes.append(_failed(place, fault))
            break
        except BadTtl:
            outcomes.append(_skipped(place, "bad_ttl"))
            continue
        except MessagingError:  # expired, deleted, or of a log that is gone
            outcomes.append(_skipped(place, "unknown"))
            continue
        if not changed.id:  # deleted before
            outcomes.append(_skipped(place, "unknown"))
            continue
        await _note(store, verb, name, by, changed)
        outcomes.append(Outcome(place, Result.DONE))
    return outcomes


async def _change_one(store: Store, room: Room, seq: int, by: int, ttl_s: int | None) -> Changed:
    key = memberships.key_of(room)
    if ttl_s is None:
        return await store.changes.delete(key, by, None, seq, open_history=True, staff=True)
    checked_s = policy.current().ttl(ttl_s, room_s=room.ttl_s, room_max_s=room.ttl_max_s)
    return await store.changes.extend(key, by, None, seq, checked_s * 1000, open_history=True, staff=True)


async def _note(store: Store, verb: str, room: str, by: int, changed: Changed) -> None:
    """Leave an audit row without text; a database that is away does not undo the change."""
    try:
        await in_database(
            audit.note,
            verb,
            now_ms=await store.now_ms(),
            user=by,
            room_key=room,
            seq=changed.seq,
            message_id=changed.id,
            rev=changed.rev,
            detail={"expires_at": changed.expires_at},
        )
    except (DatabaseError, Unavailable):
        log.warning(
            "a change has no audit row",
            extra={"room": room, "user": by, "seq": changed.seq, "verb": verb, "rev": changed.rev},
        )


# ── Rooms and members ──


async def shortening_of(names: Sequence[str], ttl_s: int) -> tuple[Shortened, int]:
    """Count what it would do to the messages of rooms to end at most `ttl_s` after they were sent; return it and of how many rooms.

    Of fewer than all where that takes longer than 5 s. Raises BadTtl, Unavailable.
    """
    total = Shortened(0, 0, 0)
    ends_mono_s = time.monotonic() + COUNTED_FOR_S
    for counted, name in enumerate(names):
        if time.monotonic() >= ends_mono_s:
            return total, counted
        try:
            one = await rooms.shorten(None, name, ttl_s, dry_run=True)
        except NotMember:
            continue  # the room is gone
        total = Shortened(total.looked + one.looked, total.shortened + one.shortened, total.ended + one.ended)
    return total, len(names)


async def change_lifetimes(names: Sequence[str], ttl_s: int, *, shorten: bool, by: int) -> list[Outcome]:
    """Give rooms another lifetime for new messages, with `shorten` also what is there."""
    outcomes: list[Outcome] = []
    for name in names:
        try:
            await rooms.change_room(None, name, memberships.Change(ttl_s=ttl_s), staff=by)
            if shorten:
                await rooms.shorten(None, name, ttl_s, dry_run=False, staff=by)
        except BadTtl:
            outcomes.append(_skipped(name, "bad_ttl"))
        except (Unavailable, BacklogFull) as fault:
            outcomes.append(_failed(name, fault))
            break
        except MessagingError:
            outcomes.append(_skipped(name, "room_gone"))
        else:
            outcomes.append(Outcome(name, Result.DONE))
    return outcomes


async def close_connections(members: Sequence[tuple[str, int]]) -> list[Outcome]:
    """Close the connections of users, [(row, user)]; their pages come back by themselves, as after a restart."""
    outcomes: list[Outcome] = []
    told: set[int] = set()
    try:
        online: set[int] = set().union(*(await open_store().presence.online()).values())
    except Unavailable as fault:
        return [_failed(key, fault) for key, _user in members[:1]]
    for key, user in members:
        if user not in online:
            outcomes.append(_skipped(key, "not_connected"))
            continue
        if user not in told and not await control.announce("close_user", user=user):
            outcomes.append(Outcome(key, Result.FAILED, Unavailable.code))
            break
        told.add(user)
        outcomes.append(Outcome(key, Result.DONE))
    return outcomes
