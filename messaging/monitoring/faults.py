"""The texts and checks of all faults. `manage.py doctor` uses all; `serve`, `messaging_status` and the front page use a part.

1. `health` and `site_figures` collect facts.
2. The functions here derive the faults from the facts. They do no I/O and do not read the clock.
3. Each kind of fault has its texts in `KINDS`. Commands in a text are between backquotes.

Texts contain a time instead of an age, because a screen reader repeats a banner when its text changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from messaging.losses import LossFigures
from messaging.models import moment
from messaging.store.records import Memory, Overdue

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

Fact = str | int | float | bool | None
Facts = dict[str, Fact]

# Every job except `rewrite_log` runs every minute, and the scheduler checks every 30 s. One missed run, for example while a worker
# restarts, makes a gap of up to 150 s plus the duration of the run. A longer gap is at least two missed runs.
MAX_JOB_GAP_S = 180.0
MIN_STORE_VERSION = (7, 0)
MIN_LISTPACK_BYTES = 8_192
MAX_CLOCK_DIFFERENCE_S = 2.0
MAX_MEMORY_SHARE = 0.8
MIN_FREE_BYTES = 64 * 1024**2


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """The fault, its fix and its meaning. Placeholders `%(name)s` are replaced by the fault's facts."""

    sentence: _StrPromise
    remedy: _StrPromise
    meaning: _StrPromise | str = ""


_SET = _(
    "Run `CONFIG SET %(setting)s` in the store, and add the line `%(setting)s` to its configuration file."
)
_START_CACHE = _(
    "Start the store. Its server needs three numbered databases: the one in REDIS_URL and the next two numbers."
)
_START_WORKER = _("Start a worker: `manage.py worker`. `manage.py serve` starts one automatically.")
_JOBS_STOPPED = _("Retries, expiry reports and bulk actions have stopped. No message is lost.")
_RUN_EXPIRY = _("Read the worker's log, or run the job to see its error: `manage.py process_expired --once`.")

_LOST_REMEDY = _(
    "Find out whether the store was emptied, restored or replaced. Keep its files and logs. This fault is shown for 7 days."
)
_LOST_MEANING = _(
    "Members see the period in which messages may be missing. Open pages send their own lost messages again."
)

# The worst faults. `serve` checks those of the store, and refuses to start if there is one.
FATAL = {
    "disk_full": Texts(
        _("The disk of DATA_DIR is full or nearly full: %(free)s MB are free."),
        _("Free space on it. `serve` then starts its store again within 30 s."),
        _(
            "On a full disk the store of `serve` ends, and SQLite refuses changes. New messages stay in the senders' browsers."
        ),
    ),
    "store_unreachable": Texts(
        _("The store cannot be reached."),
        _("Start the store, or correct REDIS_URL. To see the error, run `manage.py doctor`."),
        _("Nothing can be sent or retried. Browsers keep new messages and send them later."),
    ),
    "store_version": Texts(
        _("The store has version %(version)s. The chat needs 7.0 or newer."),
        _("Install Valkey, or Redis 7.0 or newer."),
    ),
    "store_replica": Texts(
        _("The store is a replica and refuses every write."), _("Set REDIS_URL to the primary.")
    ),
    "store_evicts": Texts(
        _("The store evicts messages when it is full."),
        _SET,
        _("maxmemory-policy is %(policy)s: messages would be lost without a report."),
    ),
    "cache_unreachable": Texts(_("The cache cannot be reached."), _START_CACHE),
    "channel_layer_unreachable": Texts(_("The channel layer cannot be reached."), _START_CACHE),
    "database_unreachable": Texts(
        _("The database cannot be reached."), _("Start it, or correct DATABASE_URL.")
    ),
}
# A part does not work, or a crash would lose messages.
ERROR = {
    "messages_unaccounted": Texts(
        ngettext_lazy(
            "%(count)s accepted message is unaccounted for.",
            "%(count)s accepted messages are unaccounted for.",
            "n",
        ),
        _(
            "Find out whether the store was emptied or restored. Keep its files and logs. `manage.py doctor` checks its settings."
        ),
        _("The store no longer has these messages, and their senders were not informed."),
    ),
    "store_lost_messages": Texts(
        _("The store lost accepted messages between %(since)s and %(until)s: about %(count)s."),
        _LOST_REMEDY,
        _LOST_MEANING,
    ),
    "store_emptied": Texts(
        ngettext_lazy(
            "The store was emptied before %(until)s. It had about %(count)s live message.",
            "The store was emptied before %(until)s. It had about %(count)s live messages.",
            "n",
        ),
        _LOST_REMEDY,
        _LOST_MEANING,
    ),
    "store_unlogged": Texts(
        _("The store does not write messages to disk."),
        _SET,
        _("appendonly is off: a crash of the store loses all messages since its last snapshot."),
    ),
    "store_unwritten": Texts(
        _("The store could not write to its disk."),
        _("Free space on its disk, and read its server log."),
        _(
            "Its last write or rewrite of the append-only file, or its last snapshot, failed. Messages that it refuses stay in the senders' browsers."
        ),
    ),
    "store_unsynced": Texts(
        _("The store does not sync every write to disk."),
        _SET,
        _("appendfsync is %(value)s: a power failure can lose the last accepted messages."),
    ),
    "migrations_missing": Texts(
        ngettext_lazy("%(n)s migration is not applied.", "%(n)s migrations are not applied.", "n"),
        _("Run `manage.py migrate`."),
    ),
    "sqlite_unsafe": Texts(
        _("SQLite runs with journal_mode %(journal_mode)s and synchronous %(synchronous)s."),
        _("Set journal_mode to WAL and synchronous to FULL in the OPTIONS of DATABASES."),
    ),
    "jobs_unknown": Texts(
        _("The state of the jobs is unknown without the store."), _("Start the store first.")
    ),
    "worker_never": Texts(_("No job has ever run."), _START_WORKER, _JOBS_STOPPED),
    "worker_silent": Texts(_("No worker heartbeat since %(since)s."), _START_WORKER, _JOBS_STOPPED),
    "recovery_off": Texts(
        _("Recovery is switched off: messages lost on their way are not sent again."),
        _("Unset MESSAGING_RECOVERY. It is for the drill only."),
    ),
    "expiry_never": Texts(_("The job process_expired has never run, although other jobs run."), _RUN_EXPIRY),
    "expiry_silent": Texts(
        _("The job process_expired has not run since %(since)s, although other jobs run."), _RUN_EXPIRY
    ),
    "expiry_late": Texts(
        _("Expiry reports are late: one has been due since %(since)s."),
        _("Make sure a worker is running, or run the report now: `manage.py process_expired --once`."),
        _("No message is lost."),
    ),
    "letters_quarantined": Texts(
        ngettext_lazy(
            "The database refused %(n)s message in the last day: it was quarantined without its text.",
            "The database refused %(n)s messages in the last day: they were quarantined without their text.",
            "n",
        ),
        _(
            "Run `manage.py dead_letters list --quarantined`, then `manage.py dead_letters show ID`. Send the developers the value of `fault`."
        ),
    ),
    "letters_dropped": Texts(
        ngettext_lazy(
            "%(n)s open dead letter was dropped in the last day, because there were too many.",
            "%(n)s open dead letters were dropped in the last day, because there were too many.",
            "n",
        ),
        _(
            "Send old dead letters again, or discard them: `manage.py dead_letters requeue` or `manage.py dead_letters discard`. Or raise dead_letter_count."
        ),
    ),
    "schedules_unknown": Texts(
        _("The schedules cannot be read from the database."),
        _("Start the database, and run `manage.py migrate`."),
    ),
    "schedule_missing": Texts(
        _("The schedule %(name)s is missing."),
        _("Run `manage.py migrate` or `manage.py serve`. Both restore it."),
    ),
    "schedule_late": Texts(
        _("The schedule %(name)s was due at %(since)s and has not run."),
        _("Make sure a worker is running: `manage.py worker`."),
    ),
}
WARNING = {
    "store_full": Texts(
        _("The store uses %(percent)s %% of its memory limit."),
        _(
            "Raise maxmemory (for the store of `serve`: STORE_MEMORY), or shorten the lifetimes of messages in the rooms."
        ),
        _("When it is full, sending stops. Stored messages are not lost."),
    ),
    "store_clock": Texts(
        _("The store's clock differs from this machine's by %(difference)s s."),
        _("Synchronize both with NTP: the store's clock decides when messages expire."),
    ),
    "store_listpack": Texts(
        _("Long messages use about twice the memory (hash-max-listpack-value is %(value)s)."),
        _SET,
    ),
    "store_hidden": Texts(
        _("The store does not show its settings, because CONFIG is forbidden."),
        _("In the provider's console, check that `appendfsync` has the value `always`."),
    ),
    "store_open": Texts(
        _("The store at %(host)s is used over the network without a password."),
        _(
            "Set `requirepass` in the store, and write the password in REDIS_URL: `redis://:password@host:6379/0`."
        ),
        _("Everybody who can reach its port can read and change all messages."),
    ),
    "files_open": Texts(
        _("Other users of this machine can enter DATA_DIR (mode %(mode)s)."),
        _("Run `chmod 700 %(folder)s` as its owner, or as root."),
        _("It has the secret key, the sessions and the texts."),
    ),
}
KINDS = FATAL | ERROR | WARNING  # in this order, the worst first


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """A fault, its texts translated into the language that was active at its creation. `key` is stable."""

    key: str
    severity: str
    fatal: bool
    sentence: str
    meaning: str
    remedy: str
    facts: Facts

    @property
    def text(self) -> str:
        """The sentence, its meaning and the remedy in one line."""
        return " ".join(filter(None, (self.sentence, self.meaning, self.remedy)))


def fault(key: str, **facts: Fact) -> Fault:
    """Return a fault of this kind, with its texts."""
    texts = KINDS[key]
    severity = "fatal" if key in FATAL else "error" if key in ERROR else "warning"
    sentence, meaning, remedy = texts.sentence % facts, texts.meaning % facts, texts.remedy % facts
    return Fault(key, severity, key in FATAL, sentence, meaning, remedy, facts)


def worst_first(faults: Iterable[Fault]) -> list[Fault]:
    """Return the faults in the order of `KINDS`."""
    return sorted(faults, key=lambda each: [*KINDS].index(each.key))


# ── Checks ──


def of_disk(free_bytes: int | None) -> Iterator[Fault]:
    """Yield the fault of the disk of DATA_DIR. `free_bytes` None: there is no such directory."""
    if free_bytes is not None and free_bytes < MIN_FREE_BYTES:
        yield fault("disk_full", free=free_bytes // 10**6)


def of_server(*, version: str, role: str, clock_difference_s: float) -> Iterator[Fault]:
    """Yield the faults of the store's server. `clock_difference_s`: how far its clock is ahead of this machine's."""
    if tuple(int(number) for number in version.split(".")[:2]) < MIN_STORE_VERSION:
        yield fault("store_version", version=version)
    if role != "master":
        yield fault("store_replica")
    if abs(clock_difference_s) > MAX_CLOCK_DIFFERENCE_S:
        yield fault("store_clock", difference=f"{clock_difference_s:+.1f}")


def of_network(*, host: str, authenticated: bool) -> Iterator[Fault]:
    """Yield a fault if the store is on another machine and needs no password. `host`: empty for a unix socket."""
    if host and not authenticated and not _is_this_machine(host):
        yield fault("store_open", host=host)


def of_files(*, folder: str, mode: int | None) -> Iterator[Fault]:
    """Yield a fault if other users can enter the data directory. `mode`: its permissions, None if it does not exist."""
    if mode is not None and mode & 0o077:
        yield fault("files_open", folder=folder, mode=f"{mode:o}")


def of_memory(memory: Memory) -> Iterator[Fault]:
    """Yield the faults of the store's memory and of its disk."""
    if memory.policy != "noeviction":
        yield fault("store_evicts", policy=memory.policy, setting="maxmemory-policy noeviction")
    if not memory.logged:
        yield fault("store_unlogged", setting="appendonly yes")
    if not memory.written:
        yield fault("store_unwritten")
    if memory.limit and memory.used > MAX_MEMORY_SHARE * memory.limit:
        yield fault("store_full", percent=100 * memory.used // memory.limit)


def of_settings(settings: Mapping[str, str]) -> Iterator[Fault]:
    """Yield the faults of the settings that only CONFIG shows. `settings` is empty if CONFIG is forbidden."""
    if not settings:
        yield fault("store_hidden")
        return
    fsync, listpack = settings["appendfsync"], settings["hash-max-listpack-value"]
    if fsync != "always":
        yield fault("store_unsynced", value=fsync, setting="appendfsync always")
    if not listpack.isdigit() or int(listpack) < MIN_LISTPACK_BYTES:
        setting = f"hash-max-listpack-value {MIN_LISTPACK_BYTES}"
        yield fault("store_listpack", value=listpack, setting=setting)


def of_database(*, migrations_missing: int, pragmas: Mapping[str, Fact]) -> Iterator[Fault]:
    """Yield the faults of the database. `pragmas`: those of SQLite, empty for other databases."""
    if migrations_missing:
        yield fault("migrations_missing", n=migrations_missing)
    if pragmas and (pragmas["journal_mode"], pragmas["synchronous"]) != ("wal", 2):
        yield fault("sqlite_unsafe", **pragmas)


def of_worker(runs: Mapping[str, int], now_ms: int, *, recovery: bool) -> Iterator[Fault]:
    """Yield a fault if no job runs or recovery is off. `runs`: {job: epoch ms of its last run}."""
    last_ms = max(runs.values(), default=None)
    if last_ms is None:
        yield fault("worker_never")
    elif _is_late(last_ms, now_ms):
        yield fault("worker_silent", since=_clock(moment(last_ms)))
    if not recovery:
        yield fault("recovery_off")


def of_expiry(runs: Mapping[str, int], overdue: Overdue, now_ms: int) -> Iterator[Fault]:
    """Yield the faults of the job process_expired. If no job runs, `of_worker` reports it."""
    if overdue.oldest_s is not None and overdue.oldest_s > MAX_JOB_GAP_S:
        yield fault("expiry_late", since=_clock(moment(now_ms - int(overdue.oldest_s * 1000))))
    own_ms = runs.get("process_expired")
    if all(_is_late(run_ms, now_ms) for job, run_ms in runs.items() if job != "process_expired"):
        return
    if own_ms is None:
        yield fault("expiry_never")
    elif _is_late(own_ms, now_ms):
        yield fault("expiry_silent", since=_clock(moment(own_ms)))


def of_letters(*, quarantined: int, dropped: int) -> Iterator[Fault]:
    """Yield the faults of the dead letters of the last day."""
    if quarantined:
        yield fault("letters_quarantined", n=quarantined)
    if dropped:
        yield fault("letters_dropped", n=dropped)


def of_schedules(
    due_at: Mapping[str, datetime | None], wanted: Iterable[str], now: datetime
) -> Iterator[Fault]:
    """Yield the faults of the schedules. `due_at`: {schedule: its next run}."""
    for name in wanted:
        due = due_at.get(name)
        if name not in due_at:
            yield fault("schedule_missing", name=name)
        elif due and (now - due).total_seconds() > MAX_JOB_GAP_S:
            yield fault("schedule_late", name=name, since=_clock(due))


def of_losses(losses: LossFigures) -> Iterator[Fault]:
    """Yield a fault if the store has lost messages."""
    if losses.until is None:
        return
    facts: Facts = {"n": losses.messages, "count": f"{losses.messages:,}", "until": _clock(losses.until)}
    if losses.since is None:
        yield fault("store_emptied", **facts)
    else:
        yield fault("store_lost_messages", since=_clock(losses.since), **facts)


def of_account(unaccounted: int) -> Iterator[Fault]:
    """Yield a fault if accepted messages are unaccounted for. A number below 0 means that some are counted twice."""
    if unaccounted > 0:
        yield fault("messages_unaccounted", n=unaccounted, count=f"{unaccounted:,}")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_late(run_ms: int, now_ms: int) -> bool:
    return now_ms - run_ms > MAX_JOB_GAP_S * 1000


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
