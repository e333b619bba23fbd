"""The rate limits of connections and users: token buckets, bad frames, typing hints.

The rate of a user's connections together is divided among the server processes, without a call of the store: each process grants an equal
share of it, but at least the rate of one connection, because all of them may be in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from messaging.errors import RateLimited
from messaging.policy import Policy, Rate
from messaging.protocol import Close

from .connection import Connection

USER_SHARE = 4  # the bucket of a user's connections together is that many times the bucket of one
MAX_REFUSED = 1_000  # frames refused in a row for their rate; then the connection is closed
MINUTE_S = 60
MIN_UNUSED = 1_000  # buckets of users without connections before the full ones are deleted


class Bucket:
    """A token bucket over a monotonic clock in seconds."""

    __slots__ = ("rate", "tokens", "updated_s")

    def __init__(self, rate: Rate, now_s: float) -> None:
        self.rate = rate
        self.tokens = float(rate.burst)
        self.updated_s = now_s

    def is_full(self, now_s: float) -> bool:
        return self.tokens + (now_s - self.updated_s) * self.rate.per_s >= self.rate.burst

    def take(self, now_s: float) -> float:
        """Take a token and return 0; without a token, return the seconds until there is one."""
        self.tokens = min(self.rate.burst, self.tokens + (now_s - self.updated_s) * self.rate.per_s)
        self.updated_s = now_s
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate.per_s


class _Usage:
    """The usage of one connection."""

    __slots__ = ("bad_frames_s", "buckets", "refused", "typed_s")

    def __init__(self) -> None:
        self.buckets: dict[
            str, tuple[Bucket, Bucket]
        ] = {}  # kind -> the connection's bucket, its user's bucket
        self.refused = 0  # frames refused for their rate since the last accepted one
        self.typed_s: dict[str, float] = {}  # room -> time of the last accepted hint
        self.bad_frames_s: list[float] = []  # times of the last bad frames


class Limits:
    """The limits of one process's connections. `processes` returns the number of server processes."""

    def __init__(self, policy: Policy, *, processes: Callable[[], int] = lambda: 1) -> None:
        self.policy = policy
        self._processes = processes
        self._rates = {
            "send": policy.send_rate,
            "history": policy.history_rate,
            "ping": policy.ping_rate,
            "change": policy.change_rate,
        }
        self._usage: dict[Connection, _Usage] = {}
        self._user_buckets: dict[tuple[int, str], Bucket] = {}
        # Of users without connections, until they are full: a user who reconnects does not get new ones.
        self._unused_buckets: dict[tuple[int, str], Bucket] = {}
        self._unused_max = MIN_UNUSED

    def take(self, kind: str, connection: Connection) -> None:
        """Take a token of the connection and a token of its user. Raises RateLimited if there is none."""
        now_s = time.monotonic()
        usage = self._usage.get(connection) or self._new_usage(connection)
        own, shared = usage.buckets.get(kind) or self._new_buckets(usage, kind, connection.user, now_s)
        wait_s = own.take(now_s) or shared.take(now_s)
        if not wait_s:
            usage.refused = 0
            return
        usage.refused += 1
        if usage.refused > MAX_REFUSED:
            connection.close(Close.TOO_MUCH)
        raise RateLimited(retry_after_ms=max(1, int(wait_s * 1000)))

    def _new_usage(self, connection: Connection) -> _Usage:
        usage = self._usage[connection] = _Usage()
        return usage

    def _new_buckets(self, usage: _Usage, kind: str, user: int, now_s: float) -> tuple[Bucket, Bucket]:
        rate = self.policy.rate(self._rates[kind])
        share = max(1.0, USER_SHARE / self._processes())
        user_rate = Rate(rate.per_s * share, int(rate.burst * share))
        key = user, kind
        shared = self._user_buckets.get(key)
        if shared is None:
            shared = self._unused_buckets.pop(key, None) or Bucket(user_rate, now_s)
            self._user_buckets[key] = shared
        shared.rate = user_rate  # the number of processes may have changed
        buckets = usage.buckets[kind] = Bucket(rate, now_s), shared
        return buckets

    def take_typing(self, connection: Connection, room: str) -> bool:
        """Return whether a typing hint may be published: one in `Policy.typing_interval_s`, separately for every room."""
        now_s = time.monotonic()
        usage = self._usage.get(connection) or self._new_usage(connection)
        if now_s - usage.typed_s.get(room, -1e9) < self.policy.typing_interval_s:
            return False
        usage.typed_s[room] = now_s
        return True

    def bad_frame(self, connection: Connection) -> bool:
        """Count a bad frame; return whether the connection has reached the limit within a minute."""
        now_s = time.monotonic()
        usage = self._usage.get(connection) or self._new_usage(connection)
        limit = self.policy.bad_frames_per_minute_max
        usage.bad_frames_s = [*usage.bad_frames_s, now_s][-limit:]
        return len(usage.bad_frames_s) == limit and now_s - usage.bad_frames_s[0] < MINUTE_S

    def forget(self, connection: Connection) -> None:
        """Delete the usage of a connection. Idempotent."""
        self._usage.pop(connection, None)

    def forget_user(self, user: int) -> None:
        """Keep the shared buckets of a user without connections until they are full."""
        for key in ((user, kind) for kind in self._rates):
            bucket = self._user_buckets.pop(key, None)
            if bucket is not None:
                self._unused_buckets[key] = bucket
        if len(self._unused_buckets) > self._unused_max:
            self._delete_full_buckets()

    def _delete_full_buckets(self) -> None:
        now_s = time.monotonic()
        unused = {key: bucket for key, bucket in self._unused_buckets.items() if not bucket.is_full(now_s)}
        self._unused_buckets, self._unused_max = unused, max(MIN_UNUSED, 2 * len(unused))
