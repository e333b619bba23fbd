"""Store marks: a number in each partition, which shows whether the partition has lost data. Also gives the logs of such rooms new epochs.

Every minute the next number is written to the store and then to the database (`messaging.losses`). A partition with a lower number than
the database was emptied or restored from an older copy.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from messaging.models import PARTITIONS

from .calls import NO_LOG, Calls, checked, text
from .members import Members
from .records import Mark, RoomKey, partition_prefix

RENEW_BATCH = 50  # rooms in one round trip


class Marks:
    """The marks of the partitions."""

    def __init__(self, calls: Calls, members: Members) -> None:
        self._calls = calls
        self._members = members

    async def read(self) -> list[Mark]:
        """Return the mark of each partition. A partition without a mark has the number 0."""
        answers = await self._calls.scripts.pipeline(
            [
                ("HMGET", f"{partition_prefix(partition)}mark", "number", "at", "life")
                for partition in range(PARTITIONS)
            ]
        )
        return [Mark(int(number or 0), int(at or 0), text(life or b"")) for number, at, life in answers]

    async def life(self) -> str:
        """Return the present life of the store. `Store.life` may still be that of before a restart."""
        [info] = await self._calls.scripts.pipeline([("INFO", "server")])
        [life] = [line for line in text(info).split() if line.startswith("run_id:")]
        return life.removeprefix("run_id:")

    async def write(self, number: int, life: str) -> None:
        """Write the number and the life to every partition that has a lower number. Works in a full store."""
        calls = [("mark", (partition_prefix(partition), number, life)) for partition in range(PARTITIONS)]
        checked(await self._calls.scripts.run(calls))

    async def renew(self, rooms: Sequence[RoomKey], *, incident: str, safe_ms: int) -> list[bool]:
        """Give the logs of rooms new epochs, once for each incident; return for each room whether this call did it.

        Messages accepted before `safe_ms` (epoch ms) are not lost; 0 if that is unknown. A room without a log gets a log.
        """
        renewed: list[bool] = []
        for start in range(0, len(rooms), RENEW_BATCH):
            batch = rooms[start : start + RENEW_BATCH]
            answers = await self._renew(batch, incident, safe_ms)
            for index, answer in enumerate(answers):
                if answer == NO_LOG:
                    await self._members.create_log(batch[index])
                    [answers[index]] = await self._renew([batch[index]], incident, safe_ms)
            renewed += [answer == 1 for answer in answers]
        return renewed

    async def _renew(self, rooms: Sequence[RoomKey], incident: str, safe_ms: int) -> list[int]:
        return checked(
            await self._calls.scripts.run(
                [("renew", (room.prefix, room.id, incident, secrets.token_hex(4), safe_ms)) for room in rooms]
            )
        )
