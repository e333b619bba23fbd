"""The message store: the only file that knows Redis keys. It is the truth; what is pushed to sockets is a hint.

All keys of a room and the due-sets of its partition share the hash tag `{p}`, so each script touches one slot.

| key (prefix `chat:{p}:`)     | type   | holds                                                                              |
|------------------------------|--------|------------------------------------------------------------------------------------|
| `room:<id>`                  | hash   | epoch, top, rev, members (counts joins and leaves), top_life, rev_life; no TTL      |
| `room:<id>:msg:<seq>`        | hash   | the message; expires at expires_at + grace                                          |
| `room:<id>:live`             | zset   | `seq|sender|id` -> seq; gone only by finalize and delete                            |
| `room:<id>:only`             | hash   | seq -> user ids, for a resend to some                                               |
| `room:<id>:delivered` `:read`| zset   | user -> cumulative cursor; only ever raised                                         |
| `room:<id>:joined`           | zset   | user -> top when joining; owes what came after                                      |
| `room:<id>:outcome`          | zset   | seq -> `seq|user|reason|attempts`: does not hold it though the cursor passes it     |
| `room:<id>:left`             | zset   | `user|joined|cursor` -> top when leaving                                            |
| `room:<id>:changed`          | zset   | seq -> rev of its last edit, delete or extend                                       |
| `room:<id>:attempts`         | hash   | user -> `n|first_at|next_at|reason`: connected laggards only                        |
| `sent:<room>:<user>:<id>`    | string | the first answer to a message id, for `id_life_s`                                   |
| `expiring`                   | zset   | `room|seq` -> when the job looks next                                               |
| `unacked`                    | zset   | room -> when the sweep looks next                                                   |
| `claim:<token>`              | string | the answer to a claim, for one lease                                                |
| `counts:hour:<hour>`         | hash   | `minute|what` -> how often, 49 h; hours and minutes since 1970                      |
| `counts:days:<30 days>`      | hash   | `day|what` -> how often, 121 days                                                   |

Outside the partitions: `chat:online` (zset, process -> until when it counts), `chat:online:<process>` (set of users) and
`chat:jobs` (hash, job -> its last run as JSON).

A message's way through here: append (numbered, stored, published) -> read_after, history (readers) -> acknowledge (cursors rise)
-> missing -> finalize. Each verb is one script in `lua/`. A room's channel is named as its key and carries `M` (messages),
`A` (cursors moved) and `T` (typing) lines; see `hub`.

A sequence number is never given twice: the scripts' text carries the store's `run_id` as LIFE, so a restarted or promoted store
answers NOSCRIPT, the loader reads the new run_id, and the first append in each room skips `top` ahead.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import secrets
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import redis.asyncio
from django.db import Error as DatabaseError

from . import policy as policies
from . import pools
from .errors import IdReused, MessagingError, NoSuchMessage, NotMember, Unavailable
from .models import PARTITIONS, Membership
from .records import (
    Accepted,
    AckRow,
    Append,
    Claim,
    Counts,
    Lag,
    Laggard,
    Memory,
    OtherEpoch,
    Owing,
    Page,
    Place,
    Read,
    Recipient,
    Recipients,
    RoomKey,
    Slice,
    Standing,
    Stored,
    partition_prefix,
)
from .scripts import RETRY_AFTER_MS, Scripts

_NO_LOG, _NOT_MEMBER, _ID_REUSED, _NO_REPLIED_TO = -1, -2, -3, -4
APPEND_MOST = 100  # messages in one append: no call over 5 ms
ACKS_MOST = 200  # cursors in one acknowledge: the same (500 that move take 7 ms)
INIT_MOST = 1_000  # members in one call
BODIES_MOST = 131_072  # bytes of bodies in one read
ATTEMPTS_MOST = 100  # in a row of `outcome`: the rows of a member are found by trying each
COUNTED = frozenset(field.name for field in dataclasses.fields(Counts)) - {"at"}
HASHES_MOST = 256  # read in one round trip
PRESENCE_CHANNEL = "chat:presence"
JOBS_KEY = "chat:jobs"


async def _members_in_database(room: str) -> list[int]:
    return [
        user
        async for user in Membership.objects.filter(room=room, leaving_at=None).values_list(
            "user_id", flat=True
        )
    ]


class Store:
    """The verbs. Each raises `Unavailable` when the store cannot be reached or does not answer within the deadline."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        policy: policies.Policy,
        *,
        members_of: Callable[[str], Awaitable[list[int]]] = _members_in_database,
    ) -> None:
        self.client = client
        self.policy = policy
        self.scripts = Scripts(client, deadline_s=policy.verb_deadline_s * 0.95)
        # A script touches one slot there; elsewhere one call for all partitions costs a third less than one for each.
        self.cluster = isinstance(client, redis.asyncio.RedisCluster)
        self._members_of = members_of

    @property
    def life(self) -> str:
        """The server's run_id, once a script has run."""
        return self.scripts.life

    # A room and its members

    async def init(self, room: RoomKey) -> str:
        """Make the room's log with the database's members when it has none; return its epoch. Idempotent."""
        members = await self._members(room)
        epoch = await self._run("init", room, secrets.token_hex(4), *members[:INIT_MOST])
        for at in range(INIT_MOST, len(members), INIT_MOST):
            await self._run("join", room, *members[at : at + INIT_MOST])
        await self._leave_again(room, members)
        return _text(epoch)

    async def _members(self, room: RoomKey) -> list[int]:
        try:
            return await self._members_of(room.id)
        except DatabaseError as fault:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from fault

    async def _leave_again(self, room: RoomKey, joined: Iterable[int]) -> None:
        """End the memberships of those who left the database while they were joined from it: their own leave came too soon."""
        for user in set(joined) - set(await self._members(room)):
            await self.leave(room, user)

    async def join(self, room: RoomKey, users: Iterable[int]) -> None:
        """Make `users` members; the room's log is made when it is missing. Idempotent."""
        members = list(users)
        for at in range(0, len(members), INIT_MOST):
            await self._in_log("join", room, *members[at : at + INIT_MOST])

    async def leave(self, room: RoomKey, user: int) -> None:
        """End a membership and keep what the leaver owed for the report. Idempotent."""
        await self._run("leave", room, user)

    async def standings(self, user: int, rooms: Sequence[tuple[RoomKey, str, int]]) -> list[Standing | None]:
        """Say where a user stands in rooms, each (room, epoch, since), in one round trip; None where he is no member any more.

        A `since` of the room's epoch above the cursor counts as an ack. A room that has no log gets one; a member that the
        log does not know joins it: that is where a crash between database and store is repaired.
        """
        most = self.policy.presence_members_max
        calls = [
            ("standing", (room.prefix, room.id, user, epoch, since, most)) for room, epoch, since in rooms
        ]
        answers = await self.scripts.run(calls)
        for at, answer in enumerate(answers):
            if answer in (_NO_LOG, _NOT_MEMBER):
                await self.join(rooms[at][0], [user])
                await self._leave_again(rooms[at][0], [user])
                [answers[at]] = await self.scripts.run([calls[at]])
        return [None if answer == _NOT_MEMBER else _standing(answer) for answer in _all(answers)]

    # Accepting

    async def append(self, messages: Sequence[Append]) -> list[Accepted | MessagingError]:
        """Accept messages, one script call for up to 100, in a Cluster of one partition; the answers in order.

        Idempotent by (room, user, id) within `id_life_s`. An error is one message's own; `Unavailable` and `BacklogFull`
        say nothing of whether it was stored: the same id again settles that.
        """
        by_slot: defaultdict[int, list[int]] = defaultdict(list)
        for index, message in enumerate(messages):
            by_slot[message.room.partition if self.cluster else 0].append(index)
        answers: list[Accepted | MessagingError] = [Unavailable()] * len(messages)
        calls = [
            indexes[at : at + APPEND_MOST]
            for indexes in by_slot.values()
            for at in range(0, len(indexes), APPEND_MOST)
        ]
        results = await self.scripts.run(
            [("append", self._append_args([messages[i] for i in call])) for call in calls]
        )
        without_log: list[int] = []
        for call, result in zip(calls, results, strict=True):
            for position, index in enumerate(call):
                answer = result if isinstance(result, MessagingError) else result[position]
                if answer == _NO_LOG:
                    without_log.append(index)
                else:
                    answers[index] = _accepted(answer)
        if without_log:
            try:
                for room in {messages[index].room for index in without_log}:
                    await self.init(room)
            except Unavailable:
                return answers  # those without a log keep that answer; the others were accepted
            again = await self.append([messages[index] for index in without_log])
            for index, accepted in zip(without_log, again, strict=True):
                answers[index] = accepted
        return answers

    def _append_args(self, messages: Sequence[Append]) -> tuple[Any, ...]:
        policy = self.policy
        args: list[Any] = [
            messages[0].room.prefix,
            policy.grace_s * 1000,
            policy.id_life_s * 1000,
            policy.sweep_interval_s * 1000,
        ]
        for message in messages:
            reply_to = "" if message.reply_to is None else message.reply_to
            args += (
                message.room.prefix,
                message.room.id,
                message.user,
                message.name,
                message.id,
                message.body,
                message.ttl_ms,
                _content_hash(message.body, reply_to),
                reply_to,
                "",
            )
        return tuple(args)

    # Reading

    async def read_after(self, user: int, reads: Sequence[Read]) -> list[Slice | OtherEpoch | MessagingError]:
        """Read what a member may see of logs after a seq, in one round trip; with `rev`, also what changed up to there.

        Never returns an expired text. `NotMember` stands in the place of a room that is not the user's.
        """
        calls = [("read_after", self._read_args(user, read)) for read in reads]
        answers = await self.scripts.run(calls)
        for at, answer in enumerate(answers):
            if answer == _NO_LOG:
                await self.init(reads[at].room)
                [answers[at]] = await self.scripts.run([calls[at]])
        return [_slice(answer) for answer in answers]

    def _read_args(self, user: int, read: Read) -> tuple[Any, ...]:
        return (
            read.room.prefix,
            read.room.id,
            user,
            read.epoch,
            read.since,
            "" if read.rev is None else read.rev,
            read.limit,
            BODIES_MOST,
            "0" if read.open_history else "",
            self.policy.sweep_interval_s * 1000,
            self._attempts_most if read.again else "",
        )

    async def history(
        self, room: RoomKey, user: int, *, before: int, limit: int = 50, open_history: bool = False
    ) -> Page:
        """Read the newest `limit` visible messages below `before`, ascending. Raises NotMember."""
        found: list[Stored] = []
        while True:
            answer = await self._in_log(
                "history", room, user, before, limit - len(found), BODIES_MOST, "0" if open_history else ""
            )
            if answer == _NOT_MEMBER:
                raise NotMember()
            epoch, more, messages, before = answer
            found += [_stored(seq, fields) for seq, fields in messages]
            # A long stretch of holes shows nothing: look on below it, so that a page that says `more` has a row to page from.
            if found or not more:
                return Page(_text(epoch), found[::-1], bool(more))

    async def places(self, rooms: Sequence[RoomKey]) -> list[Place | None]:
        """Read the positions of many rooms in one round trip."""
        answers = await self.scripts.pipeline(
            [("HMGET", room.key, "epoch", "top", "rev", "members") for room in rooms]
        )
        return [
            None if fields[0] is None else Place(_text(fields[0]), *map(int, fields[1:]))
            for fields in answers
        ]

    # Acknowledging

    async def acknowledge(self, acks: Sequence[AckRow]) -> list[int]:
        """Raise cursors, a script call a partition. Returns for each 1 moved, 0 not, -5 above top, else ignored."""
        by_partition: defaultdict[int, list[int]] = defaultdict(list)
        for index, ack in enumerate(acks):
            by_partition[ack.room.partition].append(index)
        calls = [
            indexes[at : at + ACKS_MOST]
            for indexes in by_partition.values()
            for at in range(0, len(indexes), ACKS_MOST)
        ]
        results = await self.scripts.run(
            [("acknowledge", _ack_args([acks[i] for i in call])) for call in calls]
        )
        answers = [0] * len(acks)
        for call, result in zip(calls, results, strict=True):
            if isinstance(result, MessagingError):
                raise result
            for position, index in enumerate(call):
                answers[index] = result[position]
        return answers

    async def reject(self, room: RoomKey, user: int, epoch: str, seq: int) -> bool:
        """Note that a client cannot show a message its user owes; False when there is nothing new to note. Idempotent."""
        return bool(await self._run("reject", room, user, epoch, seq, self._attempts_most) == 1)

    async def receipts(
        self, asked: Sequence[tuple[RoomKey, int]]
    ) -> list[tuple[str, list[tuple[int, int, int, int]]]]:
        """Count who holds senders' newest messages: for each (room, sender) its epoch and [(seq, delivered, read, total)]."""
        answers = await self.scripts.run([("receipts", (room.prefix, room.id, user)) for room, user in asked])
        for answer in answers:
            if isinstance(answer, MessagingError):
                raise answer
        return [
            (_text(answer[0]), list(zip(answer[1::4], answer[2::4], answer[3::4], answer[4::4], strict=True)))
            if answer
            else ("", [])
            for answer in answers
        ]

    async def recipients(self, room: RoomKey, seq: int) -> Recipients:
        """Say who holds one live message, those who lack it first, at most 100. Raises NoSuchMessage."""
        answer = await self._in_log("recipients", room, seq, self._attempts_most)
        if answer == -2:
            raise NoSuchMessage()
        (id_, sender, sent_at, expires_at, _now, _only), waiting, holding = answer
        [(_, rows)] = await self.receipts([(room, int(sender))])
        counts = next(
            (row for row in rows if row[0] == seq),
            (seq, len(holding) // 2, 0, len(waiting) // 3 + len(holding) // 2),
        )
        members = [
            _waiting(int(waiting[i]), _text(waiting[i + 1]), _text(waiting[i + 2]))
            for i in range(0, len(waiting), 3)
        ]
        for i in range(0, len(holding), 2):
            state = "read" if int(holding[i + 1]) >= seq else "delivered"
            members.append(Recipient(int(holding[i]), state, 0, None, None))
        return Recipients(
            _text(id_), int(sender), int(sent_at), int(expires_at), counts[3], counts[1], counts[2], members
        )

    # Retrying

    async def owing(
        self, room: RoomKey, epoch: str, users: Sequence[int], *, mark: int | None = None
    ) -> list[Owing]:
        """Say which of `users` owe a live message, at or below `mark` when it is given."""
        answer = await self._run(
            "owing", room, epoch, "" if mark is None else mark, self._attempts_most, *users
        )
        return [
            Owing(int(answer[i]), int(answer[i + 1]), *_counted(_text(answer[i + 2])))
            for i in range(0, len(answer), 3)
        ]

    async def record_attempt(self, room: RoomKey, user: int, expected: int, next_s: float) -> bool:
        """Count one push, if `expected` is still the count; False when somebody else counted first.

        Never asked twice: the second answer would be False for what the first has counted.
        """
        most = self.policy.attempts_max
        args = (room.prefix, room.id, user, expected, int(next_s * 1000), most)
        [answer] = await self.scripts.run([("record_attempt", args)], idempotent=False)
        if isinstance(answer, MessagingError):
            raise answer
        return bool(answer == 1)

    async def claim_lagging(self, token: str, *, most: int = 50, room: RoomKey | None = None) -> list[Claim]:
        """Take the rooms whose look is due, in all partitions or only `room`: a lease, so that a crash makes them due again.

        The same token gets the same rows again, for a reply may be lost.
        """
        policy = self.policy
        numbers = (most, policy.lease_s * 1000, int(policy.ack_timeout_s * 1000))
        partitions = list(range(PARTITIONS)) if room is None else [room.partition]
        claims: list[Claim] = []
        while partitions:
            calls = [
                ("claim_lagging", (partition_prefix(partition), token, *numbers, room.id if room else ""))
                for partition in partitions
            ]
            answers = dict(zip(partitions, _all(await self.scripts.run(calls)), strict=True))
            for partition, (_, *rows) in answers.items():
                for at in range(0, len(rows), 5):
                    name, epoch, mark, oldest, score = map(_text, rows[at : at + 5])
                    claims.append(Claim(RoomKey(name, partition), epoch, int(mark), int(oldest), score))
            # Where nobody lagged in any room looked at, these are gone from the index, and those behind them are due.
            partitions = [
                partition
                for partition, answer in answers.items()
                if room is None and len(answer) == 1 and answer[0] == most
            ]
        return claims

    async def settle_lagging(self, claims: Sequence[Claim]) -> int:
        """Give claimed rooms their next look; return how many were still these claims'."""
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for claim in claims:
            by_partition[claim.room.partition] += (claim.room.id, claim.score)
        interval_ms = self.policy.sweep_interval_s * 1000
        calls = [
            ("settle_lagging", (partition_prefix(partition), interval_ms, *args))
            for partition, args in by_partition.items()
        ]
        return sum(_all(await self.scripts.run(calls)))

    async def active_rooms(self) -> list[tuple[RoomKey, int]]:
        """Return the rooms with something unacknowledged and when each is looked at next (epoch ms), soonest first."""
        commands = [
            ("ZRANGE", f"{partition_prefix(partition)}unacked", 0, -1, "WITHSCORES")
            for partition in range(PARTITIONS)
        ]
        rooms = [
            (RoomKey(_text(answer[at]), partition), int(float(answer[at + 1])))
            for partition, answer in enumerate(await self.scripts.pipeline(commands))
            for at in range(0, len(answer), 2)
        ]
        return sorted(rooms, key=lambda row: row[1])

    async def laggards(self, rooms: Sequence[RoomKey], *, most: int = 100) -> list[Lag | None]:
        """Say how rooms stand, each with at most `most` members who are behind; None where there is no log."""
        answers = _all(await self.scripts.run([("laggards", (room.prefix, room.id, most)) for room in rooms]))
        return [_lag(room, answer) if answer else None for room, answer in zip(rooms, answers, strict=True)]

    # Jobs

    async def beat(self, job: str, facts: Mapping[str, Any]) -> None:
        """Note that a job ran just now, with what it did."""
        now_ms = await self.now_ms()
        await self.scripts.pipeline([("HSET", JOBS_KEY, job, json.dumps({"at": now_ms, **facts}))])

    async def beats(self) -> dict[str, dict[str, Any]]:
        """Return {job: {"at": epoch ms, ...}} of the jobs' last runs."""
        [answer] = await self.scripts.pipeline([("HGETALL", JOBS_KEY)])
        return {_text(answer[at]): json.loads(answer[at + 1]) for at in range(0, len(answer), 2)}

    async def counts(self, unit: Literal["minute", "day"], last: int) -> list[Counts]:
        """Return what was done in the last minutes (48 hours are kept) or days (90), oldest first, the present one included."""
        length_ms, name, share = {"minute": (60_000, "hour", 60), "day": (86_400_000, "days", 30)}[unit]
        newest = await self.now_ms() // length_ms
        oldest = newest - last + 1
        keys = [
            f"{partition_prefix(partition)}counts:{name}:{group}"
            for group in range(oldest // share, newest // share + 1)
            for partition in range(PARTITIONS)
        ]
        sums: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        for at in range(0, len(keys), HASHES_MOST):
            commands = [("HGETALL", key) for key in keys[at : at + HASHES_MOST]]
            for answer in await self.scripts.pipeline(commands):
                for i in range(0, len(answer), 2):
                    moment, _, what = _text(answer[i]).partition("|")
                    sums[int(moment)][what] += int(answer[i + 1])
        return [
            Counts(at=moment * length_ms, **{what: sums[moment][what] for what in COUNTED})
            for moment in range(oldest, newest + 1)
        ]

    async def stored(self, room: RoomKey | None = None) -> int:
        """Count the live messages, of one room or all."""
        if room is not None:
            [count] = await self.scripts.pipeline([("ZCARD", f"{room.key}:live")])
            return int(count)
        commands = [("ZCARD", f"{partition_prefix(partition)}expiring") for partition in range(PARTITIONS)]
        return sum(await self.scripts.pipeline(commands))

    async def memory(self) -> Memory:
        """Read how much memory the store uses, may use, and what it does when that is full."""
        [answer] = await self.scripts.pipeline([("INFO", "memory")])
        facts = dict(line.split(":", 1) for line in _text(answer).splitlines() if ":" in line)
        return Memory(int(facts["used_memory"]), int(facts["maxmemory"]), facts["maxmemory_policy"])

    async def rewrite_log(self) -> None:
        """Ask the store to rewrite its log on disk, so that expired text leaves it."""
        await self.scripts.pipeline([("BGREWRITEAOF",)])

    # Fan-out hints

    async def tell_typing(self, room: RoomKey, user: int) -> None:
        """Publish that `user` types; nothing is stored."""
        await self.scripts.pipeline([("PUBLISH", room.key, f"T {user}")])

    async def change_presence(self, process: str, user: int, online: bool, rooms: Iterable[str]) -> None:
        """Note and publish that a user came to a process or went from it."""
        await self.scripts.pipeline(
            [
                ("SADD" if online else "SREM", f"chat:online:{process}", user),
                ("PUBLISH", PRESENCE_CHANNEL, f"{process} {user} {'+' if online else '-'} {','.join(rooms)}"),
            ]
        )

    async def report_presence(self, process: str, users: Sequence[int], life_s: int) -> None:
        """Write the whole set of a process's users, which counts for `life_s`."""
        key = f"chat:online:{process}"
        until_ms = await self.now_ms() + life_s * 1000
        commands: list[tuple[Any, ...]] = [("DEL", key)]
        commands += [("SADD", key, *users[at : at + INIT_MOST]) for at in range(0, len(users), INIT_MOST)]
        commands += [("EXPIRE", key, life_s), ("ZADD", "chat:online", until_ms, process)]
        await self.scripts.pipeline(commands)

    async def presence(self) -> dict[str, set[int]]:
        """Read {process: users online there} of the processes that still count."""
        now_ms = await self.now_ms()
        _, processes = await self.scripts.pipeline(
            [
                ("ZREMRANGEBYSCORE", "chat:online", "-inf", now_ms),
                ("ZRANGE", "chat:online", 0, -1),
            ]
        )
        sets = await self.scripts.pipeline([("SMEMBERS", f"chat:online:{_text(name)}") for name in processes])
        return {
            _text(name): {int(user) for user in users} for name, users in zip(processes, sets, strict=True)
        }

    async def now_ms(self) -> int:
        """Return the store's clock in epoch ms."""
        [(seconds, microseconds)] = await self.scripts.pipeline([("TIME",)])
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def ping(self) -> None:
        """Raise `Unavailable` unless the store answers; afterwards `life` is known."""
        await self.scripts.pipeline([("PING",)])
        await self.scripts.known()

    # Calls

    @property
    def _attempts_most(self) -> int:
        return min(self.policy.attempts_max, ATTEMPTS_MOST)

    async def _in_log(self, script: str, room: RoomKey, *args: Any) -> Any:
        """Run a script that needs the room's log; make the log when it is missing and run it again."""
        answer = await self._run(script, room, *args)
        if answer != _NO_LOG:
            return answer
        await self.init(room)
        return await self._run(script, room, *args)

    async def _run(self, script: str, room: RoomKey, *args: Any) -> Any:
        [answer] = _all(await self.scripts.run([(script, (room.prefix, room.id, *args))]))
        return answer


_stores: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Store] = weakref.WeakKeyDictionary()


def open_store() -> Store:
    """Return the store of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _stores:
        _stores[loop] = Store(pools.async_client(), policies.current())
    return _stores[loop]


def _all(answers: list[Any]) -> list[Any]:
    """Return the answers; raise the first that is an error."""
    for answer in answers:
        if isinstance(answer, MessagingError):
            raise answer
    return answers


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _content_hash(body: str, reply_to: Any) -> str:
    return hashlib.blake2b(f"{reply_to}|{body}".encode(), digest_size=8).hexdigest()


def _accepted(answer: Any) -> Accepted | MessagingError:
    if isinstance(answer, MessagingError):
        return answer
    if isinstance(answer, int):
        return {_NOT_MEMBER: NotMember, _ID_REUSED: IdReused, _NO_REPLIED_TO: NoSuchMessage}[answer]()
    duplicate = answer.startswith(b"=")
    epoch, seq, sent_at, expires_at, _ = (answer[1:] if duplicate else answer).split(b"|")
    return Accepted(epoch.decode(), int(seq), int(sent_at), int(expires_at), duplicate)


def _standing(answer: list[Any]) -> Standing:
    epoch, *numbers, people = answer
    top, rev, members, delivered, read, joined, unread = map(int, numbers)
    return Standing(
        _text(epoch), top, rev, members, delivered, read, joined, unread, frozenset(map(int, people))
    )


def _ack_args(acks: Sequence[AckRow]) -> tuple[Any, ...]:
    args: list[Any] = [acks[0].room.prefix]
    for ack in acks:
        delivered = "" if ack.delivered is None else ack.delivered
        read = "" if ack.read is None else ack.read
        args += (ack.room.id, ack.epoch, ack.user, delivered, read)
    return tuple(args)


def _slice(answer: Any) -> Slice | OtherEpoch | MessagingError:
    if isinstance(answer, MessagingError):
        return answer
    if answer == _NOT_MEMBER:
        return NotMember()
    if len(answer) == 1:
        return OtherEpoch(_text(answer[0]))
    epoch, top, rev, upto, more, messages, gone, changed = answer
    return Slice(
        _text(epoch),
        top,
        rev,
        upto,
        bool(more),
        [_stored(seq, fields) for seq, fields in messages],
        [(gone[i], _text(gone[i + 1])) for i in range(0, len(gone), 2)],
        [_stored(seq, fields) for seq, fields in changed],
    )


def _stored(seq: int, fields: list[bytes | None]) -> Stored:
    id_, sender, name, body, sent_at, expires_at, reply_to, edited_at, resends = fields
    return Stored(
        seq,
        id_.decode(),  # type: ignore[union-attr]
        int(sender),  # type: ignore[arg-type]
        name.decode(),  # type: ignore[union-attr]
        body.decode(),  # type: ignore[union-attr]
        int(sent_at),  # type: ignore[arg-type]
        int(expires_at),  # type: ignore[arg-type]
        None if reply_to is None else int(reply_to),
        None if edited_at is None else int(edited_at),
        None if resends is None else int(resends),
    )


def _lag(room: RoomKey, answer: list[Any]) -> Lag:
    laggards = [
        Laggard(int(answer[at]), int(answer[at + 1]), *_counted(_text(answer[at + 2])))
        for at in range(4, len(answer), 3)
    ]
    return Lag(room, _text(answer[0]), answer[1], answer[2], int(answer[3] or 0), laggards)


def _counted(attempts: str) -> tuple[int, int]:
    """Return (n, next_at_ms) of an `attempts` value."""
    if not attempts:
        return 0, 0
    n, _first_at, next_at, _reason = attempts.split("|")
    return int(n), int(next_at)


def _waiting(user: int, attempts: str, rejected: str) -> Recipient:
    if rejected:
        return Recipient(user, "waiting", int(rejected), None, "client_rejected")
    if not attempts:
        return Recipient(user, "waiting", 0, None, None)
    n, _first_at, next_at, reason = attempts.split("|")
    if reason != "no_ack":
        return Recipient(user, "waiting", int(n), int(next_at), None)
    return Recipient(user, "waiting", int(n), None, reason)
