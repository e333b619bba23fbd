"""How the whole site stands, in figures: what the staff's front page says, from the store and the database.

The account: each message accepted in the last days is with everyone, on its way, missed and told, or deleted; each of these is
counted where it is kept, none is derived, so that what is left over has really been lost. Counts only, no name and no text.

Whoever looks within 4 s sees the same figures, so that many who look cost as much as one. Of rooms in which somebody lags about a
thousand are looked at, a few at a time, so that the chat does not wait.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from datetime import datetime, timedelta

from django.utils import timezone

from messaging import policy as policies
from messaging.bridge import run_verb
from messaging.errors import Unavailable
from messaging.models import DeadLetter, Membership, Room, moment
from messaging.store import Store, open_store
from messaging.store.records import Counts, Memory, MessageTotals, Overdue

from .status import Owed, owed

KEPT_S = 4.0
DAYS_SHOWN = 30
ROOMS_MOST = 1_000
MEMBERS_MOST = 100  # of a room, furthest behind first
ROOMS_AT_ONCE = 25  # in one round trip, whose scripts nothing comes between
SHOWN = ("accepted", "delivered", "expired_missed")  # in the charts
ENDED = ("expired", "expired_missed")
DAY_S = 86_400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of the messages accepted in the last `days`. `on_the_way` is at least so much where `cut`.

    `dropped`: dead letters went because there were too many, so that the account cannot be closed.
    """

    days: int
    accepted: int
    with_everyone: int
    on_the_way: int
    missed: int
    deleted: int
    cut: bool = False
    dropped: bool = False

    @property
    def unaccounted(self) -> int:
        """Below 0 while messages are being reported: they are missed already and not yet gone from the store."""
        return self.accepted - self.with_everyone - self.on_the_way - self.missed - self.deleted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the store tells. `beat_at`: epoch ms of a job's last run, None when none ever ran."""

    now_ms: int
    fates: MessageTotals
    owed: Owed
    online: int
    processes: int
    beat_at: int | None
    memory: Memory
    overdue: Overdue
    last_day: Counts
    minutes: list[Counts]
    days: list[Counts]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the database tells. `missed` of the messages accepted since the account begins."""

    letters: int
    letters_open: int
    missed: int
    missed_last_day: int
    rooms: int
    memberships: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything, as of `at`; `told` and `account` are None while the store cannot be reached."""

    at: datetime
    recorded: Recorded
    told: Told | None
    account: Account | None


def figures() -> Figures:
    """Return the figures, at most 4 s old."""
    return _kept.figures()


class _Kept:
    """The last figures of this process; whoever comes while they are counted waits for them."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._last: Figures | None = None
        self._until_mono_s = 0.0

    def figures(self) -> Figures:
        with self._counting:
            if self._last is None or time.monotonic() >= self._until_mono_s:
                self._last = count()
                self._until_mono_s = time.monotonic() + KEPT_S
            return self._last


_kept = _Kept()


def count() -> Figures:
    """Count everything now. Never raises for a store that is away."""
    try:
        told = run_verb(_ask)
    except Unavailable:
        told = None
    at = moment(told.now_ms) if told else timezone.now()
    # The database comes last: what moves from the store to it meanwhile is counted twice, and never not at all.
    recorded = _recorded(at, moment(told.fates.since) if told else at - timedelta(days=account_days()))
    account = _account(told, recorded) if told else None
    return Figures(at=at, recorded=recorded, told=told, account=account)


def account_days() -> int:
    """Return over how many days the account goes: every life has ended in that time, and two days for its report."""
    return max(DAYS_SHOWN, -(-policies.current().ttl_max_s // DAY_S) + 2)


async def _ask() -> Told:
    store = open_store()
    presence = await store.presence.online()
    online = set().union(*presence.values())
    owing = await owed(store, online, rooms_most=ROOMS_MOST, members_most=MEMBERS_MOST, at_once=ROOMS_AT_ONCE)
    return Told(
        now_ms=await store.now_ms(),
        fates=await store.stats.message_totals(account_days()),
        owed=owing,
        online=len(online),
        processes=len(presence),
        beat_at=await _beat_at(store),
        memory=await store.stats.memory(),
        overdue=await store.expiry.overdue(),
        last_day=await store.stats.last_day(ENDED),
        minutes=(await store.stats.counts("minute", 61, only=SHOWN))[
            :-1
        ],  # a minute begun looks like an outage
        days=await store.stats.counts("day", DAYS_SHOWN, only=SHOWN),
    )


async def _beat_at(store: Store) -> int | None:
    return max((int(beat["at"]) for beat in (await store.stats.beats()).values()), default=None)


def _recorded(at: datetime, since: datetime) -> Recorded:
    letters = DeadLetter.objects.all()
    return Recorded(
        letters=letters.count(),
        letters_open=letters.filter(state=DeadLetter.State.OPEN).count(),
        missed=letters.filter(expired_at__gte=since, sent_at__gte=since).count(),
        missed_last_day=letters.filter(expired_at__gt=at - timedelta(days=1)).count(),
        rooms=Room.objects.count(),
        memberships=Membership.objects.filter(leaving_at=None).count(),
    )


def _account(told: Told, recorded: Recorded) -> Account:
    fates = told.fates
    # Members come and go between two looks at a room: the way is never longer than what lives.
    on_the_way = min(told.owed.on_the_way, fates.live)
    return Account(
        days=account_days(),
        accepted=fates.accepted,
        with_everyone=fates.held + fates.live - on_the_way,
        on_the_way=on_the_way,
        missed=recorded.missed,
        deleted=fates.deleted,
        cut=told.owed.rooms_left_out > 0,
        dropped=recorded.letters >= policies.current().dead_letter_count,
    )
