"""Texts and records are deleted at the end of their retention, in batches. Deletions above a limit are logged."""

from __future__ import annotations

import logging
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Count
from django.test.utils import CaptureQueriesContext

from messaging import audit
from messaging.expiry import letters, notices, reports, retention
from messaging.models import AuditEntry, DeadLetter, FormerUser, MissedRecipient, Notice, Room, moment
from tests.support.expired_records import (
    DAY_MS,
    NOW,
    TEXT,
    again,
    expired,
    letter,
    missed,
    people,
    with_policy,
)

pytestmark = pytest.mark.django_db
WEEK_MS = 7 * DAY_MS
ANSWER = {"epoch": "e1", "seq": 90, "sent_at": NOW + 1, "expires_at": NOW + 3_600_001}


def many(room: Room, ada: User, grace: User, count: int) -> list[DeadLetter]:
    """Return letters, the oldest first."""
    records = [
        expired(room, ada, missed(grace), seq, expires_at=NOW - 1_000_000 + seq)
        for seq in range(1, count + 1)
    ]
    reports.record(records, NOW)
    return list(DeadLetter.objects.order_by("seq"))


class TestScrub:
    def test_text_is_deleted_a_week_after_the_expiry_and_the_letter_stays(
        self, room: Room, ada: User, grace: User
    ) -> None:
        first = letter(room, ada, grace, seq=1, expires_at=NOW)
        second = letter(room, ada, grace, seq=2, expires_at=NOW + 1)
        assert retention.scrub(NOW + WEEK_MS - 1) == 0
        assert retention.scrub(NOW + WEEK_MS) == 1
        assert (again(first.pk).body, again(second.pk).body) == (None, TEXT)
        assert retention.scrub(NOW + WEEK_MS) == 0

    def test_all_texts_are_deleted_when_retention_is_zero(
        self, room: Room, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        letter(room, ada, grace)
        with_policy(monkeypatch, dead_letter_retention_s=0)
        assert retention.scrub(NOW) == 1

    def test_each_call_scrubs_a_bounded_part_the_oldest_first(
        self, room: Room, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "ROW_BATCH", 3)
        rows = many(room, ada, grace, 5)
        late = NOW + WEEK_MS
        assert retention.scrub(late) == 3
        assert [again(row.pk).body is None for row in rows] == [True, True, True, False, False]
        assert [retention.scrub(late), retention.scrub(late)] == [2, 0]

    @pytest.mark.skipif(connection.vendor != "sqlite", reason="its files are what is looked at")
    @pytest.mark.django_db(transaction=True)
    def test_scrubbed_text_is_not_left_in_the_files_of_the_database(
        self, room: Room, ada: User, grace: User
    ) -> None:
        text = "the words that nobody may find"
        database = Path(str(connection.settings_dict["NAME"]))
        files = [database, database.with_name(database.name + "-wal")]
        letter(room, ada, grace, body=text)
        assert text.encode() in content(files)
        retention.scrub(NOW + WEEK_MS)
        assert text.encode() not in content(files)


def content(files: list[Path]) -> bytes:
    """Read files of the database in another process: closing one here would drop the locks that SQLite holds on it."""
    names = [str(file) for file in files if file.exists()]
    return subprocess.run(["cat", *names], capture_output=True, check=True).stdout


class TestAge:
    def test_letters_of_ninety_days_are_deleted_with_their_recipients_but_not_the_notice(
        self, room: Room, ada: User, grace: User
    ) -> None:
        letter(room, ada, grace, expires_at=NOW)
        assert retention.prune(NOW + 90 * DAY_MS) == 0
        assert retention.prune(NOW + 90 * DAY_MS + 1) == 1
        assert (DeadLetter.objects.count(), MissedRecipient.objects.count()) == (0, 0)
        [notice] = notices.notices_of(ada.pk)
        assert not notice["data"]["resendable"]

    def test_a_notice_waits_for_ever_until_it_is_dismissed(self, room: Room, ada: User, grace: User) -> None:
        letter(room, ada, grace)
        [notice] = notices.notices_of(ada.pk)
        retention.prune(NOW + 1_000 * DAY_MS)
        assert Notice.objects.exists()
        notices.dismiss(ada.pk, notice["notice"], NOW)
        assert retention.prune(NOW + 90 * DAY_MS) == 0
        assert retention.prune(NOW + 90 * DAY_MS + 1) == 1
        assert not Notice.objects.exists()

    def test_audit_entries_are_deleted_at_the_same_age(self, ada: User) -> None:
        audit.note("edit", now_ms=NOW, user=ada.pk, room_key="r", seq=1, rev=2)
        assert retention.prune(NOW + 90 * DAY_MS) == 0
        assert retention.prune(NOW + 90 * DAY_MS + 1) == 1
        assert not AuditEntry.objects.exists()

    def test_busy_user_cannot_fill_the_disk(self, ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
        with_policy(monkeypatch, dead_letter_count=3)
        for rev in range(5):
            audit.note("edit", now_ms=NOW + rev, user=ada.pk, room_key="r", seq=1, rev=rev)
        assert retention.prune(NOW + 10) == 2
        assert sorted(AuditEntry.objects.values_list("rev", flat=True)) == [2, 3, 4]

    def test_busy_user_displaces_no_audit_entry_of_another(
        self, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_policy(monkeypatch, dead_letter_count=4)
        audit.note("delete", now_ms=NOW, user=grace.pk, room_key="r", rev=0)
        audit.note("delete", now_ms=NOW + 1, user=ada.pk, room_key="r", rev=1)
        for rev in range(2, 7):
            audit.note("edit", now_ms=NOW + rev, user=ada.pk, room_key="other", rev=rev)
        assert retention.prune(NOW + 10) == 3
        assert sorted(AuditEntry.objects.values_list("rev", flat=True)) == [0, 1, 5, 6]

    def test_audit_entries_of_staff_jobs_and_commands_are_deleted_by_age_only(
        self, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_policy(monkeypatch, dead_letter_count=2)
        User.objects.filter(pk=grace.pk).update(is_staff=True)
        for rev in range(5):
            for user in (ada.pk, grace.pk, None):
                audit.note("edit", now_ms=NOW + rev, user=user, room_key="r", rev=rev)
        assert retention.prune(NOW + 10) == 3
        assert sorted(AuditEntry.objects.filter(user=ada).values_list("rev", flat=True)) == [3, 4]
        assert AuditEntry.objects.exclude(user=ada).count() == 10
        assert retention.prune(NOW + 91 * DAY_MS) == 12

    def test_a_former_name_stays_as_long_as_anybody_may_be_missed(self) -> None:
        FormerUser.objects.create(user_key=5, name="grace", deleted_at=moment(NOW))
        kept_ms = (28 + 1) * DAY_MS
        assert retention.prune(NOW + kept_ms) == 0
        assert retention.prune(NOW + kept_ms + 1) == 1

    def test_each_call_prunes_a_bounded_part_and_reads_no_text(
        self, room: Room, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "ROW_BATCH", 3)
        many(room, ada, grace, 5)
        late = NOW + 91 * DAY_MS
        with CaptureQueriesContext(connection) as asked:
            assert retention.prune(late) == 3
        assert not [query for query in asked if '"body"' in query["sql"]]
        assert sorted(DeadLetter.objects.values_list("seq", flat=True)) == [4, 5]
        assert [retention.prune(late), retention.prune(late)] == [2, 0]


class TestCount:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_policy(monkeypatch, dead_letter_count=4)

    def test_oldest_resolved_letters_are_deleted_first(self, room: Room, ada: User, grace: User) -> None:
        rows = many(room, ada, grace, 6)
        letters.discard([rows[1].pk, rows[5].pk], None, NOW)
        letters.end_resend(rows[3].pk, ANSWER, None, NOW)
        assert retention.prune(NOW) == 2
        assert list(DeadLetter.objects.order_by("seq").values_list("seq", flat=True)) == [1, 3, 5, 6]
        assert retention.dropped_open(NOW) == 0
        assert retention.prune(NOW) == 0

    def test_oldest_open_letters_are_deleted_next_with_a_warning_and_an_audit_entry(
        self, room: Room, ada: User, grace: User, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = many(room, ada, grace, 7)
        letters.discard([rows[6].pk], None, NOW)
        with caplog.at_level(logging.WARNING, "messaging"):
            assert retention.prune(NOW) == 3
        assert list(DeadLetter.objects.order_by("seq").values_list("seq", flat=True)) == [3, 4, 5, 6]
        assert [record.getMessage() for record in caplog.records] == [
            "dropped 2 open dead letters: more than 4 (dead_letter_count)"
        ]
        entry = AuditEntry.objects.get(verb="prune")
        assert (entry.user, entry.detail) == (None, {"open": 2})
        assert retention.dropped_open(NOW) == 2
        assert retention.dropped_open(NOW + DAY_MS - 1) == 2
        assert retention.dropped_open(NOW + DAY_MS) == 0

    def test_each_call_deletes_a_bounded_part(
        self, room: Room, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "ROW_BATCH", 2)
        many(room, ada, grace, 9)
        assert [retention.prune(NOW) for _ in range(4)] == [2, 2, 1, 0]
        assert retention.dropped_open(NOW) == 5

    def test_busy_sender_displaces_no_letter_of_another(self, room: Room, ada: User, grace: User) -> None:
        kept = letter(room, grace, ada, expires_at=NOW - 2_000_000)
        many(room, ada, grace, 9)
        assert retention.prune(NOW) == 6
        assert again(kept.pk).body == TEXT
        assert list(DeadLetter.objects.filter(sender=ada).order_by("seq").values_list("seq", flat=True)) == [
            7,
            8,
            9,
        ]

    def test_busy_room_displaces_no_letter_of_its_sender_in_another_room(
        self, room: Room, ada: User, grace: User
    ) -> None:
        kept = letter(Room.objects.create(name="Borealis"), ada, grace, expires_at=NOW - 2_000_000)
        many(room, ada, grace, 9)
        assert retention.prune(NOW) == 6
        assert again(kept.pk).body == TEXT

    def test_letter_whose_notice_waits_is_deleted_after_the_letters_of_dismissed_notices(
        self, room: Room, ada: User, grace: User
    ) -> None:
        many(room, ada, grace, 6)
        for notice in notices.notices_of(ada.pk)[3:5]:
            notices.dismiss(ada.pk, notice["notice"], NOW)
        assert retention.prune(NOW) == 2
        assert sorted(DeadLetter.objects.values_list("seq", flat=True)) == [1, 2, 3, 6]

    def test_deleted_sender_shares_the_surplus_as_other_users_do(
        self, room: Room, ada: User, grace: User
    ) -> None:
        [lost] = people("lost")
        many(room, lost, grace, 3)
        many(room, ada, grace, 3)
        lost.delete()
        assert retention.prune(NOW) == 2
        assert dict(DeadLetter.objects.values_list("sender_name").annotate(Count("pk"))) == {
            "ada": 2,
            "lost": 2,
        }

    def test_sender_keeps_the_notice_of_a_dropped_letter(self, room: Room, ada: User, grace: User) -> None:
        many(room, ada, grace, 6)
        retention.prune(NOW)
        assert len(notices.notices_of(ada.pk)) == 6


@pytest.mark.parametrize(
    ("counts", "surplus", "parts"),
    [
        ({"a": 9, "b": 5, "c": 1}, 3, {"a": 3}),
        ({"a": 9, "b": 5, "c": 1}, 4, {"a": 4}),
        ({"a": 9, "b": 5, "c": 1}, 6, {"a": 5, "b": 1}),
        ({"a": 9, "b": 5, "c": 1}, 7, {"a": 5, "b": 2}),
        ({"a": 5, "b": 5, "c": 5}, 2, {"b": 1, "c": 1}),
        ({"a": 9, "b": 5, "c": 1}, 15, {"a": 9, "b": 5, "c": 1}),
        ({"a": 2}, 9, {"a": 2}),
    ],
)
def test_surplus_makes_the_largest_holders_equal(
    counts: dict[str, int], surplus: int, parts: dict[str, int]
) -> None:
    assert retention._largest(counts, surplus) == parts


def test_moments_are_exact_to_the_millisecond() -> None:
    assert moment(NOW + 1) - moment(NOW) == timedelta(milliseconds=1)
