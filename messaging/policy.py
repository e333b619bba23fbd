"""The product's numbers and the arithmetic over them: lifetimes, limits, backoff. Pure: no clock, no I/O.

`settings.MESSAGING` overrides any field of `Policy` by its name; it is read once, here only. `problems` says what is nonsense,
for the system check. Defaults that the contract fixes (docs/protocol.md) are marked so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from django.conf import settings

from .errors import BadSetting, BadTtl

DAY_S = 86_400
TTL_LONGEST_S = 10 * 365 * DAY_S  # what is kept of a message's id has room for no more than thrice that


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `per_s` tokens a second, at most `burst` saved up."""

    per_s: float
    burst: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Each number with its unit in its name."""

    # Lifetimes
    ttl_default_s: int = 3_600
    ttl_min_s: int = 10
    ttl_max_s: int = 28 * DAY_S
    grace_s: int = DAY_S  # the Hash outlives the message by this, as a back-stop
    dead_letter_retention_s: int = 7 * DAY_S  # 0 keeps metadata only
    dead_letter_days: int = 90
    dead_letter_count: int = 100_000

    # Limits of the contract
    body_max: int = 4_000  # code points
    frame_max: int = 65_536  # bytes from a client
    answer_max: int = 262_144  # bytes of one answer to a client
    frames_in_array_max: int = 100
    rooms_in_hello_max: int = 500
    id_life_s: int = DAY_S
    unsent_max: int = 1_000  # messages waiting in the process for one socket
    connections_per_user_max: int = 20
    bad_frames_per_minute_max: int = 10
    hello_timeout_s: float = 10.0
    presence_members_max: int = 100
    reads_waiting_max: int = 32  # reads of one connection that may wait for each other

    # Retry
    ack_timeout_s: float = 5.0  # a pushed message unacknowledged this long is silence
    backoff_cap_s: float = 60.0
    attempts_max: int = 8
    silences_to_close: int = 3
    position_interval_s: float = 30.0
    recheck_interval_s: float = 60.0  # memberships and sessions are read again
    sweep_interval_s: int = 60
    lease_s: int = 30
    claim_delay_s: int = 5  # acknowledgements may be in flight at expiry
    claim_max: int = 500  # rows looked at per claim or read
    job_deadline_s: float = 40.0
    recovery: bool = True  # repair of lost messages; the drill switches it off to prove that it sees a loss

    # Pace
    ack_flush_s: float = 0.1  # acks of a process settle together
    receipt_interval_s: float = 1.0
    verb_deadline_s: float = 4.0
    stuck_send_s: float = 15.0  # a socket whose one send takes longer is gone

    # Rates per connection; per user four times that. The contract's floor for `send` is per user: 50/s, burst 300.
    rate_limit_scale: float = 1.0
    send_rate: Rate = Rate(50, 300)
    history_rate: Rate = Rate(20, 100)
    change_rate: Rate = Rate(10, 100)  # edit, delete, extend, resend, reject, dismiss
    ping_rate: Rate = Rate(10, 100)
    typing_interval_s: float = 3.0

    def ttl(self, asked_s: int | None, *, room_s: int, room_max_s: int) -> int:
        """Return the lifetime in seconds of a message; `BadTtl` names the bounds when what was asked is outside them."""
        longest_s = min(room_max_s, self.ttl_max_s)
        if asked_s is None:
            return max(self.ttl_min_s, min(room_s, longest_s))
        if not self.ttl_min_s <= asked_s <= longest_s:
            raise BadTtl(f"A lifetime here is between {self.ttl_min_s} and {longest_s} seconds.")
        return asked_s

    def bound_s(self, attempt: int) -> float:
        """Return the longest wait in seconds before silence counts for the `attempt`-th time (from 1).

        With the defaults: 5, 10, 20, 40, 60, 60, 60, 60.
        """
        return float(min(self.backoff_cap_s, self.ack_timeout_s * 2.0 ** (attempt - 1)))

    def wait_s(self, attempt: int, jitter: float) -> float:
        """Return the wait drawn from the upper half of the bound; `jitter` in [0, 1).

        With the defaults and jitter 0: 5, 5, 10, 20, 30, 30 ...; none is under `ack_timeout_s`.
        """
        bound_s = self.bound_s(attempt)
        return max(self.ack_timeout_s, bound_s * (0.5 + 0.5 * jitter))

    def rate(self, rate: Rate) -> Rate:
        """Return `rate` as this installation scales it."""
        return Rate(rate.per_s * self.rate_limit_scale, max(1, int(rate.burst * self.rate_limit_scale)))


def read(values: Mapping[str, Any]) -> Policy:
    """Return the policy that `values` ask for; `BadSetting` says every problem."""
    found = list(problems(values))
    if found:
        raise BadSetting(" ".join(found))
    return Policy(**values)


def problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each value of `settings.MESSAGING` that cannot work."""
    known = {field.name: field for field in dataclasses.fields(Policy)}
    for name, value in values.items():
        if name not in known:
            yield f"MESSAGING[{name!r}] is no setting; the known ones are the fields of messaging.policy.Policy."
            continue
        yield from _problem(name, value, known[name].default)
    if not set(values) <= set(known):
        return
    yield from _contradictions({name: values.get(name, field.default) for name, field in known.items()})


def _problem(name: str, value: Any, default: Any) -> Iterator[str]:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            yield f"MESSAGING[{name!r}] must be True or False, not {value!r}."
        return
    if isinstance(default, Rate):
        if not isinstance(value, Rate) or not value.per_s > 0 or value.burst < 1:
            yield f"MESSAGING[{name!r}] must be a Rate with per_s > 0 and burst >= 1, not {value!r}."
        return
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        yield f"MESSAGING[{name!r}] must be a {'whole ' if whole else ''}number, not {value!r}."
        return
    if not 0 <= value < 10**12 or (value == 0 and name != "dead_letter_retention_s"):
        yield f"MESSAGING[{name!r}] must be above 0, not {value!r}."


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    numbers = {
        name: value for name, value in values.items() if isinstance(value, (int, float)) and value == value
    }
    if numbers.get("ttl_max_s", 0) > TTL_LONGEST_S:
        yield f"MESSAGING['ttl_max_s'] must not be above {TTL_LONGEST_S}, ten years."
    pairs = [
        ("ttl_min_s", "ttl_default_s"),
        ("ttl_default_s", "ttl_max_s"),
        ("ack_timeout_s", "backoff_cap_s"),
        ("lease_s", "sweep_interval_s"),
    ]
    for low, high in pairs:
        if low in numbers and high in numbers and numbers[low] > numbers[high]:
            yield f"MESSAGING[{low!r}] must not be above MESSAGING[{high!r}]."


@cache
def current() -> Policy:
    """Return the site's policy; `settings.MESSAGING` is read at the first call."""
    return read(settings.MESSAGING)
