"""A dead letter is resent once, or discarded and reopened. Every action leaves an audit row without text."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from messaging.expiry import letters, reports
from messaging.models import AuditEntry, DeadLetter, Membership, Room, epoch_ms
from messaging.store.records import Missed
from tests.support.expired_records import NOW, TEXT, again, expired, letter, missed, people

pytestmark = pytest.mark.django_db
ANSWER = {"epoch": "e1", "seq": 90, "sent_at": NOW + 1, "expires_at": NOW + 3_600_001}
OTHER = {"epoch": "e1", "seq": 91, "sent_at": NOW + 2, "expires_at": NOW + 3_600_002}


class TestFinding:
    def test_a_letter_is_found_by_its_seq_in_its_life_of_the_log(
        self, room: Room, ada: User, grace: User
    ) -> None:
        old = letter(room, ada, grace, seq=3, epoch="e1", sent_at=NOW - 9_000_000)
        new = letter(room, ada, grace, seq=3, epoch="e2")
        assert letters.letter_of(room.id, 3, "e1") == old
        assert letters.letter_of(room.id, 3, "e2") == new
        assert letters.letter_of(room.id, 3) == new
        assert letters.letter_of(room.id, 3, "e3") is None
        assert letters.letter_of(room.id, 4) is None
        assert letters.letter_of("elsewhere", 3) is None

    def test_all_who_missed_it_come_back_with_reason_and_attempts(
        self, room: Room, ada: User, grace: User
    ) -> None:
        who = (Missed(grace.pk, "no_ack", 8), Missed(70_000, "left_room", 0))
        reports.record([expired(room, ada, who)], NOW)
        assert set(letters.missing_of(DeadLetter.objects.get())) == set(who)


class TestReachableRecipients:
    def test_members_who_left_or_were_deactivated_or_deleted_are_left_out(
        self, room: Room, ada: User, grace: User
    ) -> None:
        left, leaving, inactive, outside = people("left", "leaving", "inactive", "outside")
        Membership.objects.bulk_create(Membership(room=room, user=user) for user in (ada, grace, inactive))
        Membership.objects.create(room=room, user=leaving, leaving_at=timezone.now())
        User.objects.filter(pk__in=[inactive.pk, outside.pk]).update(is_active=False)
        who = missed(grace, left, leaving, inactive, outside, 90_000)
        reports.record([expired(room, ada, who)], NOW)

        users, skipped = letters.reachable_recipients(DeadLetter.objects.get())

        assert users == [grace.pk]
        assert dict(skipped) == {
            left.pk: "left_room",
            leaving.pk: "left_room",
            inactive.pk: "deactivated",
            outside.pk: "deactivated",
            90_000: "deleted",
        }

    def test_deleted_room_has_no_reachable_recipients(self, room: Room, ada: User, grace: User) -> None:
        kept = letter(room, ada, grace)
        Room.objects.filter(pk=room.pk).delete()
        assert letters.reachable_recipients(again(kept.pk)) == ([], [(grace.pk, "left_room")])

    def test_all_of_ten_thousand_recipients_are_checked(self, room: Room, ada: User) -> None:
        User.objects.bulk_create([User(username=f"u{number}") for number in range(10_000)], batch_size=1_000)
        keys = list(User.objects.exclude(pk=ada.pk).order_by("pk").values_list("pk", flat=True))
        Membership.objects.bulk_create((Membership(room=room, user_id=key) for key in keys), batch_size=1_000)
        reports.record([expired(room, ada, missed(*keys))], NOW)
        assert letters.reachable_recipients(DeadLetter.objects.get()) == (keys, [])


class TestResend:
    def test_first_answer_is_kept(self, room: Room, ada: User, grace: User) -> None:
        kept = letter(room, ada, grace)
        assert letters.begin_resend(kept.pk, NOW)
        assert letters.end_resend(kept.pk, ANSWER, ada.pk, NOW + 5) == ANSWER
        assert letters.end_resend(kept.pk, OTHER, grace.pk, NOW + 9, "requeue") == ANSWER

        row = again(kept.pk)
        assert (row.state, row.answer, row.resolved_by) == ("requeued", ANSWER, ada)
        assert row.resolved_at is not None
        assert epoch_ms(row.resolved_at) == NOW + 5
        entry = AuditEntry.objects.get()
        assert (entry.verb, entry.user, entry.user_key, entry.user_name) == ("resend", ada, ada.pk, "ada")
        assert (entry.room_key, entry.seq, entry.message_id) == (room.id, kept.seq, kept.message_id)
        assert entry.detail == {"seq": 90, "sent_at": NOW + 1, "expires_at": NOW + 3_600_001}
        assert TEXT not in str(AuditEntry.objects.values())

    def test_audit_entry_of_a_requeue_names_the_staff_member_or_nobody_for_a_job(
        self, room: Room, ada: User, grace: User
    ) -> None:
        first, second = letter(room, ada, grace, seq=1), letter(room, ada, grace, seq=2)
        letters.end_resend(first.pk, ANSWER, grace.pk, NOW, "requeue")
        letters.end_resend(second.pk, OTHER, None, NOW, "requeue")
        entries = AuditEntry.objects.order_by("pk").values_list("verb", "user", "user_name")
        assert list(entries) == [("requeue", grace.pk, "grace"), ("requeue", None, "")]

    def test_resend_begins_again_except_after_its_end_a_discard_or_without_the_text(
        self, room: Room, ada: User, grace: User
    ) -> None:
        begun, ended, discarded, scrubbed = (letter(room, ada, grace, seq=seq) for seq in range(1, 5))
        letters.begin_resend(begun.pk, NOW)
        letters.end_resend(ended.pk, ANSWER, None, NOW)
        letters.discard([discarded.pk], None, NOW)
        DeadLetter.objects.filter(pk=scrubbed.pk).update(body=None)
        can = [letters.begin_resend(one.pk, NOW + 1_000) for one in (begun, ended, discarded, scrubbed)]
        assert can == [True, False, False, False]
        assert not letters.begin_resend(uuid4(), NOW)
        started = again(begun.pk).resend_started_at
        assert started is not None
        assert epoch_ms(started) == NOW, "the first beginning stands"

    def test_resend_without_an_answer_is_found_after_a_minute(
        self, room: Room, ada: User, grace: User
    ) -> None:
        waiting, answered, untouched, abandoned = (letter(room, ada, grace, seq=seq) for seq in range(1, 5))
        for one in (waiting, answered, abandoned):
            letters.begin_resend(one.pk, NOW)
        letters.end_resend(answered.pk, ANSWER, None, NOW)
        letters.abandon_resend(abandoned.pk)
        assert letters.unfinished_resends(NOW + 60_000) == []
        assert letters.unfinished_resends(NOW + 60_001) == [waiting]
        assert again(untouched.pk).resend_started_at is None

    def test_an_answer_is_not_abandoned(self, room: Room, ada: User, grace: User) -> None:
        kept = letter(room, ada, grace)
        letters.begin_resend(kept.pk, NOW)
        letters.end_resend(kept.pk, ANSWER, None, NOW)
        letters.abandon_resend(kept.pk)
        assert again(kept.pk).resend_started_at is not None


class TestDiscard:
    def test_only_open_letters_that_are_not_being_resent_are_discarded(
        self, room: Room, ada: User, grace: User
    ) -> None:
        first, requeued, resending = (letter(room, ada, grace, seq=seq) for seq in range(1, 4))
        letters.end_resend(requeued.pk, ANSWER, None, NOW)
        letters.begin_resend(resending.pk, NOW)
        unknown = uuid4()

        resolved = letters.discard([first.pk, requeued.pk, resending.pk, unknown, first.pk], ada.pk, NOW)

        assert resolved.done == [first.pk]
        assert resolved.skipped == [
            (requeued.pk, "requeued"),
            (resending.pk, "resending"),
            (unknown, "unknown"),
        ]
        row = again(first.pk)
        assert (row.state, row.resolved_by) == ("discarded", ada)
        assert again(requeued.pk).answer == ANSWER
        assert letters.discard([first.pk], ada.pk, NOW).skipped == [(first.pk, "discarded")]
        entry = AuditEntry.objects.get(verb="discard")
        assert (entry.user, entry.seq, entry.message_id) == (ada, first.seq, first.message_id)

    def test_unfinished_resend_without_text_does_not_block_a_discard(
        self, room: Room, ada: User, grace: User
    ) -> None:
        kept = letter(room, ada, grace)
        letters.begin_resend(kept.pk, NOW)
        DeadLetter.objects.filter(pk=kept.pk).update(body=None)
        assert letters.discard([kept.pk], ada.pk, NOW).done == [kept.pk]

    def test_discard_is_undone_within_ten_minutes_and_not_later(
        self, room: Room, ada: User, grace: User
    ) -> None:
        first, second = letter(room, ada, grace, seq=1), letter(room, ada, grace, seq=2)
        letters.discard([first.pk, second.pk], ada.pk, NOW)
        in_time, late = NOW + 600_000, NOW + 600_001
        assert letters.undo_discard([first.pk], grace.pk, in_time).done == [first.pk]
        assert letters.undo_discard([second.pk], grace.pk, late).skipped == [(second.pk, "too_late")]
        row = again(first.pk)
        assert (row.state, row.resolved_at, row.resolved_by, row.body) == ("open", None, None, TEXT)
        assert again(second.pk).state == "discarded"
        assert letters.undo_discard([first.pk], grace.pk, in_time).skipped == [(first.pk, "open")]
        assert list(AuditEntry.objects.filter(verb="undo_discard").values_list("seq", "user")) == [
            (1, grace.pk)
        ]

    def test_a_thousand_take_few_statements(
        self, room: Room, ada: User, grace: User, django_assert_max_num_queries: object
    ) -> None:
        records = [expired(room, ada, missed(grace), seq) for seq in range(1, 1_001)]
        keys = reports.record(records, NOW).letters
        with django_assert_max_num_queries(30):  # type: ignore[operator]
            assert letters.discard(keys, ada.pk, NOW).done == keys
        assert AuditEntry.objects.filter(verb="discard").count() == 1_000
