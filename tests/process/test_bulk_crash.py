"""The job of bulk actions, killed with -9 at every step, run twice at once, in a real worker that is killed, with a store that dies: each row once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from chatsite.run.children import wait_for
from messaging.admin import bulk_job
from messaging.admin.letters import DeadLetterAdmin
from messaging.admin.messages import StoredMessageAdmin
from messaging.bridge import run_async
from messaging.models import AuditEntry, BulkAction, DeadLetter, moment
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from tests.support import expiry_process
from tests.support.bulk_actions import (
    MAY,
    ask,
    at_step,
    begin,
    letters,
    progress,
    result_of,
    sent_again,
    small,
    staff,
    states,
)
from tests.support.kill_points import Fate
from tests.support.messages import accept, message
from tests.support.people import person, room_of
from tests.support.sites import Site
from tests.support.workers import Worker, enqueue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_url")]

ROWS = 12
MANY = 2_000
TIMEOUT_S = 120.0
STEPS = ["claimed", "reserved", "recording", "recorded"]
LEASE = {"lease_s": 1}


@pytest.fixture(autouse=True)
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make more than one row a bulk action, so that few rows prove the same as many."""
    small(monkeypatch, DeadLetterAdmin)
    small(monkeypatch, StoredMessageAdmin)


def kill_at(step: str, nth: int = 2) -> None:
    code, out, err = expiry_process.run(
        Fate(job="bulk_job", at=step, nth=1 if step == "claimed" else nth), **LEASE
    )
    assert (code, out) == (-signal.SIGKILL, "ready\n"), err


def finish() -> None:
    """End the lease of the killed job, and run the job to its end."""
    BulkAction.objects.update(claimed_until=moment(1))
    code, _, err = expiry_process.run(Fate(job="bulk_job", runs=9))
    assert code == 0, err


@pytest.mark.proof
@pytest.mark.parametrize("step", [*STEPS, "performed"])
def test_every_dead_letter_is_sent_again_once_after_a_kill_at_any_step(step: str) -> None:
    room = letters(ROWS)
    action = begin(staff(*MAY), "send_again")
    kill_at(step)
    assert result_of(action)[0] == "running"
    finish()
    assert result_of(action) == ("done", ROWS, 0, 0, {})
    assert sent_again(room) == list(range(1, ROWS + 1))
    assert logged("sent a dead letter again") == dict.fromkeys(keys(), 1)


# `make test` kills at the step between the action and its record.
@pytest.mark.parametrize(
    "step", [*(pytest.param(step, marks=pytest.mark.proof) for step in STEPS), "performed"]
)
def test_every_dead_letter_is_discarded_once_after_a_kill_at_any_step(step: str) -> None:
    letters(1_001)
    action = begin(staff(*MAY), "discard")
    kill_at(step)
    finish()
    assert result_of(action) == ("done", 1_001, 0, 0, {})
    assert states() == {"discarded": 1_001}
    assert AuditEntry.objects.filter(verb="discard").count() == 1_001
    assert logged("discarded a dead letter") == dict.fromkeys(keys(), 1)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("verb", "given", "ends"),
    [
        ("delete", {}, (ROWS, 0, 0, {})),
        ("extend", {"ttl": 86_400}, (ROWS - 1, 0, 1, {"cut_off": 1})),
    ],
)
def test_message_is_deleted_once_and_not_extended_twice_after_a_kill_before_the_record(
    verb: str, given: dict[str, Any], ends: tuple[Any, ...]
) -> None:
    async def make() -> None:
        ada = await person("ada")
        room = key_of(await room_of(ada, await person("bob")))
        await accept(open_store(), *(message(user=ada.pk, room=room) for _ in range(ROWS)))

    run_async(make)
    action = begin(staff(is_superuser=True), verb, "storedmessage/", **given)
    kill_at("performed", nth=3)
    finish()
    assert result_of(action) == ("done", *ends)
    changed = AuditEntry.objects.filter(verb=verb).values_list("seq", flat=True)
    assert Counter(changed) == dict.fromkeys(range(1, ROWS + 1), 1)


def logged(text: str) -> dict[str, int]:
    return Counter(LogEntry.objects.filter(change_message=text).values_list("object_id", flat=True))


def keys() -> list[str]:
    return [str(key) for key in DeadLetter.objects.values_list("pk", flat=True)]


@pytest.mark.proof
def test_two_jobs_at_once_of_which_one_is_killed_send_each_again_once() -> None:
    room = letters(ROWS)
    action = begin(staff(*MAY), "send_again")
    fates = (
        Fate(job="bulk_job", waits=True, at="performed", nth=4),
        Fate(job="bulk_job", waits=True, runs=9),
    )
    jobs = [expiry_process.start(fate, **LEASE) for fate in fates]
    for job in jobs:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        assert job.stdin is not None
        job.stdin.write("\n")
        job.stdin.flush()
    outputs = [job.communicate(timeout=TIMEOUT_S) for job in jobs]
    assert jobs[1].returncode == 0, outputs
    finish()
    assert result_of(action) == ("done", ROWS, 0, 0, {})
    assert sent_again(room) == list(range(1, ROWS + 1))


# ── A site with a worker ──


@pytest.fixture
def at_site(new_site: Callable[..., Site], settings: Any) -> Iterator[tuple[Site, Worker]]:
    """Return a site, whose store this process uses too, and its worker, which does not run."""
    site = new_site(lease_s=2)
    for name, number in (("messages", 0), ("default", 1)):
        changed = {**settings.CACHES[name], "LOCATION": f"{site.store.url}?db={number}"}
        settings.CACHES = {**settings.CACHES, name: changed}
    worker = Worker(site)
    yield site, worker
    worker.end()


@pytest.mark.proof
def test_a_real_worker_that_is_killed_processes_two_thousand_rows_once(at_site: tuple[Site, Worker]) -> None:
    site, worker = at_site
    letters(MANY)
    action = begin(staff(*MAY), "discard")
    ask(staff(*MAY, name="other"), "deadletter/", "take_back")  # which needs no confirmation
    other = BulkAction.objects.get(verb="take_back")
    worker.start()
    enqueue(site, "carry_on", module="admin.bulk_job")
    assert wait_for(lambda: done(action) > 0, deadline_s=TIMEOUT_S)
    worker.end()
    worker.start()

    def ended() -> bool:
        enqueue(site, "carry_on", module="admin.bulk_job")
        return result_of(other)[0] == "done"

    assert wait_for(ended, deadline_s=TIMEOUT_S)
    assert result_of(action) == ("done", MANY, 0, 0, {})
    assert result_of(other) == ("done", MANY, 0, 0, {})
    counts = Counter(AuditEntry.objects.values_list("verb", "seq"))
    assert set(counts.values()) == {1}
    assert len(counts) == 2 * MANY


def done(action: BulkAction) -> int:
    action.refresh_from_db()
    return action.done


@pytest.mark.proof
def test_a_store_that_dies_pauses_it_and_it_continues_automatically(
    at_site: tuple[Site, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = at_site
    room = letters(ROWS)
    client = staff(*MAY)
    action = begin(client, "send_again")
    at_step(monkeypatch, "recorded", site.store.kill, nth=5)
    assert bulk_job.carry_on() == 5
    assert result_of(action) == ("running", 5, 0, 0, {})
    assert "Paused: the store does not answer." in progress(client, action)
    assert bulk_job.carry_on() == 0
    site.store.start()
    site.store.wait_until_ready()
    rows = [bulk_job.carry_on()]
    while rows[-1] and sum(rows) < ROWS - 5:  # on a busy machine, a run ends at its deadline
        rows.append(bulk_job.carry_on())
    assert sum(rows) == ROWS - 5
    assert result_of(action) == ("done", ROWS, 0, 0, {})
    assert sent_again(room) == list(range(1, ROWS + 1))
    site.forgive()
