"""The figures of the whole site for the staff's front page, from the store and the database.

The account: every message that was accepted in the last days is with everyone, on the way, missed and reported, or deleted. Each of
these numbers is counted where the messages are stored; none is derived from the others. So a remainder is really lost. Figures have
no names and no text.

All readers within 4 s get the same figures, so the cost does not grow with the number of readers. At most 1,000 rooms with lagging
members are read, a few at a time, so that the chat does not wait.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from datetime import datetime, timedelta

from django.utils import timezone

from messaging import losses
from messaging import policy as policies
from messaging.bridge import run_async
from messaging.errors import Unavailable
from messaging.losses import LossFigures
from messaging.models import DeadLetter, Membership, Room, moment
from messaging.store import open_store
from messaging.store.records import Counts, Memory, MessageTotals, Overdue

from . import disk, faults
from .faults import Fault, fault
from .status import TotalDebt, last_runs, total_debt

MAX_AGE_S = 4.0
DAYS_SHOWN = 30
LOSS_DAYS = 7  # a loss of the store is a fault for these days
MAX_ROOMS = 1_000
MAX_MEMBERS = 100  # members of a room, those furthest behind first
ROOM_BATCH = 25  # rooms in one round trip; the store answers others only after it
SHOWN = ("accepted", "delivered", "expired_missed")  # counts in the charts
ENDED = ("expired", "expired_missed")
DAY_S = 86_400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The messages accepted in the last `days`, by their state. If `cut`, `on_the_way` is a minimum.

    `dropped`: there were too many dead letters and some were deleted, so that `unaccounted` includes reported messages.
    `lost_by_store`: an estimate of the messages that the store lost together with their counts.
    """

    days: int
    accepted: int
    with_everyone: int
    on_the_way: int
    missed: int
    deleted: int
    lost_by_store: int = 0
    cut: bool = False
    dropped: bool = False

    @property
    def unaccounted(self) -> int:
        """The remainder. Below 0 while messages are being reported: they count as missed, and the store still has them."""
        remainder = self.accepted - self.with_everyone - self.on_the_way - self.missed - self.deleted
        return remainder + self.lost_by_store

    @property
    def lost(self) -> int:
        """The messages that are certainly lost."""
        return self.lost_by_store if self.dropped else max(0, self.unaccounted)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """Figures from the store. `runs`: {job: epoch ms of its last run}."""

    now_ms: int
    totals: MessageTotals
    debt: TotalDebt
    online: int
    processes: int
    runs: dict[str, int]
    memory: Memory
    overdue: Overdue
    last_day: Counts
    minutes: list[Counts]
    days: list[Counts]

    @property
    def last_run_at(self) -> int | None:
        """Epoch ms of the last run of any job, None if none ever ran."""
        return max(self.runs.values(), default=None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFigures:
    """Figures from the database. `missed` and `lost_by_store`: only in the days of the account."""

    letters: int
    letters_open: int
    missed: int
    missed_last_day: int
    lost_by_store: int
    losses: LossFigures
    rooms: int
    memberships: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All figures as of `at`. `store` and `account` are None while the store cannot be reached.

    `disk_free_bytes`: on the disk of DATA_DIR, None if there is no such directory.
    """

    at: datetime
    database: DatabaseFigures
    store: StoreFigures | None
    account: Account | None
    disk_free_bytes: int | None

    def faults(self) -> list[Fault]:
        """Return the faults, the worst first."""
        store, account = self.store, self.account
        if store is None or account is None:
            return [*faults.of_disk(self.disk_free_bytes), fault("store_unreachable")]
        return faults.worst_first(
            [
                *faults.of_losses(self.database.losses),
                *faults.of_disk(self.disk_free_bytes),
                *faults.of_account(account.lost),
                *faults.of_memory(store.memory),
                *faults.of_worker(store.runs, store.now_ms, recovery=policies.current().recovery),
                *faults.of_expiry(store.runs, store.overdue, store.now_ms),
            ]
        )


def figures() -> Figures:
    """Return figures that are at most 4 s old."""
    return _kept.figures()


class _Kept:
    """The last figures of this process. Callers wait while they are being counted."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._last: Figures | None = None
        self._until_mono_s = 0.0

    def figures(self) -> Figures:
        with self._counting:
            if self._last is None or time.monotonic() >= self._until_mono_s:
                self._last = count()
                self._until_mono_s = time.monotonic() + MAX_AGE_S
            return self._last


_kept = _Kept()


def count() -> Figures:
    """Count everything now. If the store cannot be reached, return the figures without it. Raises DatabaseError."""
    try:
        store = run_async(_read_store)
    except Unavailable:
        store = None
    at = moment(store.now_ms) if store else timezone.now()
    # The database is read last: a message that moves there in the meantime is counted twice instead of not at all.
    database = _read_database(
        at, moment(store.totals.since) if store else at - timedelta(days=account_days())
    )
    account = _account(store, database) if store else None
    return Figures(at=at, database=database, store=store, account=account, disk_free_bytes=disk.free_bytes())


def account_days() -> int:
    """Return the number of days of the account: the longest lifetime, and two days for the report."""
    return max(DAYS_SHOWN, -(-policies.current().ttl_max_s // DAY_S) + 2)


async def _read_store() -> StoreFigures:
    store = open_store()
    presence = await store.presence.online()
    online = set().union(*presence.values())
    debt = await total_debt(store, online, max_rooms=MAX_ROOMS, max_members=MAX_MEMBERS, batch=ROOM_BATCH)
    return StoreFigures(
        now_ms=await store.now_ms(),
        totals=await store.stats.message_totals(account_days()),
        debt=debt,
        online=len(online),
        processes=len(presence),
        runs=await last_runs(store),
        memory=await store.stats.memory(),
        overdue=await store.expiry.overdue(),
        last_day=await store.stats.last_day(ENDED),
        # Without the current minute: in a chart it would look like an outage.
        minutes=(await store.stats.counts("minute", 61, only=SHOWN))[:-1],
        days=await store.stats.counts("day", DAYS_SHOWN, only=SHOWN),
    )


def _read_database(at: datetime, since: datetime) -> DatabaseFigures:
    letters = DeadLetter.objects.all()
    return DatabaseFigures(
        letters=letters.count(),
        letters_open=letters.filter(state=DeadLetter.State.OPEN).count(),
        missed=letters.filter(expired_at__gte=since, sent_at__gte=since).count(),
        missed_last_day=letters.filter(expired_at__gt=at - timedelta(days=1)).count(),
        lost_by_store=losses.recent(account_days()).messages,
        losses=losses.recent(LOSS_DAYS),
        rooms=Room.objects.count(),
        memberships=Membership.objects.filter(leaving_at=None).count(),
    )


def _account(store: StoreFigures, database: DatabaseFigures) -> Account:
    totals = store.totals
    # Members join and leave between the reads, so the sum over the rooms can exceed the number of live messages.
    on_the_way = min(store.debt.on_the_way, totals.live)
    return Account(
        days=account_days(),
        accepted=totals.accepted,
        with_everyone=totals.held + totals.live - on_the_way,
        on_the_way=on_the_way,
        missed=database.missed,
        deleted=totals.deleted,
        lost_by_store=database.lost_by_store,
        cut=store.debt.rooms_left_out > 0,
        dropped=database.letters >= policies.current().dead_letter_count,
    )
