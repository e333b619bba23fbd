"""A missed message is reported once: with letter, missed recipients and the sender's notice, or not at all."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, OperationalError, connection, connections
from django.test.utils import CaptureQueriesContext

from messaging.expiry import notices, packing, reports
from messaging.models import DeadLetter, FormerUser, MissedRecipient, Notice, Room, epoch_ms
from messaging.store.records import Expired, Missed
from tests.support.expired_records import DAY_MS, NOW, TEXT, expired, missed, people, with_policy

pytestmark = pytest.mark.django_db


def counts() -> tuple[int, int, int]:
    return DeadLetter.objects.count(), MissedRecipient.objects.count(), Notice.objects.count()


class TestRecord:
    def test_missed_message_becomes_a_letter_a_recipient_and_a_notice(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        one = expired(room, ada, missed(grace, reason="no_ack", attempts=3), reply_to=4, resends=5)

        recorded = reports.record([one], NOW)

        letter = DeadLetter.objects.get()
        assert recorded.letters == [letter.pk] == [reports.key_of(one)]
        assert (letter.room, letter.room_key, letter.room_name) == (room, room.id, "Atlas")
        assert (letter.epoch, letter.seq, letter.message_id) == ("e1", 7, one.id)
        assert (letter.sender, letter.sender_key, letter.sender_name) == (ada, ada.pk, "ada")
        assert (letter.body, letter.reply_to, letter.resends) == (TEXT, 4, 5)
        times = [epoch_ms(at) for at in (letter.sent_at, letter.expired_at, letter.processed_at)]
        assert times == [one.sent_at, one.expires_at, NOW]
        assert (letter.delivered, letter.total, letter.missing_total) == (1, 2, 1)
        assert (letter.state, letter.answer, letter.fault) == ("open", None, "")
        assert packing.unpack(letter.missing) == list(one.missed)
        recipient = MissedRecipient.objects.get()
        assert (recipient.dead_letter, recipient.user, recipient.user_key) == (letter, grace, grace.pk)
        assert (recipient.name, recipient.reason, recipient.attempts) == ("grace", "no_ack", 3)

        [notice] = notices.notices_of(ada.pk)
        assert recorded.notices == {ada.pk: [notice["notice"]]}
        assert notice == {
            "notice": notice["notice"],
            "kind": "undelivered",
            "at": NOW,
            "dismissed": False,
            "data": {
                "room": room.id,
                "epoch": "e1",
                "seq": 7,
                "id": one.id,
                "sent_at": one.sent_at,
                "expired_at": one.expires_at,
                "delivered": 1,
                "total": 2,
                "missing": [{"user": grace.pk, "name": "grace", "reason": "no_ack", "attempts": 3}],
                "missing_total": 1,
                "resendable": True,
            },
        }
        assert notices.notices_of(grace.pk) == []

    def test_deleted_and_fully_delivered_messages_are_not_reported(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        deleted = expired(room, ada, missed(grace), live=False)
        reached = expired(room, ada, ())
        with CaptureQueriesContext(connection) as asked:
            assert reports.record([deleted, reached], NOW) == reports.Report([], {})
            assert reports.quarantine(deleted, NOW, "ValueError") == reports.Report([], {})
        assert len(asked) == 0

    def test_second_run_writes_nothing_and_returns_undismissed_notices(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        records = [expired(room, ada, missed(grace), seq) for seq in range(1, 4)]
        first = reports.record(records, NOW)
        rows = list(DeadLetter.objects.values().order_by("pk"))

        second = reports.record([*records, expired(room, ada, missed(grace), 4)], NOW + 60_000)

        assert len(second.letters) == 1
        assert second.notices[ada.pk][:3] == first.notices[ada.pk]
        assert counts() == (4, 4, 4)
        assert list(DeadLetter.objects.filter(pk__in=first.letters).values().order_by("pk")) == rows

    def test_message_that_is_twice_in_a_batch_is_reported_once(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        one = expired(room, ada, missed(grace))
        reports.record([one, dataclasses.replace(one)], NOW)
        assert counts() == (1, 1, 1)

    def test_an_id_that_was_accepted_again_when_the_store_had_forgotten_it_is_another_message(
        self, room: Room
    ) -> None:
        """An id is known for 24 hours. A client that uses it again later gets the answer of a new message."""
        ada, grace, alan = people("ada", "grace", "alan")
        first = expired(room, ada, missed(grace), 7, expires_at=NOW - 2 * DAY_MS)
        again = dataclasses.replace(expired(room, ada, missed(alan), 9), id=first.id)
        reports.record([first], NOW - 2 * DAY_MS)
        [letter] = reports.record([again], NOW).letters
        assert letter != reports.key_of(first)
        for batch in ([again], [first, again], [again, first]):
            assert reports.record(batch, NOW).letters == [], "run again, each is known"
            assert reports.quarantine(batch[0], NOW, "ValueError").letters == []
        listed = [(one["data"]["seq"], one["data"]["id"]) for one in notices.notices_of(ada.pk)]
        assert listed == [(7, first.id), (9, first.id)]

    def test_two_messages_of_one_id_in_one_batch_are_two_reports_in_any_order(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        long = expired(room, ada, missed(grace), 7, expires_at=NOW - 5_000)
        short = dataclasses.replace(expired(room, ada, missed(grace), 9), id=long.id)
        other = dataclasses.replace(short, epoch="e2", sent_at=short.sent_at + 1)
        assert len(reports.record([short], NOW).letters) == 1
        assert len(reports.record([short, long, other], NOW).letters) == 2
        assert reports.record([other, long, short], NOW).letters == []
        assert counts() == (3, 3, 3)

    def test_a_notice_that_was_dismissed_is_not_named_again(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        one = expired(room, ada, missed(grace))
        [notice] = reports.record([one], NOW).notices[ada.pk]
        assert notices.dismiss(ada.pk, notice, NOW)
        assert reports.record([one], NOW).notices == {}

    def test_the_same_id_of_two_senders_or_in_two_rooms_is_two_messages(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        other = Room.objects.create(name="Borealis")
        one = expired(room, ada, missed(grace))
        others = [dataclasses.replace(one, sender=grace.pk), expired(other, ada, missed(grace), id=one.id)]
        reports.record([one, *others], NOW)
        assert DeadLetter.objects.count() == 3

    def test_notices_come_in_the_order_in_which_the_messages_ended(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        records = [
            expired(room, ada, missed(grace), seq, expires_at=NOW - 5_000 - seq % 3) for seq in range(1, 40)
        ]
        recorded = reports.record(records, NOW)
        listed = [
            (fields["data"]["expired_at"], fields["data"]["seq"]) for fields in notices.notices_of(ada.pk)
        ]
        assert listed == sorted(listed)
        assert recorded.notices == {ada.pk: [fields["notice"] for fields in notices.notices_of(ada.pk)]}


class TestText:
    def test_a_site_that_keeps_none_never_writes_one(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_policy(monkeypatch, dead_letter_retention_s=0)
        ada, grace = people("ada", "grace")
        with CaptureQueriesContext(connection) as asked:
            reports.record([expired(room, ada, missed(grace))], NOW)
        assert DeadLetter.objects.get().body is None
        assert not [query for query in asked if TEXT in query["sql"]]
        assert not notices.notices_of(ada.pk)[0]["data"]["resendable"]

    def test_text_of_a_long_expired_message_is_not_kept(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        late = expired(room, ada, missed(grace), expires_at=NOW - 7 * DAY_MS)
        early = expired(room, ada, missed(grace), expires_at=NOW - 7 * DAY_MS + 1)
        reports.record([late, early], NOW)
        kept = dict(DeadLetter.objects.values_list("message_id", "body"))
        assert kept == {late.id: None, early.id: TEXT}

    def test_text_is_in_no_notice_and_no_log(self, room: Room, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        ada, grace = people("ada", "grace")
        reports.record([expired(room, ada, missed(grace))], NOW)
        with pytest.raises(reports.INVALID_ROW_ERRORS):
            reports.record([expired(room, ada, missed(grace), total=-1)], NOW)
        assert TEXT not in str(list(Notice.objects.values()))
        ours = [record.getMessage() for record in caplog.records if record.name != "django.db.backends"]
        assert TEXT not in str(ours)

    def test_message_without_a_hash_is_reported_with_the_known_names(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        reports.record([expired(room, ada, missed(grace), name="", body=None)], NOW)
        letter = DeadLetter.objects.get()
        assert (letter.sender_name, letter.body) == ("ada", None)
        assert not notices.notices_of(ada.pk)[0]["data"]["resendable"]


class TestNames:
    def test_a_name_that_no_column_holds_is_cut(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        reports.record([expired(room, ada, missed(grace), name="a" * 200)], NOW)
        assert DeadLetter.objects.get().sender_name == "a" * 150

    def test_deleted_users_keep_their_name_and_unknown_users_have_a_number(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        FormerUser.objects.create(user_key=9_000, name="linus", deleted_at="2026-01-01T00:00Z")
        reports.record([expired(room, ada, missed(9_001, 9_000, grace))], NOW)
        rows = list(MissedRecipient.objects.values_list("name", "user", "user_key"))
        assert rows == [("#9001", None, 9_001), ("linus", None, 9_000), ("grace", grace.pk, grace.pk)]

    @pytest.mark.django_db(transaction=True)
    def test_name_of_a_deleted_user_is_kept(self, room: Room, redis_url: str) -> None:
        ada, grace = people("ada", "grace")
        key = grace.pk
        grace.delete()
        assert FormerUser.objects.get().name == "grace"
        reports.record([expired(room, ada, missed(key))], NOW)
        assert [row["name"] for row in notices.notices_of(ada.pk)[0]["data"]["missing"]] == ["grace"]

    def test_a_deleted_sender_has_a_letter_and_no_notice(self, room: Room) -> None:
        [grace] = people("grace")
        recorded = reports.record([expired(room, 9_000, missed(grace))], NOW)
        letter = DeadLetter.objects.get()
        assert (letter.sender, letter.sender_key, letter.sender_name) == (None, 9_000, "#9000")
        assert (len(recorded.letters), recorded.notices) == (1, {})

    def test_a_deleted_room_is_known_by_its_id(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        one = expired(room, ada, missed(grace))
        key = room.id
        Room.objects.filter(pk=key).delete()
        reports.record([one], NOW)
        letter = DeadLetter.objects.get()
        assert (letter.room, letter.room_key, letter.room_name) == (None, key, "")
        assert notices.notices_of(ada.pk)[0]["data"]["room"] == key

    @pytest.mark.django_db(transaction=True)
    def test_letters_outlive_room_sender_and_recipient(self, room: Room, redis_url: str) -> None:
        ada, grace = people("ada", "grace")
        reports.record([expired(room, ada, missed(grace))], NOW)
        for gone in (room, grace, ada):
            gone.delete()
        letter, recipient = DeadLetter.objects.get(), MissedRecipient.objects.get()
        assert (letter.room, letter.room_name, letter.sender, letter.sender_name) == (
            None,
            "Atlas",
            None,
            "ada",
        )
        assert (recipient.user, recipient.name) == (None, "grace")
        assert Notice.objects.count() == 0


class TestManyMissing:
    def test_first_hundred_of_9900_members_are_named_and_all_are_kept(self, room: Room) -> None:
        [ada] = people("ada")
        User.objects.bulk_create([User(username=f"u{number}") for number in range(9_900)], batch_size=1_000)
        keys = list(User.objects.exclude(pk=ada.pk).order_by("-pk").values_list("pk", flat=True))
        one = expired(room, ada, missed(*keys))

        began = time.perf_counter()
        reports.record([one], NOW)
        assert time.perf_counter() - began < 1.0

        letter, [notice] = DeadLetter.objects.get(), notices.notices_of(ada.pk)
        assert (letter.total, letter.missing_total, letter.delivered) == (9_901, 9_900, 1)
        assert list(MissedRecipient.objects.values_list("user_key", flat=True)) == keys[:100]
        assert [person["user"] for person in notice["data"]["missing"]] == keys[:100]
        assert notice["data"]["missing_total"] == 9_900
        assert len(letter.missing) < 100
        assert sorted(row.user for row in packing.unpack(letter.missing)) == sorted(keys)

    def test_number_of_queries_does_not_grow_with_the_batch(self, room: Room) -> None:
        [ada, *others] = people("ada", *(f"u{number}" for number in range(20)))
        who = missed(*others)

        def queries_of(count: int, start: int) -> int:
            records = [expired(room, ada, who, start + number) for number in range(count)]
            with CaptureQueriesContext(connection) as queries:
                reports.record(records, NOW)
            return len([query for query in queries if query["sql"].startswith("SELECT")])

        assert queries_of(1, 0) == queries_of(100, 10)


class TestInvalidRows:
    """SQLite accepts a NUL and any length, PostgreSQL neither. Both report the message."""

    ODD: dict[str, dict[str, Any]] = {
        "a lone surrogate in the text": {"body": "\ud800"},
        "a NUL in the text": {"body": "a\0b"},
        "a NUL in the name": {"name": "a\0da"},
        "an epoch too long": {"epoch": "e" * 200},
        "an id too long": {"id": "i" * 200},
        "an id with a lone surrogate": {"id": "\ud800"},
        "a negative total": {"total": -1},
        "a total that no column holds": {"total": 2**70},
        "a reply to what no column holds": {"reply_to": 2**70},
        "a time after the last one": {"sent_at": 2**60},
        "a reason too long": {"missed": (Missed(1, "r" * 200, 0),)},
        "attempts that no column holds": {"missed": (Missed(1, "no_ack", 2**70),)},
        "a user that no column holds": {"missed": (Missed(2**70, "no_ack", 1),)},
        "a sender that no column holds": {"sender": 2**70},
    }

    @pytest.mark.parametrize("fields", ODD.values(), ids=ODD.keys())
    def test_invalid_message_is_quarantined_and_the_rest_is_recorded(
        self, room: Room, fields: dict[str, Any]
    ) -> None:
        ada, grace = people("ada", "grace")
        bad = dataclasses.replace(expired(room, ada, missed(grace), 1), **fields)
        good = expired(room, ada, missed(grace), 2)
        fault = self.fault_of([good, bad])
        if fault is not None:
            assert counts() == (0, 0, 0), "all or none"
            assert reports.quarantine(bad, NOW, fault).letters == [reports.key_of(bad)]
            reports.record([good], NOW)
            aside = DeadLetter.objects.get(fault=fault)
            assert (aside.body, aside.missing_total) == (None, 1)
            assert reports.quarantine(bad, NOW, "ValueError").letters == [], "twice is once"
        assert fault is not None or connection.vendor == "sqlite"
        assert DeadLetter.objects.count() == 2
        assert Notice.objects.count() == 2 - ("sender" in fields)

    @staticmethod
    def fault_of(some: list[Expired]) -> str | None:
        """Return the class of the error that `record` raises, except that of a database that is down."""
        try:
            reports.record(some, NOW)
        except OperationalError:
            raise
        except reports.INVALID_ROW_ERRORS as error:
            return type(error).__name__
        return None

    def test_quarantined_message_is_reported_to_its_sender_with_names(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        reports.quarantine(expired(room, ada, missed(grace), total=-1, name="\0"), NOW, "IntegrityError")
        letter, [notice] = DeadLetter.objects.get(), notices.notices_of(ada.pk)
        assert (letter.fault, letter.sender_name, letter.room_name) == ("IntegrityError", "ada", "Atlas")
        assert [person["name"] for person in notice["data"]["missing"]] == ["grace"]
        assert not notice["data"]["resendable"]

    def test_letter_is_written_without_a_notice_that_cannot_be_written(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(rows: Any, now_ms: int) -> Any:
            raise IntegrityError

        monkeypatch.setattr(notices, "insert", refuse)
        ada, grace = people("ada", "grace")
        recorded = reports.quarantine(expired(room, ada, missed(grace)), NOW, "IntegrityError")
        assert (len(recorded.letters), recorded.notices, counts()) == (1, {}, (1, 0, 0))

    def test_database_that_is_down_is_not_taken_for_an_invalid_row(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(rows: Any, now_ms: int) -> Any:
            raise OperationalError

        monkeypatch.setattr(notices, "insert", away)
        ada, grace = people("ada", "grace")
        one = expired(room, ada, missed(grace))
        with pytest.raises(OperationalError):
            reports.record([one], NOW)
        with pytest.raises(OperationalError):
            reports.quarantine(one, NOW, "ValueError")
        assert counts() == (0, 0, 0)

    def test_letter_that_was_not_written_fails_the_batch(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(DeadLetter.objects.all()), "bulk_create", lambda self, rows, **_: list(rows))
        ada, grace = people("ada", "grace")
        with pytest.raises(reports.INVALID_ROW_ERRORS, match="Not every dead letter"):
            reports.record([expired(room, ada, missed(grace))], NOW)


@pytest.mark.django_db(transaction=True)
class TestTwoWorkers:
    def test_concurrent_workers_write_each_message_once(self, room: Room) -> None:
        ada, grace, linus = people("ada", "grace", "linus")
        records = [expired(room, ada, missed(grace, linus), seq) for seq in range(1, 501)]
        faults, letters = self.at_once(
            lambda: reports.record(records, NOW),
            lambda: reports.record(records[::-1], NOW),
            lambda: reports.record(records[250:], NOW),
        )
        assert faults == []
        assert sorted(letters) == sorted(reports.key_of(one) for one in records)
        assert counts() == (500, 1_000, 500)

    def test_concurrent_workers_above_the_limit_count_every_notice_once(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        records = [expired(room, ada, missed(grace), seq) for seq in range(1, 1_201)]
        faults, letters = self.at_once(
            *(lambda part=records[at : at + 300]: reports.record(part, NOW) for at in range(0, 1_200, 300))
        )
        reports.record([expired(room, ada, missed(grace), 1_201)], NOW + 1)
        assert (faults, len(letters)) == ([], 1_200)
        waiting = Notice.objects.filter(kind="undelivered").count()
        summary = Notice.objects.get(kind="summary")
        assert waiting + summary.data["messages"] == 1_201
        assert waiting == 1_000

    def test_user_deleted_during_a_batch_is_not_referenced(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada, grace = people("ada", "grace")
        names = reports.Names

        def then_deleted(users: Any) -> Any:
            shown_names = names(users)
            User.objects.filter(pk=grace.pk)._raw_delete("default")
            return shown_names

        monkeypatch.setattr(reports, "Names", then_deleted)
        reports.record([expired(room, ada, missed(grace))], NOW)
        assert MissedRecipient.objects.get().user is None
        assert counts() == (1, 1, 1)

    @staticmethod
    def at_once(*works: Any) -> tuple[list[BaseException], list[Any]]:
        """Run every work in a separate thread at the same time; return the errors and the written letters."""
        ready = threading.Barrier(len(works))
        faults: list[BaseException] = []
        letters: list[Any] = []

        def run(work: Any) -> None:
            try:
                ready.wait(10)
                letters.extend(work().letters)
            except BaseException as error:  # noqa: BLE001  (the test looks at it)
                faults.append(error)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=run, args=[work]) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return faults, letters


def test_the_key_of_a_message_never_changes_between_releases() -> None:
    room = Room(id="r" * 11, partition=3)
    one: Expired = expired(room, 5, (), id="5b6e0c3f-3f64-4cbb-a2b1-1c5d1f7e2a90")
    assert str(reports.key_of(one)) == "5f077f4d-df62-597f-a20b-1d5cfe216c56"
