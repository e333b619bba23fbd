"""A sender can read every notice and every name: more than 100, more than 1,000, and those that a summary replaced."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from messaging.errors import BadRequest, NoSuchMessage
from messaging.expiry import letters, notice_pages, notices, reports
from messaging.models import DeadLetter, MissedRecipient, Notice, Room
from messaging.store.records import Missed
from tests.support.expired_records import NOW, TEXT, expired, letter, report

pytestmark = pytest.mark.django_db


def pages(user: User, limit: int) -> list[list[dict[str, Any]]]:
    """Return all pages, as a client reads them."""
    read = []
    before: str | None = ""
    while before is not None:
        page = notice_pages.notices_before(user.pk, before, limit)
        read.append(page["notices"])
        before = page["next"]
    return read


def every(user: User, limit: int = 100) -> list[dict[str, Any]]:
    return [notice for page in pages(user, limit) for notice in page]


def seqs(fields: list[dict[str, Any]]) -> list[int]:
    return [notice["data"]["seq"] for notice in fields if notice["kind"] == "undelivered"]


def all_missing(user: User, notice: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = []
    while page := notice_pages.missing_after(user.pk, notice, read[-1]["user"] if read else 0)["missing"]:
        read += page
    return read


class TestNotices:
    def test_all_notices_are_read_page_by_page_the_newest_first(
        self, room: Room, ada: User, grace: User
    ) -> None:
        report(room, ada, grace, *range(1, 61))
        report(room, ada, grace, *range(61, 151), now_ms=NOW + 60_000)
        read = pages(ada, 40)
        assert [len(page) for page in read] == [40, 40, 40, 30]
        assert seqs([notice for page in read for notice in page]) == list(range(150, 0, -1))

    def test_last_page_that_is_full_has_no_next(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, *range(1, 5))
        assert [len(page) for page in pages(ada, 2)] == [2, 2]
        assert pages(grace, 2) == [[]]

    def test_listed_notice_is_that_of_the_frame(self, room: Room, ada: User, grace: User) -> None:
        recorded = report(room, ada, grace, 1, 2, 3)
        ids = recorded.notices[ada.pk]
        notices.dismiss(ada.pk, ids[0], NOW)
        letters.discard([DeadLetter.objects.get(seq=2).pk], None, NOW)
        assert every(ada)[::-1] == notices.notices_by_id(ada.pk, ids)
        assert [notice["dismissed"] for notice in every(ada)] == [False, False, True]
        assert [notice["data"]["resendable"] for notice in every(ada)] == [True, False, True]

    def test_only_the_users_own_notices_are_listed(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, 1)
        assert every(grace) == []

    def test_notice_whose_letter_was_deleted_is_listed_in_its_place(
        self, room: Room, ada: User, grace: User
    ) -> None:
        report(room, ada, grace, *range(1, 6))
        DeadLetter.objects.filter(seq__in=[2, 4]).delete()
        assert seqs(every(ada, 2)) == [5, 4, 3, 2, 1]
        assert [notice["data"]["resendable"] for notice in every(ada)] == [True, False, True, False, True]

    @pytest.mark.parametrize(
        "before", ["x", "1-", "-1", f"1-{'g' * 32}", f"x-{'a' * 32}", f"{'9' * 99}-{'a' * 32}"]
    )
    def test_invalid_place_is_a_clear_error(self, ada: User, before: str) -> None:
        with pytest.raises(BadRequest, match="next"):
            notice_pages.notices_before(ada.pk, before, 10)

    def test_a_page_has_a_hundred_notices_at_most(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, *range(1, 121))
        assert len(notice_pages.notices_before(ada.pk, "", 10**9)["notices"]) == 100

    def test_reading_them_reads_no_text(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, 1)
        with CaptureQueriesContext(connection) as asked:
            listed = every(ada)
        assert TEXT not in str(listed)
        assert sum(query["sql"].count('"body"') for query in asked) == 1, "only compared with NULL"

    @pytest.mark.skipif(connection.vendor != "sqlite", reason="its plan is what is looked at")
    def test_a_page_is_read_in_the_order_of_an_index(self, room: Room, ada: User, grace: User) -> None:
        report(room, ada, grace, *range(1, 5))
        before = notice_pages.notices_before(ada.pk, "", 2)["next"]
        with CaptureQueriesContext(connection) as asked:
            notice_pages.notices_before(ada.pk, before, 2)
        assert len(asked) == 4
        plans = [
            plan(query["sql"]) for query in asked if "ORDER BY" in query["sql"] and "LIMIT 3" in query["sql"]
        ]
        assert ["dead_letter_sender" in plans[0], "notice_no_letter" in plans[1]] == [True, True], plans
        assert "TEMP B-TREE" not in "".join(plans)


def plan(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        return " ".join(str(row) for row in cursor.fetchall())


class TestSummary:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notices, "MAX_WAITING", 10)

    def test_notices_of_a_summary_are_read_with_every_name(self, room: Room, ada: User, grace: User) -> None:
        first = report(room, ada, grace, *range(1, 16))
        report(room, ada, grace, *range(16, 31), now_ms=NOW + 1_000)
        listed = every(ada, 7)
        assert seqs(listed) == list(range(30, 0, -1))
        assert [notice["kind"] for notice in listed].count("summary") == 1
        assert not any(notice["dismissed"] for notice in listed)
        names = [notice["data"]["missing"][0]["name"] for notice in listed if notice["kind"] == "undelivered"]
        assert names == ["grace"] * 30
        summed = [notice for notice in listed if not Notice.objects.filter(pk=notice["notice"]).exists()]
        assert len(summed) == 20
        assert {row["name"] for notice in summed for row in all_missing(ada, notice["notice"])} == {"grace"}
        assert set(first.notices[ada.pk]) < {notice["notice"] for notice in listed}, "they keep their ids"

    def test_notices_of_a_dismissed_summary_are_listed_as_dismissed(
        self, room: Room, ada: User, grace: User
    ) -> None:
        report(room, ada, grace, *range(1, 13))
        notices.dismiss(ada.pk, Notice.objects.get(kind="summary").pk, NOW)
        assert seqs([notice for notice in every(ada) if notice["dismissed"]]) == [2, 1]
        report(room, ada, grace, 13, now_ms=NOW + 1_000)
        assert seqs([notice for notice in every(ada) if notice["dismissed"]]) == [2, 1]
        assert seqs(every(ada)) == list(range(13, 0, -1))


class TestMissing:
    def test_every_member_is_named_page_by_page(self, room: Room, ada: User) -> None:
        User.objects.bulk_create([User(username=f"u{number}") for number in range(450)])
        users = list(User.objects.exclude(pk=ada.pk).order_by("-pk"))
        letter(room, ada, *users)
        [notice] = every(ada)
        assert (len(notice["data"]["missing"]), notice["data"]["missing_total"]) == (100, 450)
        page = notice_pages.missing_after(ada.pk, notice["notice"], 0)
        assert (len(page["missing"]), page["total"]) == (200, 450)
        named = [(row["user"], row["name"]) for row in all_missing(ada, notice["notice"])]
        assert named == sorted((user.pk, user.username) for user in users)

    def test_member_has_reason_attempts_and_the_name_in_the_report(
        self, room: Room, ada: User, grace: User
    ) -> None:
        reports.record(
            [expired(room, ada, (Missed(grace.pk, "no_ack", 8), Missed(70_000, "left_room", 0)))], NOW
        )
        User.objects.filter(pk=grace.pk).update(username="hopper")
        [notice] = every(ada)
        first, second = notice["data"]["missing"]
        assert all_missing(ada, notice["notice"]) == [first, second]
        assert first == {"user": grace.pk, "name": "grace", "reason": "no_ack", "attempts": 8}
        MissedRecipient.objects.all().delete()
        assert [row["name"] for row in all_missing(ada, notice["notice"])] == ["hopper", "#70000"]

    def test_notice_whose_letter_was_deleted_has_its_own_names(
        self, room: Room, ada: User, grace: User
    ) -> None:
        letter(room, ada, grace)
        [notice] = every(ada)
        DeadLetter.objects.all().delete()
        assert [row["name"] for row in all_missing(ada, notice["notice"])] == ["grace"]

    def test_notice_of_an_older_release_is_found_by_its_own_id(
        self, room: Room, ada: User, grace: User
    ) -> None:
        letter(room, ada, grace)
        Notice.objects.update(id="older")
        assert [notice["notice"] for notice in every(ada)] == ["older"]
        assert [row["name"] for row in all_missing(ada, "older")] == ["grace"]

    def test_notice_of_another_user_is_unknown_and_so_is_a_summary(
        self, room: Room, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notices, "MAX_WAITING", 1)
        report(room, ada, grace, 1, 2)
        for notice in every(ada):
            with pytest.raises(NoSuchMessage):
                notice_pages.missing_after(grace.pk, notice["notice"], 0)
        with pytest.raises(NoSuchMessage):
            notice_pages.missing_after(ada.pk, Notice.objects.get(kind="summary").pk, 0)
        with pytest.raises(NoSuchMessage):
            notice_pages.missing_after(ada.pk, "nothing", 0)
