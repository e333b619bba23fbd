"""People, rooms, messages and the passing of time, as the tests of the store and of what stands on it use them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence

from messaging.errors import MessagingError
from messaging.store import Store
from messaging.store.calls import checked
from messaging.store.records import (
    Accepted,
    AckRow,
    Append,
    Due,
    Held,
    MemberPosition,
    OtherEpoch,
    Read,
    RoomKey,
    Slice,
)

ADA, GRACE, ALAN = MEMBERS = (1, 2, 3)
NAMES = {ADA: "ada", GRACE: "grace", ALAN: "alan"}
ROOM = RoomKey("commons", 7)
HOUR_MS = 3_600_000

_serial = itertools.count(1)


async def members_of(room: str) -> list[int]:
    """Stand in for the database's memberships."""
    return list(MEMBERS)


def new_id() -> str:
    return str(uuid.UUID(int=next(_serial)))


def message(
    body: str = "hello",
    *,
    user: int = ADA,
    id_: str | None = None,
    room: RoomKey = ROOM,
    ttl_ms: int = HOUR_MS,
    reply_to: int | None = None,
) -> Append:
    name = NAMES.get(user, f"user{user}")
    return Append(
        room=room, user=user, name=name, id=id_ or new_id(), body=body, ttl_ms=ttl_ms, reply_to=reply_to
    )


async def accept(store: Store, *messages: Append) -> list[Accepted]:
    """Append messages, each of which must be accepted."""
    answers = await store.log.append(messages or [message()])
    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    assert len(accepted) == len(answers), answers
    return accepted


async def acknowledge(
    store: Store,
    user: int,
    delivered: int | None,
    read: int | None = None,
    *,
    room: RoomKey = ROOM,
    late: tuple[int, ...] = (),
    judged: bool = True,
) -> int:
    """Acknowledge in the room's present epoch; return the store's answer."""
    [place] = await store.log.positions([room])
    assert place is not None
    row = AckRow(room, place.epoch, user, delivered, read, late, judged)
    [answer] = await store.cursors.acknowledge([row])
    return answer


async def read(
    store: Store, user: int, since: int = 0, *, room: RoomKey = ROOM, rev: int | None = None, limit: int = 500
) -> Slice:
    """Read in the room's present epoch what `user` may see after `since`."""
    [place] = await store.log.positions([room])
    assert place is not None
    [slice_] = await store.log.read_after(
        user, [Read(room=room, epoch=place.epoch, since=since, rev=rev, limit=limit)]
    )
    assert isinstance(slice_, Slice), slice_
    return slice_


async def read_together(
    store: Store, asked: Read, users: Sequence[int]
) -> list[Slice | OtherEpoch | MessagingError]:
    """Read as sockets do that ask at once: coalesced, and alone for each reader who sees something else."""
    [answers] = await store.log.read_for_many([(asked, users)])
    return [
        (await store.log.read_after(user, [asked]))[0] if answer is None else answer
        for user, answer in zip(users, answers, strict=True)
    ]


async def stand_together(
    store: Store, room: RoomKey, asked: Sequence[tuple[int, Held]]
) -> list[MemberPosition | None]:
    """Ask for positions as sockets do that ask at once: coalesced, and alone where it is necessary."""
    [answers] = await store.members.member_positions_for_many([(room, asked)])
    return [
        (await store.members.member_positions(user, [(room, held)]))[0]
        if answer is None
        else checked([answer])[0]
        for (user, held), answer in zip(asked, answers, strict=True)
    ]


async def expire(store: Store, *seqs: int, room: RoomKey = ROOM, late_ms: int = 1) -> None:
    """Let messages be past their expiry, without waiting for it: their times are moved instead of the clock."""
    past_ms = await store.now_ms() - late_ms
    for seq in seqs:
        if await store.client.exists(f"{room.key}:msg:{seq}"):
            await store.client.hset(f"{room.key}:msg:{seq}", "expires_at", past_ms)
        await store.client.zadd(f"{room.prefix}expiring", {f"{room.id}|{seq}": past_ms}, xx=True)


async def vanish(store: Store, *seqs: int, room: RoomKey = ROOM) -> None:
    """Let the Hashes' own TTL, the back-stop, have taken them before any job looked."""
    await expire(store, *seqs, room=room)
    await store.client.delete(*(f"{room.key}:msg:{seq}" for seq in seqs))


async def due(store: Store, *seqs: int, room: RoomKey = ROOM) -> None:
    """Make messages due for the expiry job, independent of their lifetime."""
    past_ms = await store.now_ms() - store.policy.claim_delay_s * 1000 - 1
    rows = {f"{room.id}|{seq}": past_ms for seq in seqs}
    await store.client.zadd(f"{room.prefix}expiring", rows, xx=True)


async def cursors(store: Store, user: int, *, room: RoomKey = ROOM) -> tuple[int | None, int | None]:
    """Return a user's cursors (delivered, read); None where there is none."""
    delivered = await store.client.zscore(f"{room.key}:delivered", user)
    seen = await store.client.zscore(f"{room.key}:read", user)
    return (None if delivered is None else int(delivered), None if seen is None else int(seen))


async def missing(store: Store, seq: int, *, room: RoomKey = ROOM) -> dict[int, str]:
    """Return {user: reason} of those who owe a live message and do not hold it."""
    [one] = await store.expiry.read([Due(room, seq, 0, "")])
    named = {missed.user: missed.reason for missed in one.missed}
    assert len(named) == len(one.missed), "each user once"
    assert one.total >= len(named)
    return named


async def dump(store: Store) -> dict[str, bytes]:
    """Return everything the store keeps, to compare two moments."""
    keys = sorted([key async for key in store.client.scan_iter()])
    return {key.decode(): await store.client.dump(key) for key in keys}
