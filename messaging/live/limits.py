"""How often a connection and its user may do something: token buckets, one of each for every kind of frame."""

from __future__ import annotations

import time

from messaging.errors import RateLimited
from messaging.policy import Policy, Rate
from messaging.protocol import Close

from .connection import Bucket, Connection

USER_SHARE = 4  # a user's bucket over all connections, in those of one
REFUSED_MOST = 1_000  # frames refused for rate in a row: that is flooding


class Limits:
    """One process's buckets. A connection's own stand on it; those of its user are shared here."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._rates = {
            "send": policy.send_rate,
            "history": policy.history_rate,
            "ping": policy.ping_rate,
            "change": policy.change_rate,
        }
        self._user_buckets: dict[tuple[int, str], Bucket] = {}

    def take(self, kind: str, connection: Connection) -> None:
        """Take a token of the connection and one of its user; raise RateLimited when there is none."""
        now_s = time.monotonic()
        bucket = connection.buckets.get(kind)
        if bucket is None:
            bucket = connection.buckets[kind] = Bucket(self.policy.rate(self._rates[kind]), now_s)
        shared = self._user_buckets.get((connection.user, kind))
        if shared is None:
            rate = self.policy.rate(self._rates[kind])
            together = Rate(rate.per_s * USER_SHARE, rate.burst * USER_SHARE)
            shared = self._user_buckets[connection.user, kind] = Bucket(together, now_s)
        wait_s = bucket.take(now_s) or shared.take(now_s)
        if not wait_s:
            connection.refused = 0
            return
        connection.refused += 1
        if connection.refused > REFUSED_MOST:
            connection.close(Close.TOO_MUCH)
        raise RateLimited(retry_after_ms=max(1, int(wait_s * 1000)))

    def forget_user(self, user: int) -> None:
        """Drop a user's shared buckets once no connection is left."""
        for kind in self._rates:
            self._user_buckets.pop((user, kind), None)
