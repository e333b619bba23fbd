"""Operations of the staff on many rows of the store, one row after the other, with an outcome for each.

Rows have the keys of the staff's lists: ROOM, ROOM:USER, ROOM:SEQ. A blocked row does not delay the next one. If the store does not
answer, the operation ends, and the remaining rows are unchanged. The lists check the permissions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence

from django.db import Error as DatabaseError

from messaging import audit, control, jobs, policy, rooms
from messaging.bridge import in_db_thread
from messaging.errors import BacklogFull, BadTtl, MessagingError, NotMember, Unavailable
from messaging.expiry.requeue import Outcome, Result
from messaging.models import Room
from messaging.rooms import memberships
from messaging.store import Store, open_store
from messaging.store.records import Changed, RoomKey, Shortened

MEMBERS_BATCH = 500  # in one call to the store
COUNT_TIMEOUT_S = 5.0  # a user is waiting for the page

log = logging.getLogger(__name__)

_AWAY = (Unavailable, BacklogFull, OSError)


def _done(key: str) -> Outcome:
    return Outcome(key, Result.DONE)


def _skipped(key: str, why: str) -> Outcome:
    return Outcome(key, Result.SKIPPED, why)


def _failed(key: str, error: Exception) -> Outcome:
    return Outcome(key, Result.FAILED, error.code if isinstance(error, MessagingError) else Unavailable.code)


# ── Undelivered ──


async def retry_rooms(room_ids: Sequence[str]) -> list[Outcome]:
    """Sweep rooms now: push due messages to connected members."""
    outcomes: list[Outcome] = []
    existing = await _rooms(room_ids)
    for room_id in room_ids:
        if room_id not in existing:
            outcomes.append(_skipped(room_id, "room_gone"))
            continue
        try:
            is_due = await jobs.sweep(jobs.SweepOptions(room=memberships.key_of(existing[room_id])))
        except _AWAY as error:
            outcomes.append(_failed(room_id, error))
            break
        outcomes.append(_done(room_id) if is_due else _skipped(room_id, "nothing_due"))
    return outcomes


async def retry_members(keys: Sequence[str]) -> list[Outcome]:
    """Push undelivered messages to connected members at once, due or not."""
    outcomes: list[Outcome] = []
    store = open_store()
    async for room, users in _by_room(keys, outcomes):
        try:
            blocked_by = await _blocked_by(store, room, users)
            ready = [user for user in users if not blocked_by[user]]
            if ready:
                await store.retries.retry_now(room, ready)
                if not await jobs.sweep(jobs.SweepOptions(room=room)):
                    blocked_by |= dict.fromkeys(ready, "nothing_due")
        except _AWAY as error:
            outcomes.append(_failed(f"{room.id}:{users[0]}", error))
            break
        for user in users:
            key, why = f"{room.id}:{user}", blocked_by[user]
            outcomes.append(_skipped(key, why) if why else _done(key))
    return outcomes


async def _blocked_by(store: Store, room: RoomKey, users: Sequence[int]) -> dict[int, str]:
    """Return {user: reason why nothing can be pushed to them now}, '' if something can."""
    [position] = await store.log.positions([room])
    online: set[int] = set().union(*(await store.presence.online()).values())
    attempts: dict[int, int] = {}
    for start in range(0, len(users), MEMBERS_BATCH):
        batch = users[start : start + MEMBERS_BATCH]
        owing = await store.retries.owing(room, position.epoch, batch) if position else []
        attempts |= {member.user: member.attempts for member in owing}
    max_attempts = policy.current().attempts_max

    def blocked_by(user: int) -> str:
        if user not in attempts:
            return "caught_up"
        if user not in online:
            return "away"
        return "gave_up" if attempts[user] >= max_attempts else ""

    return {user: blocked_by(user) for user in users}


async def reset_attempts(keys: Sequence[str]) -> list[Outcome]:
    """Reset the attempts of members: the next sweep pushes again to those for whom the retries gave up."""
    outcomes: list[Outcome] = []
    store = open_store()
    async for room, users in _by_room(keys, outcomes):
        try:
            were_counted = await store.retries.reset_attempts(room, users)
        except _AWAY as error:
            outcomes.append(_failed(f"{room.id}:{users[0]}", error))
            break
        for user, was_counted in zip(users, were_counted, strict=True):
            key = f"{room.id}:{user}"
            outcomes.append(_done(key) if was_counted else _skipped(key, "no_attempts"))
    return outcomes


async def _by_room(keys: Sequence[str], outcomes: list[Outcome]) -> AsyncIterator[tuple[RoomKey, list[int]]]:
    """Yield the users of each existing room, and add an outcome for each other key."""
    existing = await _rooms(key.rpartition(":")[0] for key in keys)
    users_by_room: dict[RoomKey, list[int]] = {}
    for key in keys:
        room_id, _, user = key.rpartition(":")
        if room_id in existing and user.isdecimal():
            users_by_room.setdefault(memberships.key_of(existing[room_id]), []).append(int(user))
        else:
            outcomes.append(_skipped(key, "room_gone"))
    for room, users in users_by_room.items():
        yield room, users


async def _rooms(room_ids: Iterable[str]) -> dict[str, Room]:
    return await in_db_thread(Room.objects.in_bulk, list(set(room_ids)))


# ── Messages ──


async def delete_messages(keys: Sequence[str], *, by: int) -> list[Outcome]:
    """Delete messages as a moderator would: they disappear from every screen and are not reported as missed."""
    return await _change("delete", keys, by, None)


async def extend_messages(keys: Sequence[str], ttl_s: int, *, by: int) -> list[Outcome]:
    """Make messages live at least `ttl_s` from now, within the limits of their rooms."""
    return await _change("extend", keys, by, ttl_s)


async def _change(verb: str, keys: Sequence[str], by: int, ttl_s: int | None) -> list[Outcome]:
    outcomes: list[Outcome] = []
    existing = await _rooms(key.rpartition(":")[0] for key in keys)
    store = open_store()
    for key in keys:
        room_id, _, seq = key.rpartition(":")
        if room_id not in existing or not seq.isdecimal():
            outcomes.append(_skipped(key, "room_gone"))
            continue
        try:
            changed = await _change_one(store, existing[room_id], int(seq), by, ttl_s)
        except (Unavailable, BacklogFull) as error:
            outcomes.append(_failed(key, error))
            break
        except BadTtl:
            outcomes.append(_skipped(key, "bad_ttl"))
            continue
        except MessagingError:  # expired, deleted, or of a log that was lost
            outcomes.append(_skipped(key, "unknown"))
            continue
        if not changed.id:  # deleted before
            outcomes.append(_skipped(key, "unknown"))
            continue
        await _write_audit_entry(store, verb, room_id, by, changed)
        outcomes.append(_done(key))
    return outcomes


async def _change_one(store: Store, room: Room, seq: int, by: int, ttl_s: int | None) -> Changed:
    room_key = memberships.key_of(room)
    if ttl_s is None:
        return await store.changes.delete(room_key, by, None, seq, open_history=True, staff=True)
    checked_s = policy.current().ttl(ttl_s, room_s=room.ttl_s, room_max_s=room.ttl_max_s)
    return await store.changes.extend(
        room_key, by, None, seq, checked_s * 1000, open_history=True, staff=True
    )


async def _write_audit_entry(store: Store, verb: str, room_id: str, by: int, changed: Changed) -> None:
    """Write an audit entry without any text; a database that is away does not undo the change."""
    try:
        await in_db_thread(
            audit.note,
            verb,
            now_ms=await store.now_ms(),
            user=by,
            room_key=room_id,
            seq=changed.seq,
            message_id=changed.id,
            rev=changed.rev,
            detail={"expires_at": changed.expires_at},
        )
    except (DatabaseError, Unavailable):
        log.warning(
            "a change has no audit entry",
            extra={"room": room_id, "user": by, "seq": changed.seq, "verb": verb, "rev": changed.rev},
        )


# ── Rooms and members ──


async def count_shortened(room_ids: Sequence[str], ttl_s: int) -> tuple[Shortened, int]:
    """Count the messages that a lifetime of `ttl_s` after sending would shorten; return the counts and the number of counted rooms.

    Stops counting after 5 s. Raises BadTtl, Unavailable.
    """
    total = Shortened(0, 0, 0)
    deadline_mono_s = time.monotonic() + COUNT_TIMEOUT_S
    for counted, room_id in enumerate(room_ids):
        if time.monotonic() >= deadline_mono_s:
            return total, counted
        try:
            room = await rooms.shorten(None, room_id, ttl_s, dry_run=True)
        except NotMember:
            continue  # the room was deleted
        total = Shortened(
            total.looked + room.looked, total.shortened + room.shortened, total.ended + room.ended
        )
    return total, len(room_ids)


async def change_lifetimes(room_ids: Sequence[str], ttl_s: int, *, shorten: bool, by: int) -> list[Outcome]:
    """Change the lifetime of new messages in rooms; with `shorten`, also shorten existing messages."""
    outcomes: list[Outcome] = []
    for room_id in room_ids:
        try:
            await rooms.change_room(None, room_id, memberships.Change(ttl_s=ttl_s), staff=by)
            if shorten:
                await rooms.shorten(None, room_id, ttl_s, dry_run=False, staff=by)
        except BadTtl:
            outcomes.append(_skipped(room_id, "bad_ttl"))
        except (Unavailable, BacklogFull) as error:
            outcomes.append(_failed(room_id, error))
            break
        except MessagingError:
            outcomes.append(_skipped(room_id, "room_gone"))
        else:
            outcomes.append(_done(room_id))
    return outcomes


async def close_connections(members: Sequence[tuple[str, int]]) -> list[Outcome]:
    """Close the connections of users, [(key, user)], once per user. Their pages reconnect automatically, as after a restart."""
    outcomes: list[Outcome] = []
    closed: set[int] = set()
    try:
        online: set[int] = set().union(*(await open_store().presence.online()).values())
    except Unavailable as error:
        return [_failed(key, error) for key, _user in members[:1]]
    for key, user in members:
        if user not in online:
            outcomes.append(_skipped(key, "not_connected"))
            continue
        if user not in closed and not await control.announce("close_user", user=user):
            outcomes.append(Outcome(key, Result.FAILED, Unavailable.code))
            break
        closed.add(user)
        outcomes.append(_done(key))
    return outcomes
