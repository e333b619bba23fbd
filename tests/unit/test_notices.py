"""Notices are kept until their user dismisses them. Above a limit the oldest are summed up."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from messaging.expiry import letters, notices, reports
from messaging.models import DeadLetter, Notice, Room
from tests.support.expired_records import NOW, TEXT, expired, letter, missed, report

pytestmark = pytest.mark.django_db


def seqs(fields: list[dict[str, Any]]) -> list[int]:
    return [notice["data"]["seq"] for notice in fields]


class TestReading:
    def test_newest_notices_are_returned_the_oldest_first(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, *range(1, 61))
        report(room, ada, grace, *range(61, 151), now_ms=NOW + 60_000)
        assert seqs(notices.notices_of(ada.pk)) == list(range(51, 151))
        assert seqs(notices.notices_of(ada.pk, 3)) == [148, 149, 150]

    def test_lookup_by_id_returns_only_the_users_own_notices(
        self, room: Room, ada: User, grace: User
    ) -> None:
        recorded = report(room, ada, grace, 1, 2, 3)
        ids = recorded.notices[ada.pk]
        assert seqs(notices.notices_by_id(ada.pk, [ids[2], ids[0], "nothing"])) == [1, 3]
        assert notices.notices_by_id(grace.pk, ids) == []

    def test_resendable_ends_with_the_text_a_resend_or_a_discard(
        self, room: Room, ada: User, grace: User
    ) -> None:
        kept, scrubbed, resent, discarded = (
            letter(room, ada, grace, seq=seq, now_ms=NOW + seq) for seq in range(1, 5)
        )
        DeadLetter.objects.filter(pk=scrubbed.pk).update(body=None)
        letters.end_resend(resent.pk, {"epoch": "e1", "seq": 9, "sent_at": NOW, "expires_at": NOW}, None, NOW)
        letters.discard([discarded.pk], None, NOW)
        assert [notice["data"]["resendable"] for notice in notices.notices_of(ada.pk)] == [
            True,
            False,
            False,
            False,
        ]
        DeadLetter.objects.filter(pk=kept.pk).delete()
        assert not any(notice["data"]["resendable"] for notice in notices.notices_of(ada.pk))

    def test_reading_them_reads_no_text(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, 1)
        with CaptureQueriesContext(connection) as asked:
            listed = notices.notices_of(ada.pk)
        assert TEXT not in str(listed)
        assert [query["sql"].count('"body"') for query in asked] == [1], "only compared with NULL"


class TestDismissing:
    def test_dismissed_notice_is_not_listed_and_is_marked_in_a_lookup_by_id(
        self, room: Room, ada: User, grace: User
    ) -> None:
        first, second = report(room, ada, grace, 1, 2).notices[ada.pk]
        assert notices.dismiss(ada.pk, first, NOW)
        assert [notice["notice"] for notice in notices.notices_of(ada.pk)] == [second]
        assert [notice["dismissed"] for notice in notices.notices_by_id(ada.pk, [first, second])] == [
            True,
            False,
        ]

    def test_second_dismissal_changes_nothing(self, room: Room, ada: User, grace: User) -> None:
        [notice] = report(room, ada, grace, 1).notices[ada.pk]
        assert notices.dismiss(ada.pk, notice, NOW)
        at = Notice.objects.get().dismissed_at
        assert notices.dismiss(ada.pk, notice, NOW + 1_000)
        assert Notice.objects.get().dismissed_at == at

    def test_notice_of_another_user_is_not_dismissed(self, room: Room, ada: User, grace: User) -> None:
        [notice] = report(room, ada, grace, 1).notices[ada.pk]
        assert not notices.dismiss(grace.pk, notice, NOW)
        assert not notices.dismiss(ada.pk, "no-such-notice", NOW)
        assert Notice.objects.get().dismissed_at is None


class TestSumming:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notices, "MAX_WAITING", 10)

    def test_the_bound_is_that_of_the_contract(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        assert notices.MAX_WAITING == 1_000

    def test_notices_up_to_the_limit_are_kept(self, room: Room, ada: User, grace: User) -> None:
        recorded = report(room, ada, grace, *range(1, 11))
        assert len(recorded.notices[ada.pk]) == 10
        assert set(Notice.objects.values_list("kind", flat=True)) == {"undelivered"}

    def test_oldest_notices_above_the_limit_become_one_summary(
        self, room: Room, ada: User, grace: User
    ) -> None:
        other = Room.objects.create(name="Borealis")
        report(room, ada, grace, *range(1, 9))
        recorded = report(other, ada, grace, *range(9, 15), now_ms=NOW + 1_000)

        *rest, summary = notices.notices_of(ada.pk)
        assert seqs(rest) == list(range(5, 15))
        assert summary["kind"] == "summary"
        assert summary["data"] == {
            "messages": 4,
            "from_at": NOW - 100_000 + 1,
            "to_at": NOW - 100_000 + 4,
            "rooms": {room.id: 4},
        }
        assert recorded.notices[ada.pk] == [notice["notice"] for notice in rest[-6:]] + [summary["notice"]]

    def test_further_notices_are_added_to_the_same_summary(self, room: Room, ada: User, grace: User) -> None:
        other = Room.objects.create(name="Borealis")
        report(room, ada, grace, *range(1, 13))
        [first] = Notice.objects.filter(kind="summary")
        report(other, ada, grace, *range(13, 26), now_ms=NOW + 1_000)
        [summary] = Notice.objects.filter(kind="summary")
        assert summary.pk == first.pk
        assert summary.data == {
            "messages": 15,
            "from_at": NOW - 100_000 + 1,
            "to_at": NOW - 100_000 + 15,
            "rooms": {room.id: 12, other.id: 3},
        }
        assert Notice.objects.filter(kind="undelivered").count() == 10

    def test_new_summary_after_a_dismissal_begins_at_zero(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, *range(1, 13))
        first = Notice.objects.get(kind="summary")
        assert notices.dismiss(ada.pk, first.pk, NOW)
        report(room, ada, grace, 13, now_ms=NOW + 1_000)
        second = Notice.objects.get(kind="summary", dismissed_at=None)
        assert second.pk != first.pk
        assert second.data["messages"] == 1

    def test_dismissed_notices_and_those_of_other_users_are_not_summed_up(
        self, room: Room, ada: User, grace: User
    ) -> None:
        for notice in report(room, ada, grace, *range(1, 6)).notices[ada.pk]:
            notices.dismiss(ada.pk, notice, NOW)
        report(room, grace, ada, *range(1, 11))
        report(room, ada, grace, *range(6, 16))
        assert not Notice.objects.filter(kind="summary").exists()
        report(room, ada, grace, 16)
        assert Notice.objects.get(kind="summary").user == ada
        assert len(notices.notices_of(grace.pk)) == 10

    def test_a_letter_whose_notice_was_summed_is_not_told_of_again(
        self, room: Room, ada: User, grace: User
    ) -> None:
        records = [expired(room, ada, missed(grace), seq) for seq in range(1, 13)]
        reports.record(records, NOW)
        assert len(reports.record(records, NOW).notices[ada.pk]) == 10
        assert Notice.objects.get(kind="summary").data["messages"] == 2

    def test_queries_do_not_grow_with_the_notices_of_other_users(
        self, room: Room, ada: User, grace: User
    ) -> None:
        report(room, grace, ada, *range(1, 11))
        with CaptureQueriesContext(connection) as before:
            report(room, ada, grace, 1)
        User.objects.bulk_create([User(username=f"u{number}") for number in range(50)])
        with CaptureQueriesContext(connection) as after:
            report(room, ada, grace, 2)
        assert len(after) == len(before)
