"""The numbers of the product and their arithmetic: lifetimes, limits, backoff. No clock and no I/O.

`settings.MESSAGING` overrides fields of `Policy` by their names. `problems` returns a sentence for each invalid value, for the system
check. docs/protocol.md states many of the defaults; a test compares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

import msgspec
from django.conf import settings
from msgspec import Meta

from .errors import BadSetting, BadTtl

DAY_S = 86_400
MAX_TTL_S = 10 * 365 * DAY_S  # the record of a message's id has room for three times this

Count = Annotated[int, Meta(ge=1, lt=10**12)]
CountOrZero = Annotated[int, Meta(ge=0, lt=10**12)]
Ttl = Annotated[int, Meta(ge=1, le=MAX_TTL_S)]
Number = Annotated[float, Meta(gt=0, lt=1e12)]


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: it gets `per_s` tokens a second and holds at most `burst` tokens."""

    per_s: Number
    burst: Count


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers, each with its unit in its name and its bounds in its type."""

    # Lifetimes
    ttl_default_s: Count = 3_600
    ttl_min_s: Count = 10
    ttl_max_s: Ttl = 28 * DAY_S
    grace_s: Count = DAY_S  # a fallback: Redis deletes the Hash this long after the message's expiry
    dead_letter_retention_s: CountOrZero = 7 * DAY_S  # 0 keeps metadata only
    dead_letter_days: Count = 90
    dead_letter_count: Count = 100_000

    # Limits of the contract
    body_max: Count = 4_000  # code points
    frame_max: Count = 65_536  # bytes from a client
    answer_max: Count = 262_144  # bytes of one answer to a client
    frames_in_array_max: Count = 100
    rooms_in_hello_max: Count = 500
    id_life_s: Count = DAY_S
    unsent_max: Count = 1_000  # messages waiting in the process for one socket
    unsent_bytes_max: Count = 524_288  # bytes of all its waiting frames: above, no messages and requests
    unsent_bytes_to_close: Count = 4_194_304  # above this the socket is closed
    memory_per_user_max: Count = 16_777_216  # bytes waiting for all sockets of a user in a process
    memory_max: Count = 268_435_456  # bytes waiting for all sockets of a process
    connections_per_user_max: Count = 20
    bad_frames_per_minute_max: Count = 10
    refused_frames_per_minute_max: Count = 2_000  # frames of one connection with a final error
    hello_timeout_s: Number = 10.0
    presence_members_max: Count = 100
    reads_waiting_max: Count = 32  # reads of one connection that may wait for one another

    # Retry
    ack_timeout_s: Number = 5.0  # how long a pushed message may be unacknowledged before it is checked
    backoff_cap_s: Number = 60.0
    attempts_max: Count = 8
    silences_to_close: Count = 3
    position_interval_s: Number = 30.0
    recheck_interval_s: Number = 60.0  # memberships and sessions are read again after this
    sweep_interval_s: Count = 60
    lease_s: Count = 30
    claim_delay_s: Count = 5  # between expiry and its processing: acknowledgements may arrive late
    claim_max: Count = 500  # rows of one claim or read
    job_deadline_s: Number = 40.0
    recovery: bool = (
        True  # the repair of lost messages; without it the drill must report a loss, which tests the drill
    )

    # Memory of the store
    memory_shared_from: Number = 0.9  # part of its limit; above it, the users who sent most are refused
    memory_interval_s: Number = 5.0  # between two reads of its use

    # Pace
    ack_flush_s: Number = 0.1  # the acknowledgements of a process are written together
    receipt_interval_s: Number = 1.0
    verb_deadline_s: Number = 4.0
    stuck_send_s: Number = 15.0  # a socket is closed when one send takes longer

    # Rates of one connection; a user's connections together have four times as much (`live.limits`). The wire contract guarantees for
    # `send` at least 50/s and a burst of 300.
    rate_limit_scale: Number = 1.0
    send_rate: Rate = Rate(50, 300)
    history_rate: Rate = Rate(20, 100)
    change_rate: Rate = Rate(10, 100)  # edit, delete, extend, resend, reject, dismiss
    ping_rate: Rate = Rate(10, 100)
    typing_interval_s: Number = 3.0
    # WebSocket frames of all kinds, also control frames and fragments; 8 KiB more count as another frame. The other rates, with the
    # longest texts in the longest encoding, and an `ack`, a `sync` and a hint for each of 500 rooms are at most 650/s and a burst of 4,000.
    frame_rate: Rate = Rate(1_000, 5_000)

    # Rates of one user over HTTP, in all server processes together
    write_rate: Rate = Rate(2, 200)  # requests that change something
    membership_rate: Rate = Rate(
        2_000 / DAY_S, 2_000
    )  # memberships that the user makes, for others and for themselves
    added_rate: Rate = Rate(200 / DAY_S, 200)  # rooms into which others put the user

    # Rooms of one user
    rooms_max: Count = 5_000
    rooms_by_others_max: Count = 1_000  # of these, rooms into which others put the user
    put_back_interval_s: Count = DAY_S  # how often a user who left a room may be put back into it

    def ttl(self, asked_s: int | None, *, room_s: int, room_max_s: int) -> int:
        """Return the lifetime of a message in seconds; `asked_s` None gets the room's default. Raises BadTtl with the bounds."""
        longest_s = min(room_max_s, self.ttl_max_s)
        if asked_s is None:
            return max(self.ttl_min_s, min(room_s, longest_s))
        if not self.ttl_min_s <= asked_s <= longest_s:
            raise BadTtl(f"A lifetime here is between {self.ttl_min_s} and {longest_s} seconds.")
        return asked_s

    def bound_s(self, attempt: int) -> float:
        """Return the longest wait in seconds before attempt number `attempt` (from 1).

        With the defaults: 5, 10, 20, 40, 60, 60, 60, 60.
        """
        return float(min(self.backoff_cap_s, self.ack_timeout_s * 2.0 ** (attempt - 1)))

    def wait_s(self, attempt: int, jitter: float) -> float:
        """Return a wait between half the bound and the bound; `jitter` is in [0, 1).

        With the defaults and jitter 0: 5, 5, 10, 20, 30, 30 ...; none is under `ack_timeout_s`.
        """
        bound_s = self.bound_s(attempt)
        return max(self.ack_timeout_s, bound_s * (0.5 + 0.5 * jitter))

    def rate(self, rate: Rate) -> Rate:
        """Return `rate` multiplied by `rate_limit_scale`."""
        return Rate(rate.per_s * self.rate_limit_scale, max(1, int(rate.burst * self.rate_limit_scale)))


ORDERED = (
    ("ttl_min_s", "ttl_default_s"),
    ("ttl_default_s", "ttl_max_s"),
    ("ack_timeout_s", "backoff_cap_s"),
    ("lease_s", "sweep_interval_s"),
    ("answer_max", "unsent_bytes_max"),
    ("unsent_bytes_max", "unsent_bytes_to_close"),
    ("unsent_bytes_to_close", "memory_per_user_max"),
    ("memory_per_user_max", "memory_max"),
)


def read(values: Mapping[str, Any]) -> Policy:
    """Return the policy with `values` in place of defaults. Raises `BadSetting`, which names every problem."""
    fields, sentences = _validate(values)
    if sentences:
        raise BadSetting(" ".join(sentences))
    return Policy(**fields)


def problems(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each invalid value of `settings.MESSAGING`."""
    return _validate(values)[1]


def _validate(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    types = _types()
    fields: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Policy)}
    sentences = []
    for name, value in values.items():
        if name not in types:
            sentences.append(
                f"MESSAGING[{name!r}] is not a setting; the fields of messaging.policy.Policy are."
            )
            continue
        # A `Rate` as a dict: msgspec does not check the bounds of an existing object.
        plain = dataclasses.asdict(value) if isinstance(value, Rate) else value
        try:
            fields[name] = msgspec.convert(plain, types[name])
        except msgspec.ValidationError as error:
            reason = str(error).replace("Expected `object`", "Expected `Rate`").replace(" - at `$.", " in `")
            sentences.append(f"MESSAGING[{name!r}] is {value!r}: {reason[0].lower()}{reason[1:]}.")
    sentences += [
        f"MESSAGING[{low!r}] must not be above MESSAGING[{high!r}]."
        for low, high in ORDERED
        if fields[low] > fields[high]
    ]
    return fields, sentences


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(Policy, include_extras=True)


@cache
def current() -> Policy:
    """Return the site's policy; `settings.MESSAGING` is read at the first call."""
    return read(settings.MESSAGING)
