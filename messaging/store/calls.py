"""Calls of one store: its client, its scripts and its clock. Every part of `Store` uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio

from messaging import policy as policies
from messaging.errors import MessagingError

from .records import RoomKey
from .scripts import Scripts

NO_LOG, NOT_MEMBER, ASK_ALONE = -1, -2, -3  # answers of scripts
MAX_ATTEMPTS = 100  # in an outcome row: a member's row is looked up by every possible number


class Calls:
    """Runs scripts and commands. Raises `Unavailable` if the store cannot be reached or does not answer in time."""

    def __init__(self, client: redis.asyncio.Redis, policy: policies.Policy) -> None:
        self.client = client
        self.policy = policy
        self.scripts = Scripts(client, deadline_s=policy.verb_deadline_s * 0.95)
        # In a Cluster the keys of a script are in one slot. Elsewhere one call for all partitions costs a third less than one each.
        self.cluster = isinstance(client, redis.asyncio.RedisCluster)

    async def now_ms(self) -> int:
        """Return the store's clock in epoch ms."""
        [answer] = await self.scripts.pipeline([("TIME",)])
        return time_ms(answer)

    async def ping(self) -> None:
        """Raise `Unavailable` unless the store answers; afterwards `life` is known."""
        await self.scripts.pipeline([("PING",)])
        await self.scripts.known()

    @property
    def lease_ms(self) -> int:
        return self.policy.lease_s * 1000

    @property
    def max_attempts(self) -> int:
        return min(self.policy.attempts_max, MAX_ATTEMPTS)

    async def run(self, script: str, room: RoomKey, *args: Any) -> Any:
        """Run one script on a room and return its answer."""
        [answer] = checked(await self.scripts.run([(script, (room.prefix, room.id, *args))]))
        return answer


def checked(answers: list[Any]) -> list[Any]:
    """Return the answers; raise the first that is an error."""
    for answer in answers:
        if isinstance(answer, MessagingError):
            raise answer
    return answers


def text(value: bytes | str, *, errors: str = "strict") -> str:
    """Return a value of the store as text."""
    return value.decode(errors=errors) if isinstance(value, bytes) else value


def time_ms(answer: Sequence[bytes]) -> int:
    """Return the answer to TIME in epoch ms."""
    seconds, microseconds = map(int, answer)
    return seconds * 1000 + microseconds // 1000
