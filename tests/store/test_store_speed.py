"""No script runs for more than 5 ms by the slow log of the server, in a room of 10,000 members and 100,000 messages.

Machines differ by a factor of three: a script of known work scales the 5 ms to this machine, never below 5 ms.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from messaging.live.coalescing import MAX_MEMBERS
from messaging.policy import Policy
from messaging.store import Store, connections
from messaging.store.changes import SHORTEN_BATCH
from messaging.store.cursors import SENDER_BATCH
from messaging.store.expiry import FINALIZE_BATCH, READ_BATCH
from messaging.store.records import AckRow, Due, Held, Read, RoomKey
from tests.support.messages import message

MOST_US = 5_000
# 1,000 times the work of a read for one message: 2.3 ms on the machine where the bound of 5 ms was set.
KNOWN_WORK = """
redis.call('HSET', KEYS[1], 'body', string.rep('x', 100))
local n = 0
for i = 1, 1000 do
  local fields = redis.call('HMGET', KEYS[1], 'body', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i')
  n = n + #string.match(fields[1] .. i, '^(x+)')
end
return n
"""
KNOWN_WORK_US = 2_300
MEMBERS = 10_000
LIVE = 100_000
SENDER, LAST_MEMBER = 1, MEMBERS
BIG = RoomKey("big", 3)
OVER = 20_000  # messages that expired at the same time
LOG_ROWS = 1_000
LOGGED_US = 100  # shorter calls are not logged: the commands of a script are, and logging takes time
MAX_LOOKS = 40  # until one is shorter: on a busy machine even processor time is longer

pytestmark = [pytest.mark.proof, pytest.mark.alone]  # fills rooms of 100,000 messages; looks at times


async def many(room: str) -> list[int]:
    return list(range(1, MEMBERS + 1))


async def filled(live: int) -> AsyncIterator[Store]:
    """Yield a store with this number of messages in the room, and a slow log of all longer calls."""
    store = Store(connections.async_client(), Policy(), members_of=many)
    await store.members.create_log(BIG)
    for _ in range(0, live, 2_000):
        await store.log.append([message("x" * 100, user=SENDER, room=BIG) for _ in range(2_000)])
    await store.client.config_set("slowlog-max-len", LOG_ROWS)
    await store.client.config_set("slowlog-log-slower-than", LOGGED_US)
    try:
        yield store
    finally:
        await store.client.config_set("slowlog-log-slower-than", 10_000)
        await store.client.config_set("slowlog-max-len", 128)
        await store.client.flushall()
        await connections.close()


@pytest.fixture
async def big(redis_url: str) -> AsyncIterator[Store]:
    async for store in filled(LIVE):
        yield store


@pytest.fixture
async def over(redis_url: str) -> AsyncIterator[Store]:
    async for store in filled(OVER):
        yield store


async def slowest_us(
    store: Store, verb: Callable[[], Awaitable[object]], *, command: bytes = b"EVALSHA", looks: int = 0
) -> float:
    """Return the duration of the slowest script of `verb` in microseconds, of any command with `command` ''.

    It is the least of several calls: as many as `looks`, or until one is within the bound. The speed of a machine changes with
    its load: a duration over the bound is divided by the slowness that known work shows right after it.
    """
    found: list[float] = []
    while len(found) < (looks or MAX_LOOKS) and (looks or not found or found[-1] > MOST_US):
        took_us = await _duration_us(store, verb, command)
        found.append(took_us if took_us <= MOST_US else took_us / await _slowness(store))
    return min(found)


async def _duration_us(store: Store, verb: Callable[[], Awaitable[object]], command: bytes) -> float:
    """Return the duration of one call.

    Its duration in the slow log counts what other processes took from it; the processor time of the server's main thread
    counts the reading and writing around it. Both are above the truth, so the smaller one holds.
    """
    await store.client.slowlog_reset()
    before_us = await processor_us(store)
    await verb()
    spent_us = await processor_us(store) - before_us
    rows = await store.client.slowlog_get(LOG_ROWS)
    assert len(rows) < LOG_ROWS, "the log is incomplete"
    took_us = [row["duration"] for row in rows if row["command"].startswith(command)]
    return min(spent_us, max(took_us, default=LOGGED_US))


async def _slowness(store: Store) -> float:
    """Return how many times longer known work takes now than on the machine where the bound was set, at least 1."""

    def known_work() -> Awaitable[object]:
        return store.client.eval(KNOWN_WORK, 1, "known-work")

    least_us = min([await _duration_us(store, known_work, b"EVAL ") for _ in range(3)])
    return max(1.0, least_us / KNOWN_WORK_US)


async def processor_us(store: Store) -> float:
    info = await store.client.info("cpu")
    return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]) * 1e6


async def test_no_script_takes_longer_than_5_ms(big: Store) -> None:
    [place] = await big.log.positions([BIG])
    assert place is not None
    assert place.top == LIVE

    def read(since: int, rev: int | None = 0) -> Awaitable[object]:
        return big.log.read_after(LAST_MEMBER, [Read(room=BIG, epoch=place.epoch, since=since, rev=rev)])

    seqs = itertools.count(1)

    def acknowledge() -> Awaitable[object]:
        seq = next(seqs)
        return big.cursors.acknowledge([AckRow(BIG, place.epoch, user, seq, seq) for user in range(2, 502)])

    crowd = range(MEMBERS - MAX_MEMBERS, MEMBERS)

    def standing() -> list[tuple[int, Held]]:
        seq = next(seqs)
        return [(user, Held(place.epoch, seq)) for user in crowd]

    verbs = {
        "read_after the beginning": lambda: read(0),
        "read_after the middle": lambda: read(LIVE // 2),
        "read_after the end": lambda: read(LIVE - 500),
        "history": lambda: big.log.history(BIG, LAST_MEMBER, before=LIVE, limit=100),
        "receipts": lambda: big.cursors.receipts([(BIG, SENDER)]),
        "recipients": lambda: big.cursors.recipients(BIG, LIVE // 2),
        "member_positions": lambda: big.members.member_positions(LAST_MEMBER, [(BIG, Held(place.epoch, 0))]),
        "read_after for as many as ask together": lambda: big.log.read_for_many(
            [(Read(room=BIG, epoch=place.epoch, since=LIVE - 500, rev=0), crowd)]
        ),
        "member_positions of as many": lambda: big.members.member_positions_for_many([(BIG, standing())]),
        "who_owes of 500": lambda: big.retries.owing(BIG, place.epoch, list(range(2, 502))),
        "who_owes of the sender": lambda: big.retries.owing(BIG, place.epoch, [SENDER]),
        "count_undelivered": lambda: big.retries.count_undelivered([BIG]),
        "acknowledge by 500, in calls of 200": acknowledge,
        "append of 100": lambda: big.log.append(
            [message("x" * 100, user=SENDER, room=BIG) for _ in range(100)]
        ),
    }
    took = {name: await slowest_us(big, verb) for name, verb in verbs.items()}

    for _ in range(39):
        await verbs["append of 100"]()

    # A message that no client can show, and one before it: every member rejects both.
    [place] = await big.log.positions([BIG])
    assert place is not None
    top = place.top
    for seq in (top - 1, top):
        for at in range(2, MEMBERS + 1, 500):
            rejections = [
                big.cursors.reject(BIG, user, place.epoch, seq)
                for user in range(at, min(at + 500, MEMBERS + 1))
            ]
            await asyncio.gather(*rejections)
    rejected = {
        "reject": lambda: big.cursors.reject(BIG, LAST_MEMBER, place.epoch, top),
        "who_owes of 500 who rejected": lambda: big.retries.owing(BIG, place.epoch, list(range(2, 502))),
        "read_after in a retry": lambda: big.log.read_after(
            LAST_MEMBER, [Read(room=BIG, epoch=place.epoch, since=top - 100, again=True, limit=100)]
        ),
        "recipients of a rejected one": lambda: big.cursors.recipients(BIG, top),
        "receipts with rejected ones": lambda: big.cursors.receipts([(BIG, SENDER)]),
    }
    took |= {name: await slowest_us(big, verb) for name, verb in rejected.items()}

    # Expiry was not processed for a while: all messages of the last stretch have ended.
    pipeline = big.client.pipeline(transaction=False)
    for seq in range(LIVE - 5_000, LIVE + 1_000):
        pipeline.execute_command("HSET", f"{BIG.key}:msg:{seq}", "expires_at", 1)
    await pipeline.execute()
    behind = {
        "read_after over expired": lambda: read(LIVE - 5_000),
        "history over expired": lambda: big.log.history(BIG, LAST_MEMBER, before=LIVE, limit=100),
        "receipts over expired": lambda: big.cursors.receipts([(BIG, SENDER)]),
        "who_owes over expired": lambda: big.retries.owing(BIG, place.epoch, list(range(2, 502))),
        "member_positions over expired": lambda: big.members.member_positions(
            LAST_MEMBER, [(BIG, Held(place.epoch, LIVE - 5_000))]
        ),
    }
    took |= {name: await slowest_us(big, verb) for name, verb in behind.items()}
    assert {name: us for name, us in took.items() if us > MOST_US} == {}


async def test_receipts_of_many_senders_take_no_longer_than_5_ms(big: Store) -> None:
    senders = range(1, SENDER_BATCH + 1)
    for _ in range(1_000 // SENDER_BATCH):
        await big.log.append([message("x" * 100, user=user, room=BIG) for user in senders])
    counted = await big.cursors.receipts([(BIG, user) for user in senders])
    assert [len(rows) for _, rows in counted] == [100] * SENDER_BATCH
    took_us = await slowest_us(big, lambda: big.cursors.receipts([(BIG, user) for user in senders]))
    assert took_us <= MOST_US


async def test_no_operation_of_change_or_expiry_takes_longer_than_5_ms(big: Store) -> None:
    [place] = await big.log.positions([BIG])
    assert place is not None
    epoch, every = place.epoch, list(range(2, MEMBERS + 1))
    text = itertools.count(1)
    changing, going = (itertools.count(at) for at in (LIVE - 1_000, LIVE // 2))

    def addressed() -> Awaitable[object]:
        return big.log.append(
            [msgspec.structs.replace(message("x" * 100, user=SENDER, room=BIG), only=tuple(every), resends=1)]
        )

    verbs = {
        "edit": lambda: big.changes.edit(
            BIG, SENDER, epoch, LIVE, f"{next(text)}" * 1_000, open_history=False
        ),
        "extend": lambda: big.changes.extend(
            BIG, SENDER, epoch, next(changing), 7_200_000, open_history=False
        ),
        "delete": lambda: big.changes.delete(BIG, SENDER, epoch, next(going), open_history=False),
        "append for 9,999 by name": addressed,
    }
    took = {name: await slowest_us(big, verb) for name, verb in verbs.items()}

    for _ in range(39):
        await verbs["append for 9,999 by name"]()

    # All names are at the newest message: it is changed, passed over, and read by a returning member.
    [place] = await big.log.positions([BIG])
    assert place is not None
    top = place.top

    def away(since: int, rev: int, limit: int = 500) -> Awaitable[object]:
        return big.log.read_after(
            LAST_MEMBER, [Read(room=BIG, epoch=epoch, since=since, rev=rev, limit=limit)]
        )

    named = {
        "edit of one for 9,999": lambda: big.changes.edit(
            BIG, SENDER, epoch, top, "other", open_history=False
        ),
        "extend of one for 9,999": lambda: big.changes.extend(
            BIG, SENDER, epoch, top, 7_200_000, open_history=False
        ),
        "read_after over those": lambda: away(top - 40, 0),
        "history over those": lambda: big.log.history(BIG, LAST_MEMBER, before=top + 1, limit=100),
        "receipts over those": lambda: big.cursors.receipts([(BIG, SENDER)]),
        "who_owes over those": lambda: big.retries.owing(BIG, epoch, list(range(2, 502))),
        "member_positions over those": lambda: big.members.member_positions(
            LAST_MEMBER, [(BIG, Held(epoch, 0))]
        ),
        "recipients of one": lambda: big.cursors.recipients(BIG, top),
    }
    took |= {name: await slowest_us(big, verb) for name, verb in named.items()}

    # Every call has a slightly shorter life, so each changes its 100 messages.
    ttl_s = itertools.count(3_000, -1)
    calls = iter(range(0, LIVE, SHORTEN_BATCH))

    def shorten(dry_run: str) -> Awaitable[object]:
        grace_ms = big.policy.grace_s * 1000
        args = (BIG.prefix, BIG.id, next(ttl_s) * 1000, next(calls), SHORTEN_BATCH, grace_ms, dry_run)
        return big.scripts.run([("shorten", args)])

    shortening = {"shorten, counted": lambda: shorten("1"), "shorten": lambda: shorten("")}
    took |= {name: await slowest_us(big, verb) for name, verb in shortening.items()}
    await big.changes.shorten(BIG, 2_000)
    [place] = await big.log.positions([BIG])
    assert place is not None
    assert await big.client.zcard(f"{BIG.key}:changed") > LIVE
    changed = {
        "read_after with all changed": lambda: away(top, 0),
        "read_after with 5,000 changed": lambda: away(top, place.rev - 5_000),
        "read_after with changes before what came": lambda: away(LIVE // 3, 0, limit=100),
    }
    took |= {name: await slowest_us(big, verb) for name, verb in changed.items()}
    assert {name: us for name, us in took.items() if us > MOST_US} == {}


async def test_no_command_of_the_expiry_job_takes_longer_than_5_ms(over: Store) -> None:
    """Most of 10,000 members are offline, thousands have left, and two messages were passed over by all."""
    left, reached, connected = 3_000, 100, 1_000
    keys = over.client.pipeline(transaction=False)
    for user in range(2, reached + 2):
        keys.zadd(f"{BIG.key}:delivered", {user: OVER})
    for user in range(reached + 2, connected):
        keys.hset(f"{BIG.key}:attempts", str(user), "1|1|1|waiting")
    leavers = range(MEMBERS + 1, MEMBERS + 2 * left + 1)  # half of them owed no message that still exists
    keys.zadd(f"{BIG.key}:left", {f"{user}|0|0": OVER * (user % 2) for user in leavers})
    for seq in (1, 2):
        rows = {f"{seq}|{user}|offline|0": seq for user in range(2, MEMBERS + 1)}
        keys.zadd(f"{BIG.key}:outcome", rows)
    past_ms = await over.now_ms() - 60_000
    keys.zadd(f"{BIG.prefix}expiring", {f"{BIG.id}|{seq}": past_ms + seq for seq in range(1, OVER + 1)})
    await keys.execute()

    tokens = map(str, itertools.count(1))
    most = over.policy.claim_max
    claimed: list[Due] = []

    async def claim(room: RoomKey | None = None) -> None:
        claimed.extend(await over.expiry.claim(next(tokens), limit=most, room=room))

    elsewhere = RoomKey("elsewhere", BIG.partition)
    took = {
        "claim_expired of a full batch": await slowest_us(over, claim, looks=15),
        "claim_expired of one room": await slowest_us(over, lambda: claim(BIG), looks=15),
        "claim_expired that passes over all": await slowest_us(over, lambda: claim(elsewhere), looks=3),
        "due_expired": await slowest_us(over, lambda: over.expiry.due(limit=most), command=b""),
        "overdue": await slowest_us(over, over.expiry.overdue, command=b""),
    }
    assert len(claimed) == 30 * most
    first, plain = claimed[:READ_BATCH], claimed[READ_BATCH : 2 * READ_BATCH]
    for name, dues in (("passed over by all", first), ("of a batch", plain)):
        took[f"expired {name}"] = await slowest_us(
            over, lambda dues=dues: over.expiry.read(dues), command=b""
        )
    [one, *others] = await over.expiry.read(first)
    assert len(one.missed) == MEMBERS - 1 + left
    assert {len(other.missed) for other in others[1:]} == {MEMBERS - 1 - reached + left}

    # Every call clears a batch, and the permitted number of exceptions of the messages passed over by all.
    batches = itertools.count(READ_BATCH, FINALIZE_BATCH - 1)

    def finalize() -> Awaitable[object]:
        at = next(batches)
        rows = [claimed[0], *claimed[at : at + FINALIZE_BATCH - 1]]
        args = [(row.room.id, row.seq, row.score, MEMBERS, 0, 0, 0, left) for row in rows]
        return over.scripts.run([("finalize_expired", (BIG.prefix, *itertools.chain(*args)))])

    took["finalize"] = await slowest_us(over, finalize, looks=9)
    assert [await over.client.zcount(f"{BIG.key}:outcome", seq, seq) for seq in (1, 2)] == [999, MEMBERS - 1]
    assert await over.client.zcard(f"{BIG.key}:live") == OVER - 9 * (FINALIZE_BATCH - 1)
    assert {name: us for name, us in took.items() if us > MOST_US} == {}
