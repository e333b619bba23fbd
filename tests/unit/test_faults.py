"""The faults of an installation, computed from its facts. Every job that runs every minute has the same threshold."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from django.utils.translation import override

from messaging.losses import LossFigures
from messaging.models import moment
from messaging.monitoring import faults
from messaging.monitoring.faults import KINDS, Fault, fault
from messaging.store.records import Memory, Overdue

NOW_MS = 1_800_000_000_000
NOW = moment(NOW_MS)
GAP_MS = int(faults.MAX_JOB_GAP_S * 1000)
FRESH, STALE = NOW_MS - GAP_MS, NOW_MS - GAP_MS - 1

MEMORY = Memory(used=80, limit=100, policy="noeviction")
NOTHING_DUE, IN_TIME, LATE = Overdue(0, None), Overdue(1, 180.0), Overdue(1, 180.1)
SETTINGS = {"appendfsync": "always", "hash-max-listpack-value": "8192"}
WAL = {"journal_mode": "wal", "synchronous": 2}


def server(version: str = "7.0.0", role: str = "master", difference_s: float = 0.0) -> list[Fault]:
    return [*faults.of_server(version=version, role=role, clock_difference_s=difference_s)]


def memory(**changes: object) -> list[Fault]:
    return [*faults.of_memory(dataclasses.replace(MEMORY, **changes))]  # type: ignore[arg-type]


def settings(**changes: str) -> list[Fault]:
    return [*faults.of_settings(SETTINGS | {name.replace("_", "-"): text for name, text in changes.items()})]


def database(missing: int = 0, **pragmas: faults.Fact) -> list[Fault]:
    return [*faults.of_database(migrations_missing=missing, pragmas=pragmas)]


def worker(recovery: bool = True, **runs: int) -> list[Fault]:
    return [*faults.of_worker(runs, NOW_MS, recovery=recovery)]


def expiry(overdue: Overdue = NOTHING_DUE, **runs: int) -> list[Fault]:
    return [*faults.of_expiry(runs, overdue, NOW_MS)]


def lost(**changes: object) -> LossFigures:
    figures = LossFigures(losses=1, messages=1_234, since=moment(NOW_MS), until=moment(NOW_MS))
    return dataclasses.replace(figures, **changes)  # type: ignore[arg-type]


def letters(quarantined: int = 0, dropped: int = 0) -> list[Fault]:
    return [*faults.of_letters(quarantined=quarantined, dropped=dropped)]


def network(host: str, *, authenticated: bool = False) -> list[Fault]:
    return [*faults.of_network(host=host, authenticated=authenticated)]


def schedules(**due_s_ago: float) -> list[Fault]:
    next_runs = {name: NOW - timedelta(seconds=ago_s) for name, ago_s in due_s_ago.items()}
    return [*faults.of_schedules(next_runs, ["sweep"], NOW)]


CASES = [
    ([*faults.of_disk(None)], ""),
    ([*faults.of_disk(faults.MIN_FREE_BYTES)], ""),
    ([*faults.of_disk(faults.MIN_FREE_BYTES - 1)], "disk_full"),
    (server(), ""),
    (server("8.1.8"), ""),
    (server("6.2.14"), "store_version"),
    (server(role="slave"), "store_replica"),
    (server(difference_s=2.0), ""),
    (server(difference_s=-2.1), "store_clock"),
    (network("store.example"), "store_open"),
    (network("10.0.0.7"), "store_open"),
    (network("10.0.0.7", authenticated=True), ""),
    *((network(host), "") for host in ("", "localhost", "127.0.0.1", "127.0.0.2", "::1")),
    ([*faults.of_files(folder="/srv/chat/var", mode=0o750)], "files_open"),
    ([*faults.of_files(folder="/srv/chat/var", mode=0o700)], ""),
    ([*faults.of_files(folder="/srv/chat/var", mode=None)], ""),
    (memory(), ""),
    (memory(used=81), "store_full"),
    (memory(used=81, limit=0), ""),
    (memory(policy="allkeys-lru"), "store_evicts"),
    (memory(logged=False), "store_unlogged"),
    (memory(written=False), "store_unwritten"),
    (settings(), ""),
    (settings(appendfsync="everysec"), "store_unsynced"),
    (settings(hash_max_listpack_value="8191"), "store_listpack"),
    (settings(hash_max_listpack_value="unknown"), "store_listpack"),
    ([*faults.of_settings({})], "store_hidden"),
    (database(), ""),
    (database(**WAL), ""),
    (database(2, **WAL), "migrations_missing"),
    (database(**(WAL | {"synchronous": 1})), "sqlite_unsafe"),
    (database(**(WAL | {"journal_mode": "delete"})), "sqlite_unsafe"),
    (worker(), "worker_never"),
    (worker(retry_undelivered=FRESH), ""),
    (worker(retry_undelivered=STALE), "worker_silent"),
    (worker(retry_undelivered=STALE, process_expired=FRESH), ""),
    (worker(recovery=False, retry_undelivered=FRESH), "recovery_off"),
    (expiry(), ""),
    (expiry(IN_TIME), ""),
    (expiry(LATE), "expiry_late"),
    (expiry(process_expired=STALE), ""),
    (expiry(retry_undelivered=STALE), ""),
    (expiry(retry_undelivered=FRESH), "expiry_never"),
    (expiry(retry_undelivered=FRESH, process_expired=FRESH), ""),
    (expiry(retry_undelivered=FRESH, process_expired=STALE), "expiry_silent"),
    (expiry(LATE, retry_undelivered=FRESH, process_expired=STALE), "expiry_late expiry_silent"),
    (letters(), ""),
    (letters(1, 2), "letters_quarantined letters_dropped"),
    (schedules(sweep=180), ""),
    (schedules(sweep=-60), ""),
    (schedules(sweep=181), "schedule_late"),
    (schedules(), "schedule_missing"),
    ([*faults.of_account(0)], ""),
    ([*faults.of_account(-1)], ""),
    ([*faults.of_account(1_234)], "messages_unaccounted"),
    ([*faults.of_losses(lost(losses=0, until=None))], ""),
    ([*faults.of_losses(lost())], "store_lost_messages"),
    ([*faults.of_losses(lost(since=None))], "store_emptied"),
]
UNREACHABLE = {
    "store_unreachable",
    "cache_unreachable",
    "channel_layer_unreachable",
    "database_unreachable",
    "jobs_unknown",
    "schedules_unknown",
}
FOUND = {fault.key: fault for judged, _ in CASES for fault in judged} | {
    key: fault(key) for key in UNREACHABLE
}


@pytest.mark.parametrize(
    ("judged", "expected"), CASES, ids=lambda part: part if isinstance(part, str) else ""
)
def test_facts_are_judged(judged: list[Fault], expected: str) -> None:
    assert " ".join(fault.key for fault in judged) == expected


def test_every_kind_is_judged() -> None:
    assert FOUND.keys() == KINDS.keys()


@pytest.mark.parametrize("key", KINDS)
def test_texts_are_whole_sentences_in_both_languages_with_every_fact(key: str) -> None:
    texts = {}
    for language, stop in (("en", "."), ("zh-hans", "。")):
        with override(language):
            judged = fault(key, **FOUND[key].facts)
        texts[language] = {judged.sentence, judged.meaning, judged.remedy} - {""}
        for text in texts[language]:
            assert text.endswith(stop)
            assert "%(" not in text
            assert text.count("`") % 2 == 0
    assert not texts["en"] & texts["zh-hans"]


@pytest.mark.parametrize(
    ("count", "sentence"), [(1, "1 accepted message is"), (1_234, "1,234 accepted messages are")]
)
def test_a_count_has_its_plural_and_its_thousands_separator(count: int, sentence: str) -> None:
    [fault] = faults.of_account(count)
    assert fault.sentence == f"{sentence} unaccounted for."


def test_a_moment_is_shown_instead_of_an_age() -> None:
    [fault] = worker(retry_undelivered=NOW_MS - 3_600_000)
    assert fault.sentence == f"No worker heartbeat since {NOW - timedelta(hours=1):%Y-%m-%d %H:%M:%S} UTC."


def test_worst_fault_comes_first_and_equals_keep_their_order() -> None:
    listed = [FOUND[key] for key in ("store_full", "worker_never", "store_evicts", "expiry_late")]
    assert [fault.key for fault in faults.worst_first(listed)] == [
        "store_evicts",
        "worker_never",
        "expiry_late",
        "store_full",
    ]
    assert [(each.severity, each.fatal) for each in listed] == [
        ("warning", False),
        ("error", False),
        ("fatal", True),
        ("error", False),
    ]
