"""Bulk actions: confirmed with numbers, processed in chunks, each row once, and stopped when they must not continue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django_q.brokers import get_broker

from messaging.admin import bulk_job, bulk_rows
from messaging.admin.bulk_job import carry_on
from messaging.admin.letters import DeadLetterAdmin
from messaging.admin.memberships import MembershipAdmin
from messaging.admin.messages import StoredMessageAdmin
from messaging.admin.rooms import RoomAdmin
from messaging.admin.undelivered_members import UndeliveredMemberAdmin
from messaging.admin.undelivered_rooms import UndeliveredRoomAdmin
from messaging.bridge import in_db_thread, run_async
from messaging.errors import Unavailable
from messaging.expiry import retention
from messaging.jobs import schedules as jobs
from messaging.models import AuditEntry, BulkAction, BulkPortion, DeadLetter, Membership, Room, moment
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.log import Log
from tests.support.bulk_actions import (
    MAY,
    PAGES,
    ask,
    at_step,
    begin,
    confirm,
    letters,
    progress,
    result_of,
    sent_again,
    small,
    staff,
    states,
)
from tests.support.expired_records import TEXT, with_policy
from tests.support.messages import accept, message
from tests.support.people import Events, person, room_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_url")]

HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_job, "REST_SHARE", 0)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make three letters a bulk action, in chunks of one."""
    small(monkeypatch, DeadLetterAdmin, chunk_rows=1)


async def _now_ms() -> int:
    return await open_store().now_ms()


class TestAsking:
    def test_the_page_shows_the_effect_in_numbers_and_nothing_starts_before_the_confirmation(self) -> None:
        letters(1_234)
        DeadLetter.objects.filter(seq__lte=34).update(state="discarded")
        client = staff(*MAY)
        asked = ask(client, "deadletter/", "discard")
        page = asked.content.decode()
        assert "1,200 dead letters will be discarded" in page
        assert "34 are not open and stay unchanged." in page
        assert "1234 rows" in page
        assert "and 1134 more" in page
        assert "Too many rows for one request" in page
        assert TEXT not in page
        assert carry_on() == 0
        assert states() == {"open": 1_200, "discarded": 34}

        shown = confirm(client, "deadletter/", "discard", asked)
        action = BulkAction.objects.get()
        assert "Started: the worker is processing 1,234 rows in batches." in shown
        assert f"/admin/messaging/bulkaction/{action.pk}/change/" in shown
        assert get_broker().queue_size() == 1
        assert "Waiting for a worker" in progress(client, action)
        assert carry_on() == 1_234
        assert result_of(action) == ("done", 1_200, 34, 0, {"discarded": 34})
        page = progress(client, action)
        for words in ("Finished.", "1,234 of 1,234 rows (100 %)", "Why: discarded (34).", "staff"):
            assert words in page
        assert LogEntry.objects.filter(change_message="discarded a dead letter").count() == 1_200
        assert AuditEntry.objects.filter(verb="discard").count() == 1_200
        assert not BulkPortion.objects.exists()

    def test_rows_within_the_limit_are_processed_in_one_request(self) -> None:
        letters(3)
        client = staff(*MAY)
        asked = ask(client, "deadletter/", "discard")
        assert asked.context["bulk"] is None
        data = {"action": "discard", "chosen": asked.context["chosen"], "confirmed": "yes"}
        answer = client.post(f"{PAGES}/deadletter/", data, follow=True)
        assert "Discarded: 3, skipped: 0, failed: 0." in answer.content.decode()
        assert not BulkAction.objects.exists()

    def test_rows_that_match_later_are_not_changed_and_filters_apply(self, few: None) -> None:
        letters(5)
        DeadLetter.objects.filter(seq=5).update(state="discarded", resolved_at=moment(run_async(_now_ms)))
        client = staff(*MAY)
        action = begin(client, "send_again", "deadletter/?state__exact=open")
        assert (action.total, action.query) == (4, "state__exact=open")
        DeadLetter.objects.filter(seq=5).update(state="open")
        carry_on()
        assert result_of(action) == ("done", 4, 0, 0, {})
        assert states() == {"requeued": 4, "open": 1}
        assert "?state__exact=open" in progress(client, action)

    def test_two_confirmations_start_once_and_another_user_cannot_confirm(self, few: None) -> None:
        letters(3)
        client, other = staff(*MAY), staff(*MAY, name="other")
        asked = ask(client, "deadletter/", "discard")
        assert confirm(other, "deadletter/", "discard", asked).startswith(
            "Nothing was done: this confirmation page"
        )
        for _ in range(2):
            assert confirm(client, "deadletter/", "discard", asked).startswith(
                "Started: the worker is processing 3 rows"
            )
        carry_on()
        assert confirm(client, "deadletter/", "discard", asked).startswith(
            "Started: the worker is processing 3 rows"
        )
        assert carry_on() == 0
        assert AuditEntry.objects.filter(verb="discard").count() == 3

    @pytest.mark.parametrize("key", ["", "x", "-1", "99", "9" * 30])
    def test_an_unknown_confirmation_page_does_nothing(self, few: None, key: str) -> None:
        letters(3)
        client = staff(*MAY)
        data = {"action": "discard", "bulk": key, "confirmed": "yes"}
        answer = client.post(f"{PAGES}/deadletter/", data, follow=True)
        assert "Nothing was done: this confirmation page has expired" in answer.content.decode()
        assert not BulkAction.objects.exists()

    def test_a_confirmation_page_is_kept_for_an_hour_and_replaces_an_earlier_one(self, few: None) -> None:
        letters(3)
        client = staff(*MAY)
        ask(client, "deadletter/", "discard")
        asked = ask(client, "deadletter/", "discard")
        assert BulkAction.objects.count() == 1
        now_ms = run_async(_now_ms)
        retention.prune(now_ms + HOUR_MS - 10_000)
        assert BulkAction.objects.exists()
        retention.prune(now_ms + HOUR_MS + 10_000)
        assert not BulkAction.objects.exists()
        assert confirm(client, "deadletter/", "discard", asked).startswith("Nothing was done")

    def test_an_ended_bulk_action_is_listed_for_90_days(self, few: None) -> None:
        letters(3)
        client = staff(*MAY)
        action = begin(client, "discard")
        carry_on()
        page = client.get(f"{PAGES}/bulkaction/").content.decode()
        assert "dead letters: Discard" in page
        assert "3 of 3" in page
        retention.prune(run_async(_now_ms) + 89 * 24 * HOUR_MS)
        assert BulkAction.objects.filter(pk=action.pk).exists()
        retention.prune(run_async(_now_ms) + 91 * 24 * HOUR_MS)
        assert not BulkAction.objects.exists()

    def test_an_action_without_confirmation_starts_at_once(self, few: None) -> None:
        letters(3)
        client = staff(*MAY)
        begin(client, "discard")
        carry_on()
        assert (
            "Started: the worker is processing 3 rows"
            in ask(client, "deadletter/", "take_back").content.decode()
        )
        carry_on()
        assert states() == {"open": 3}

    def test_rows_above_the_limit_stay_unchanged_and_the_page_states_it(
        self, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        letters(5)
        monkeypatch.setattr(bulk_rows, "MAX_ROWS", 3)
        asked = ask(staff(*MAY), "deadletter/", "discard")
        assert "2 more rows were selected and are left unchanged" in asked.content.decode()
        assert asked.context["count"] == 3


class TestOnce:
    def test_two_concurrent_workers_do_nothing_twice(
        self, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = letters(3)
        action = begin(staff(*MAY), "send_again")
        others: list[int] = []
        at_step(monkeypatch, "performed", lambda: others.append(carry_on()))
        assert carry_on() == 3
        assert others == [0], "a claimed bulk action is left alone"
        assert result_of(action) == ("done", 3, 0, 0, {})
        assert sent_again(room) == [1, 2, 3]

    def test_a_worker_that_lost_its_claim_records_nothing_and_the_other_counts_the_rows(
        self, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = letters(3)
        action = begin(staff(*MAY), "send_again")

        def overtake() -> None:
            BulkAction.objects.update(claimed_until=moment(1))  # its lease ran out
            assert carry_on() == 3

        at_step(monkeypatch, "performed", overtake)
        assert carry_on() == 0
        assert result_of(action) == ("done", 3, 0, 0, {})
        assert sent_again(room) == [1, 2, 3]
        assert LogEntry.objects.filter(change_message="sent a dead letter again").count() == 3

    def test_a_letter_that_another_user_sent_again_is_skipped(self, few: None) -> None:
        room = letters(3)
        action = begin(staff(*MAY), "send_again")
        letter = DeadLetter.objects.get(seq=2)
        staff(*MAY, name="other").post(
            f"{PAGES}/deadletter/", {"action": "send_again", "chosen": str(letter.pk), "confirmed": "yes"}
        )
        carry_on()
        assert result_of(action) == ("done", 2, 1, 0, {"requeued": 1})
        assert sent_again(room) == [1, 2, 3]

    def test_a_run_ends_at_its_deadline_and_queues_the_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        letters(1_001)
        action = begin(staff(*MAY), "discard")
        queued = get_broker().queue_size()
        with_policy(monkeypatch, job_deadline_s=0.1)
        rows = [carry_on()]
        assert 0 < rows[0] < 1_001
        assert get_broker().queue_size() == queued + 1
        while action.state == "running":
            rows.append(carry_on())
            action.refresh_from_db()
        assert sum(rows) == 1_001
        assert result_of(action) == ("done", 1_001, 0, 0, {})

    def test_a_second_bulk_action_waits_for_the_first(self, few: None) -> None:
        letters(3)
        first = begin(staff(*MAY), "discard")
        second = begin(staff(*MAY, name="other"), "send_again")
        assert carry_on() == 6
        assert result_of(first) == ("done", 3, 0, 0, {})
        assert result_of(second) == ("done", 0, 3, 0, {"discarded": 3})

    def test_a_bulk_action_of_an_earlier_version_is_finished(self, few: None) -> None:
        """Its row as that version left it when its worker was killed: one row with a result, the next in doubt."""
        room = letters(4)
        action = begin(staff(*MAY), "send_again")
        BulkAction.objects.update(
            at=1, begun=2, done=1, token="0123456789abcdef", claimed_until=moment(1), why="unavailable"
        )
        assert carry_on() == 3
        assert result_of(action) == ("done", 4, 0, 0, {})
        assert sent_again(room) == [2, 3, 4]

    def test_keys_are_found_across_batches(self) -> None:
        user = User.objects.create(username="staff")
        keys = [f"k{number}" for number in range(2 * bulk_rows.PORTION_KEYS + 3)]
        action = bulk_rows.create(user, "deadletter", "discard", keys, query="", now_ms=1)
        for start, stop in ((0, 1), (499, 501), (500, 1_000), (3, 1_003), (1_002, 1_003), (1_003, 1_010)):
            assert bulk_rows.keys_of(action, start, stop) == keys[start:stop]


class TestStopping:
    def test_a_stop_lets_the_chunk_end_and_leaves_the_other_rows_unchanged(
        self, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = letters(5)
        client = staff(*MAY)
        action = begin(client, "send_again")

        def stop() -> None:
            answer = client.post(f"{PAGES}/bulkaction/{action.pk}/stop/", follow=True)
            assert "Stopped by staff." in answer.content.decode()

        at_step(monkeypatch, "performed", stop, nth=2)
        assert carry_on() == 2
        assert result_of(action) == ("stopped", 2, 0, 0, {})
        assert sent_again(room) == [1, 2]
        assert states() == {"requeued": 2, "open": 3}
        page = progress(client, action)
        assert "2 of 5 rows (40 %)" in page
        assert "Stopped by staff. Finished rows stay changed; the others are unchanged." in page
        assert "data-ended" in page
        assert carry_on() == 0
        assert not BulkPortion.objects.exists()
        again = client.post(f"{PAGES}/bulkaction/{action.pk}/stop/", follow=True)
        assert "This action has already ended." in again.content.decode()

    def test_a_bulk_action_that_no_worker_has_claimed_is_stopped(self, few: None) -> None:
        letters(3)
        client = staff(*MAY)
        action = begin(client, "discard")
        client.post(f"{PAGES}/bulkaction/{action.pk}/stop/")
        assert result_of(action) == ("stopped", 0, 0, 0, {})
        assert not BulkPortion.objects.exists()
        assert carry_on() == 0
        assert states() == {"open": 3}

    def test_rows_in_doubt_of_a_stopped_bulk_action_count_as_failed(self, few: None) -> None:
        letters(3)
        client = staff(*MAY)
        action = begin(client, "send_again")
        claimed = bulk_rows.claim(run_async(_now_ms), 30)
        assert claimed is not None
        assert bulk_rows.reserve(claimed, 1, run_async(_now_ms), 30)
        client.post(f"{PAGES}/bulkaction/{action.pk}/stop/")
        assert result_of(action) == ("stopped", 0, 0, 0, {}), "its worker may still run"
        BulkAction.objects.update(claimed_until=moment(1))
        carry_on()
        assert result_of(action) == ("stopped", 0, 0, 1, {"cut_off": 1})

    @pytest.mark.parametrize(
        "take",
        [
            lambda user: user.user_permissions.remove(
                user.user_permissions.get(codename="requeue_deadletter")
            ),
            lambda user: user.user_permissions.remove(user.user_permissions.get(codename="view_deadletter")),
            lambda user: User.objects.filter(pk=user.pk).update(is_active=False),
            lambda user: User.objects.filter(pk=user.pk).update(is_staff=False),
            lambda user: user.delete(),
        ],
        ids=["the right", "the right to see the list", "the account", "being staff", "the user"],
    )
    def test_a_starter_who_loses_the_permission_stops_it(
        self, few: None, monkeypatch: pytest.MonkeyPatch, take: Callable[[User], Any]
    ) -> None:
        room = letters(4)
        client = staff(*MAY)
        action = begin(client, "send_again")
        at_step(monkeypatch, "recorded", lambda: take(User.objects.get(username="staff")), nth=2)
        assert carry_on() == 2
        assert result_of(action) == ("stopped", 2, 0, 0, {})
        assert sent_again(room) == [1, 2]
        seen = progress(staff("view_bulkaction", name="other"), action)
        assert "Stopped: staff no longer has the permission for this." in seen
        carry_on()
        assert not BulkPortion.objects.exists()

    def test_stopping_needs_the_permission_of_the_action_and_a_post(self, few: None) -> None:
        letters(3)
        action = begin(staff(*MAY), "discard")
        path = f"{PAGES}/bulkaction/{action.pk}"
        sees = staff("view_bulkaction", "view_deadletter", "requeue_deadletter", name="sees")
        assert "Stop</button>" not in progress(sees, action)
        assert sees.post(f"{path}/stop/").status_code == 403
        nobody = staff("view_deadletter", name="nobody")
        for answer in (
            nobody.get(f"{path}/change/"),
            nobody.get(f"{path}/progress/"),
            nobody.post(f"{path}/stop/"),
            nobody.get(f"{PAGES}/bulkaction/"),
        ):
            assert answer.status_code == 403
        does = staff("view_deadletter", "discard_deadletter", name="does")
        assert "Stop</button>" in progress(does, action)
        assert does.get(f"{path}/stop/").status_code == 405
        assert result_of(action)[0] == "running"
        unsafe = Client(enforce_csrf_checks=True)
        unsafe.cookies = does.cookies
        assert unsafe.post(f"{path}/stop/").status_code == 403
        assert does.post(f"{path}/stop/").status_code == 302
        assert result_of(action)[0] == "stopped"
        assert Client().get(f"{path}/progress/").status_code == 302
        assert does.get(f"{PAGES}/bulkaction/{action.pk + 1}/change/").status_code in (403, 404)


class TestAway:
    def test_an_unavailable_store_pauses_it_and_it_continues(
        self, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = letters(4)
        client = staff(*MAY)
        action = begin(client, "send_again")
        append = Log.append

        async def away(*_: object) -> Any:
            raise Unavailable()

        at_step(monkeypatch, "recorded", lambda: monkeypatch.setattr(Log, "append", away), nth=2)
        assert carry_on() == 2
        assert result_of(action) == ("running", 2, 0, 0, {})
        assert "Paused: the store does not answer." in progress(client, action)
        assert "paused" in client.get(f"{PAGES}/bulkaction/").content.decode()
        assert carry_on() == 0
        monkeypatch.setattr(Log, "append", append)
        assert carry_on() == 2
        assert result_of(action) == ("done", 4, 0, 0, {})
        assert sent_again(room) == [1, 2, 3, 4]

    def test_a_paused_bulk_action_does_not_block_the_next(
        self, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        letters(3)
        waits = begin(staff(*MAY), "send_again")
        other = begin(staff(*MAY, name="other"), "discard")

        async def away(*_: object) -> Any:
            raise Unavailable()

        monkeypatch.setattr(Log, "append", away)
        carry_on()
        assert result_of(waits)[0] == "running"
        assert result_of(other)[0] == "done"

    def test_a_missing_queue_leaves_it_to_the_next_minute(
        self, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        letters(3)

        def away(*_: object) -> None:
            raise ConnectionError

        monkeypatch.setattr(jobs, "async_task", away)
        action = begin(staff(*MAY), "discard")
        carry_on()
        assert result_of(action) == ("done", 3, 0, 0, {})
        assert jobs.SCHEDULES["carry_on_bulk"]["minutes"] == 1


class TestEveryAction:
    """Every action of every list as a bulk action."""

    @pytest.fixture
    def rooms(self) -> list[Room]:
        """Three rooms of ada and grace, each with two messages that ada sent a minute ago and grace has not received."""

        async def make() -> list[Room]:
            ada, grace = await person("ada"), await person("grace")
            made = [await room_of(ada, grace) for _ in range(3)]
            store = open_store()
            for room in made:
                key = key_of(room)
                await accept(store, *(message(TEXT, user=ada.pk, room=key) for _ in range(2)))
                for seq in (1, 2):
                    await store.client.hset(f"{key.key}:msg:{seq}", "sent_at", await store.now_ms() - 60_000)
            await store.presence.report("process", [grace.pk], 60)
            return made

        return run_async(make)

    @pytest.fixture
    def client(self) -> Client:
        return staff(is_superuser=True)

    def done(self, client: Client, path: str, verb: str, **given: Any) -> BulkAction:
        action = begin(client, verb, path, **given)
        carry_on()
        assert TEXT not in progress(client, action)
        action.refresh_from_db()
        assert (action.state, action.at) == ("done", action.total)
        return action

    def test_rooms_are_retried(
        self, rooms: list[Room], client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small(monkeypatch, UndeliveredRoomAdmin)
        assert result_of(self.done(client, "undeliveredroom/", "retry"))[1:] == (3, 0, 0, {})

    def test_members_are_retried_and_their_attempts_reset(
        self, rooms: list[Room], client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def join() -> None:
            for name in ("bob", "carol"):
                user = await person(name)
                await Membership.objects.acreate(room=rooms[0], user=user)
                await open_store().client.zadd(f"{key_of(rooms[0]).key}:delivered", {user.pk: 0})
                await open_store().client.zadd(f"{key_of(rooms[0]).key}:joined", {user.pk: 0})

        run_async(join)
        small(monkeypatch, UndeliveredMemberAdmin)
        path = f"undeliveredmember/?room={rooms[0].pk}"
        assert result_of(self.done(client, path, "retry"))[1:] == (1, 2, 0, {"away": 2})
        assert result_of(self.done(client, path, "reset"))[1:] == (0, 3, 0, {"no_attempts": 3})

    def test_messages_are_extended_and_deleted(
        self, rooms: list[Room], client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small(monkeypatch, StoredMessageAdmin)
        action = self.done(client, "storedmessage/", "extend", ttl=86_400)
        assert result_of(action)[1:] == (6, 0, 0, {})
        assert action.given == {"ttl": 86_400}
        path = f"storedmessage/?room={rooms[0].pk}"
        assert result_of(self.done(client, path, "delete"))[1:] == (2, 0, 0, {})
        assert result_of(self.done(client, "storedmessage/", "delete"))[1:] == (4, 2, 0, {"unknown": 2})
        assert AuditEntry.objects.filter(verb="delete").count() == 6
        assert LogEntry.objects.filter(change_message="deleted a message").count() == 6

    def test_lifetimes_of_rooms_change_after_a_count(
        self, rooms: list[Room], client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small(monkeypatch, RoomAdmin)
        asked = ask(client, "room/", "lifetime")
        assert "Lifetime of new messages, in seconds" in asked.content.decode()
        given = {"ttl": 30, "shorten": "on"}
        page = client.post(f"{PAGES}/room/", {"action": "lifetime", "bulk": asked.context["bulk"], **given})
        assert "Of 6 existing messages, 6 will expire sooner, 6 of them immediately." in page.content.decode()
        assert confirm(client, "room/", "lifetime", page, **given).startswith(
            "Started: the worker is processing 3 rows"
        )
        carry_on()
        assert result_of(BulkAction.objects.get())[:4] == ("done", 3, 0, 0)
        assert set(Room.objects.values_list("ttl_s", flat=True)) == {30}

    async def test_connections_of_a_user_with_several_memberships_are_closed_once(
        self, verbs: None, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small(monkeypatch, MembershipAdmin)
        ada, grace = await person("ada"), await person("grace")
        for _ in range(3):
            await room_of(ada, grace)
        await open_store().presence.report("process", [ada.pk, grace.pk], 60)
        client = await in_db_thread(staff, is_superuser=True)
        action = await in_db_thread(self.done, client, "membership/", "close")
        assert (action.total, action.done) == (2, 2)
        closed = []
        while len(closed) < 2:
            event = await events.next()
            closed += [event["user"]] if event["type"] == "close_user" else []
        assert sorted(closed) == sorted([ada.pk, grace.pk])


def test_the_list_of_bulk_actions_is_read_only_and_has_no_unconfirmed_ones(few: None) -> None:
    letters(3)
    client = staff(is_superuser=True)
    ask(client, "deadletter/", "discard")
    assert "No bulk actions yet." in client.get(f"{PAGES}/bulkaction/").content.decode()
    action = BulkAction.objects.get()
    assert client.get(f"{PAGES}/bulkaction/{action.pk}/change/").status_code == 404
    assert client.get(f"{PAGES}/bulkaction/add/").status_code == 403
    assert client.post(f"{PAGES}/bulkaction/{action.pk}/delete/", {"post": "yes"}).status_code == 403


def test_an_action_that_this_version_does_not_have_is_stopped(few: None) -> None:
    letters(3)
    client = staff(*MAY)
    action = begin(client, "discard")
    BulkAction.objects.update(verb="archive")
    carry_on()
    assert result_of(action)[0] == "stopped"
    assert "Stopped: this version does not have this action." in progress(
        staff("view_bulkaction", name="b"), action
    )
    assert timedelta(0) < action.ended_at - action.started_at
