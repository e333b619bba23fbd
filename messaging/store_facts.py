"""What the store tells of itself and of the jobs: heartbeats, counts, memory. A part of `store`."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

from .models import PARTITIONS
from .records import Counts, Memory, RoomKey, partition_prefix
from .store_rooms import Rooms, text

COUNTED = frozenset(field.name for field in dataclasses.fields(Counts)) - {"at"}
HASHES_MOST = 256  # read in one round trip
JOBS_KEY = "chat:jobs"


class Facts(Rooms):
    """Heartbeats, counts, memory, the log on disk."""

    async def beat(self, job: str, facts: Mapping[str, Any]) -> None:
        """Note that a job ran just now, with what it did."""
        now_ms = await self.now_ms()
        await self.scripts.pipeline([("HSET", JOBS_KEY, job, json.dumps({"at": now_ms, **facts}))])

    async def beats(self) -> dict[str, dict[str, Any]]:
        """Return {job: {"at": epoch ms, ...}} of the jobs' last runs."""
        [answer] = await self.scripts.pipeline([("HGETALL", JOBS_KEY)])
        return {text(answer[at]): json.loads(answer[at + 1]) for at in range(0, len(answer), 2)}

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
                    moment, _, what = text(answer[i]).partition("|")
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
        facts = dict(line.split(":", 1) for line in text(answer).splitlines() if ":" in line)
        return Memory(int(facts["used_memory"]), int(facts["maxmemory"]), facts["maxmemory_policy"])

    async def rewrite_log(self) -> None:
        """Ask the store to rewrite its log on disk and to forget its list of slow calls, so that expired text leaves both."""
        await self.scripts.pipeline([("BGREWRITEAOF",), ("SLOWLOG", "RESET")])
