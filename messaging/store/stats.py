"""The last runs of the jobs, counts of events, and the store's memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from redis.exceptions import RedisError

from messaging.models import PARTITIONS

from .calls import Calls, checked, text
from .records import Counts, Memory, MessageTotals, RoomKey, partition_prefix

COUNTED = frozenset(field.name for field in dataclasses.fields(Counts)) - {"at"}
HASH_BATCH = 256  # whole hashes read in one round trip
FIELD_BATCH = 6_000  # single fields read in one round trip: it takes 2 ms
DAY_MS = 86_400_000
JOBS_KEY = "chat:jobs"

_Field = tuple[str, int | str, str]  # the hash's name; minute, day or `all`; event
_Sums = defaultdict[tuple[str, str], int]


class Stats:
    """The jobs' last runs, counts of events and messages, memory, and the store's log on disk."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def beat(self, job: str, facts: Mapping[str, Any]) -> None:
        """Record that a job ran now, with its results. Works in a full store. Raises Unavailable."""
        checked(await self._calls.scripts.run([("beat", (JOBS_KEY, job, json.dumps(facts)))]))

    async def beats(self) -> dict[str, dict[str, Any]]:
        """Return {job: {"at": epoch ms, ...}} of the jobs' last runs."""
        [answer] = await self._calls.scripts.pipeline([("HGETALL", JOBS_KEY)])
        return {text(answer[i]): json.loads(answer[i + 1]) for i in range(0, len(answer), 2)}

    async def counts(
        self, unit: Literal["minute", "day"], last: int, *, only: Collection[str] = COUNTED
    ) -> list[Counts]:
        """Return the counts of the last minutes (48 hours are kept) or days (90), oldest first, including the present one.

        With `only`, read only these events, which is faster.
        """
        length_ms, name, share = {"minute": (60_000, "hour", 60), "day": (DAY_MS, "days", 30)}[unit]
        newest = await self._calls.now_ms() // length_ms
        moments = range(newest - last + 1, newest + 1)
        if len(only) == len(COUNTED):
            groups = range(moments[0] // share, newest // share + 1)
            sums = await self._whole_hashes(f"{name}:{group}" for group in groups)
        else:
            sums = await self._fields(
                [(f"{name}:{moment // share}", moment, event) for moment in moments for event in only]
            )
        return [
            Counts(at=moment * length_ms, **{event: sums[str(moment), event] for event in only})
            for moment in moments
        ]

    async def last_day(self, only: Collection[str]) -> Counts:
        """Return the counts of the last 24 hours, exact to the minute: the whole hours from the sums of the hours."""
        now_ms = await self._calls.now_ms()
        first = now_ms // 60_000 - 1_439
        hours = range(-(-first // 60), now_ms // 3_600_000 + 1)
        fields: list[_Field] = [
            (f"hour:{minute // 60}", minute, event)
            for minute in range(first, 60 * hours[0])
            for event in only
        ]
        for event in only:
            fields += [(f"hour:{hour}", "all", event) for hour in hours]
        sums = await self._fields(fields)
        counts = dict.fromkeys(only, 0)
        for (_, event), number in sums.items():
            counts[event] += number
        return Counts(at=first * 60_000, **counts)

    async def _whole_hashes(self, names: Iterable[str]) -> _Sums:
        keys = [
            f"{partition_prefix(partition)}counts:{name}" for name in names for partition in range(PARTITIONS)
        ]
        sums: _Sums = defaultdict(int)
        for start in range(0, len(keys), HASH_BATCH):
            commands = [("HGETALL", key) for key in keys[start : start + HASH_BATCH]]
            for answer in await self._calls.scripts.pipeline(commands):
                for i in range(0, len(answer), 2):
                    moment, _, event = text(answer[i]).partition("|")
                    sums[moment, event] += int(answer[i + 1])
        return sums

    async def _fields(self, requests: Iterable[_Field]) -> _Sums:
        """Return {(moment, event): number}, each the sum of a field over all partitions."""
        by_name: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, moment, event in requests:
            by_name[name].append((str(moment), event))
        sums: _Sums = defaultdict(int)
        for name, fields in by_name.items():
            words = [f"{moment}|{event}" for moment, event in fields]
            at_once = max(1, FIELD_BATCH // len(words))
            for first in range(0, PARTITIONS, at_once):
                partitions = range(first, min(first + at_once, PARTITIONS))
                commands = [
                    ("HMGET", f"{partition_prefix(partition)}counts:{name}", *words)
                    for partition in partitions
                ]
                for answer in await self._calls.scripts.pipeline(commands):
                    for field, number in zip(fields, answer, strict=True):
                        if number is not None:
                            sums[field] += int(number)
        return sums

    async def message_totals(self, days: int) -> MessageTotals:
        """Return the totals of the last days, including today. All numbers are read at one moment, so that their sum is right."""
        newest = await self._calls.now_ms() // DAY_MS
        oldest = newest - days + 1
        events = ("accepted", "held", "deleted")
        commands: list[tuple[Any, ...]] = []
        for partition in range(PARTITIONS):
            prefix = partition_prefix(partition)
            commands += [("ZCARD", f"{prefix}expiring"), ("ZCARD", f"{prefix}over")]
            for group in range(oldest // 30, newest // 30 + 1):
                wanted = range(max(oldest, group * 30), min(newest, group * 30 + 29) + 1)
                fields = [f"{day}|{event}" for event in events for day in wanted]
                commands.append(("HMGET", f"{prefix}counts:days:{group}", *fields))
        answers = await self._at_one_moment(commands)
        live, sums = 0, dict.fromkeys(events, 0)
        for command, answer in zip(commands, answers, strict=True):
            if command[0] == "ZCARD":
                live += -answer if command[1].endswith("over") else answer
                continue
            length = len(answer) // len(events)
            for i, event in enumerate(events):
                sums[event] += sum(map(int, filter(None, answer[i * length : (i + 1) * length])))
        return MessageTotals(since=oldest * DAY_MS, live=live, **sums)

    async def accepted_by_day(self, days: int) -> dict[int, int]:
        """Return {day since 1970: messages accepted} of the last days, including today."""
        newest = await self._calls.now_ms() // DAY_MS
        moments = range(newest - days + 1, newest + 1)
        sums = await self._fields([(f"days:{day // 30}", day, "accepted") for day in moments])
        return {int(day): number for (day, _), number in sums.items()}

    async def _at_one_moment(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if self._calls.cluster:  # a transaction cannot include several partitions there
            return await self._calls.scripts.pipeline(commands)
        answers: list[Any] = (await self._calls.scripts.pipeline([("MULTI",), *commands, ("EXEC",)]))[-1]
        return answers

    async def count_messages(self, room: RoomKey | None = None) -> int:
        """Count the live messages, in one room or in all rooms."""
        if room is not None:
            [count] = await self._calls.scripts.pipeline([("ZCARD", f"{room.key}:live")])
            return int(count)
        prefixes = [partition_prefix(partition) for partition in range(PARTITIONS)]
        counts = await self._calls.scripts.pipeline(
            [("ZCARD", f"{prefix}{name}") for name in ("expiring", "over") for prefix in prefixes]
        )
        return int(sum(counts[:PARTITIONS]) - sum(counts[PARTITIONS:]))

    async def memory(self) -> Memory:
        """Read the store's memory and whether it writes to disk."""
        [answer] = await self._calls.scripts.pipeline([("INFO", "memory", "persistence")])
        return Memory.from_info(dict(line.split(":", 1) for line in text(answer).splitlines() if ":" in line))

    async def rewrite_log(self) -> None:
        """Make the store rewrite its log on disk and clear its lists of slow and large calls, to remove expired texts from all three."""
        await self._calls.scripts.pipeline([("BGREWRITEAOF",), ("SLOWLOG", "RESET")])
        with contextlib.suppress(RedisError):  # Valkey 8.1 and later have this list
            await self._calls.client.execute_command("COMMANDLOG", "RESET", "large-request")  # type: ignore[no-untyped-call]
