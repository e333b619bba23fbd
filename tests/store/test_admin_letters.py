"""Dead letters, notices and the audit trail on the pages of staff: read-only, without texts, with actions on letters."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from messaging.bridge import run_async
from messaging.expiry import letters
from messaging.models import AuditEntry, DeadLetter, Membership, Notice, Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.log import Log
from tests.support.bulk_actions import staff
from tests.support.expired_records import TEXT, again, letter, people
from tests.support.people import person, room_of, unavailable

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_url")]

LIST = "/admin/messaging/deadletter/"
READ = ("view_deadletter",)
MAY = (*READ, "requeue_deadletter", "discard_deadletter")


@pytest.fixture
def room() -> Room:
    """A room of ada, bob and carol, in the store too."""

    async def make() -> Room:
        return await room_of(*[await person(name) for name in ("ada", "bob", "carol")])

    return run_async(make)


@pytest.fixture
def kept(room: Room) -> list[DeadLetter]:
    """Three letters of ada that bob missed."""
    now_ms = run_async(_now_ms)
    ada, bob = User.objects.get(username="ada"), User.objects.get(username="bob")
    return [letter(room, ada, bob, seq=seq, now_ms=now_ms, expires_at=now_ms) for seq in (1, 2, 3)]


async def _now_ms() -> int:
    return await open_store().now_ms()


def asked(client: Client, action: str, *chosen: DeadLetter, everything: bool = False) -> Any:
    """Choose an action and rows on the list; return the answer."""
    data = {
        "action": action,
        "_selected_action": [str(row.pk) for row in chosen],
        "select_across": int(everything),
    }
    return client.post(LIST, data, follow=True)


def act(client: Client, action: str, *chosen: DeadLetter, everything: bool = False) -> str:
    """Run an action and confirm; return the messages of the list after it."""
    answer = asked(client, action, *chosen, everything=everything)
    if "chosen" in (answer.context or {}):
        data = {"action": action, "chosen": answer.context["chosen"], "confirmed": "yes"}
        answer = client.post(LIST, data, follow=True)
    page = answer.content.decode()
    return " ".join(re.findall(r'<li class="(?:success|warning|error)">(.*?)</li>', page, re.DOTALL))


def states(kept: list[DeadLetter]) -> list[str]:
    return [again(row.pk).state for row in kept]


class TestLooking:
    def test_lists_and_rows_are_shown_without_a_text_and_cannot_be_changed(
        self, room: Room, kept: list[DeadLetter]
    ) -> None:
        client = staff(is_superuser=True)
        letters.discard([kept[0].pk], None, run_async(_now_ms))
        rows = {
            "deadletter": kept[0].pk,
            "notice": Notice.objects.all()[0].pk,
            "auditentry": AuditEntry.objects.get().pk,
        }
        for model, key in rows.items():
            base = f"/admin/messaging/{model}/"
            for path in (base, f"{base}{key}/change/"):
                page = client.get(path)
                assert page.status_code == 200, path
                assert TEXT not in page.content.decode()
            assert b'name="_save"' not in page.content
            assert b"deletelink" not in page.content
            assert client.get(f"{base}add/").status_code == 403
            assert client.post(f"{base}{key}/change/", {"state": "open"}).status_code == 403
            assert client.post(f"{base}{key}/delete/", {"post": "yes"}).status_code == 403
        assert states(kept) == ["discarded", "open", "open"]

    def test_a_letter_shows_the_people_who_missed_it_and_how_long_its_text_is_kept(
        self, kept: list[DeadLetter]
    ) -> None:
        client = staff(*READ, "view_missedrecipient")
        page = client.get(f"{LIST}{kept[0].pk}/change/").content.decode()
        assert "bob" in page
        assert "offline" in page
        assert "not shown here" in page
        DeadLetter.objects.update(body=None)
        assert "no longer kept" in client.get(f"{LIST}{kept[0].pk}/change/").content.decode()

    def test_the_list_shows_the_first_names_and_reasons_for_each_letter(
        self, room: Room, kept: list[DeadLetter]
    ) -> None:
        ada = User.objects.get(username="ada")
        others = people("dora", "eve", "fred", "greta", "hal")
        letter(room, ada, *others, seq=9)
        page = staff(*READ).get(LIST).content.decode()
        assert "5 of 6<small>dora (offline), eve (offline), fred (offline), +2</small>" in page
        assert page.count("1 of 2<small>bob (offline)</small>") == 3
        assert page.count('data-kind="missed">open<') == 4
        assert re.search(r'<time title="[\d: -]+ UTC">\d+ (s|d) ago</time>', page)

    def test_the_page_of_a_letter_has_the_permitted_actions(self, kept: list[DeadLetter]) -> None:
        path = f"{LIST}{kept[0].pk}/change/"
        assert "ops-button" not in staff(*READ).get(path).content.decode()
        client = staff(*MAY, name="more")
        page = client.get(path).content.decode()
        assert re.findall(r'name="action" value="(\w+)"', page) == ["send_again", "discard"]
        asked = client.post(LIST, {"action": "discard", "chosen": kept[0].pk})
        assert asked.context["chosen"] == str(kept[0].pk)
        client.post(LIST, {"action": "discard", "chosen": kept[0].pk, "confirmed": "yes"})
        page = client.get(path).content.decode()
        assert re.findall(r'name="action" value="(\w+)"', page) == ["take_back"]

    def test_a_notice_shows_its_content_as_text(self, room: Room, kept: list[DeadLetter]) -> None:
        client = staff("view_notice")
        page = client.get("/admin/messaging/notice/").content.decode()
        assert page.count("<small>bob (offline)</small>") == 3
        assert f"{room.name} · 1" in page
        notice = Notice.objects.filter(dead_letter=kept[0]).get()
        assert "bob (offline)" in client.get(f"/admin/messaging/notice/{notice.pk}/change/").content.decode()
        for query, count in (("dismissed=no", 3), ("dismissed=yes", 0)):
            page = client.get(f"/admin/messaging/notice/?{query}")
            assert page.context["cl"].result_count == count

    @pytest.mark.parametrize(
        ("query", "seqs"),
        [
            ("", {1, 2, 3}),
            ("q=ada", {1, 2, 3}),
            ("q=atlas", {1, 2, 3}),
            ("q=2", {2}),
            ("q={message}", {1}),
            ("q={text}", set()),
            ("state__exact=discarded", {3}),
            ("missed_recipients__reason__exact=offline", {1, 2, 3}),
            ("missed_recipients__reason__exact=no_ack", set()),
            ("room={room}", {1, 2, 3}),
            ("room=nosuch", set()),
            ("set_aside=yes", {2}),
            ("set_aside=no", {1, 3}),
        ],
    )
    def test_letters_are_searched_by_sender_room_message_and_seq_and_filtered(
        self, room: Room, kept: list[DeadLetter], query: str, seqs: set[int]
    ) -> None:
        letters.discard([kept[2].pk], None, run_async(_now_ms))
        DeadLetter.objects.filter(pk=kept[1].pk).update(fault="DataError")
        path = f"{LIST}?{query}".format(message=kept[0].message_id, room=room.id, text=TEXT)
        page = staff(*READ).get(path)
        assert page.status_code == 200
        assert {row.seq for row in page.context["cl"].result_list} == seqs

    @pytest.mark.parametrize("lookup", ["body__startswith", "body__contains", "body", "missing__contains"])
    def test_a_text_cannot_be_guessed_by_filters(self, kept: list[DeadLetter], lookup: str) -> None:
        for user in (staff(*READ), staff(name="root", is_superuser=True)):
            assert user.get(f"{LIST}?{lookup}={TEXT[0]}").status_code == 400

    @pytest.mark.parametrize("address", [f"{LIST}?state__exact=%00", f"{LIST}%00/change/"])
    def test_an_address_that_no_database_takes_is_a_bad_request(self, address: str) -> None:
        assert staff(is_superuser=True).get(address).status_code == 400

    def test_a_list_takes_as_many_queries_for_many_as_for_few(
        self, room: Room, kept: list[DeadLetter]
    ) -> None:
        client = staff(*READ)
        with CaptureQueriesContext(
            connection,
        ) as few:
            client.get(LIST)
        ada, bob = User.objects.get(username="ada"), User.objects.get(username="bob")
        for seq in range(10, 40):
            letter(room, ada, bob, seq=seq)
        with CaptureQueriesContext(connection) as many:
            client.get(LIST)
        assert len(many) == len(few)
        assert TEXT not in str(many.captured_queries)
        read = [query["sql"].replace('."body" IS NOT NULL', "") for query in many.captured_queries]
        assert not [sql for sql in read if '."body"' in sql], "no text is read for a list"


class TestActions:
    def test_send_again_reaches_those_who_missed_it_once_and_names_the_staff(
        self, room: Room, kept: list[DeadLetter]
    ) -> None:
        client = staff(*MAY)
        assert act(client, "send_again", *kept[:2]) == "Sent again: 2, skipped: 0, failed: 0."
        assert act(client, "send_again", *kept) == (
            "Sent again: 1, skipped: 2, failed: 0. Why: already sent again (2)."
        )
        assert states(kept) == ["requeued"] * 3
        assert run_async(_top, room) == 3
        noted = AuditEntry.objects.values_list("verb", "user_name")
        assert list(noted) == [("requeue", "staff")] * 3
        logged = LogEntry.objects.values_list("object_id", "change_message")
        assert sorted(logged) == sorted((str(row.pk), "sent a dead letter again") for row in kept)
        assert TEXT not in str(LogEntry.objects.values())

    def test_the_confirmation_page_lists_the_rows_and_counts_the_effect(self, kept: list[DeadLetter]) -> None:
        client = staff(*MAY)
        letters.discard([kept[2].pk], None, run_async(_now_ms))
        for action, effect in (
            ("send_again", "2 messages will be sent again, in their senders&#x27; names"),
            ("discard", "2 dead letters will be discarded"),
        ):
            page = asked(client, action, *kept).content.decode()
            assert effect in page
            assert all(f"seq {row.seq}, from ada, missed by 1" in page for row in kept)
            assert TEXT not in page
        assert states(kept) == ["open", "open", "discarded"]
        assert not LogEntry.objects.exists()

    def test_only_the_chosen_keys_are_processed_and_deleted_rows_are_reported(
        self, kept: list[DeadLetter]
    ) -> None:
        client = staff(*MAY)
        chosen = asked(client, "discard", *kept[:2]).context["chosen"]
        DeadLetter.objects.filter(pk=kept[0].pk).delete()
        page = client.post(LIST, {"action": "discard", "chosen": chosen, "confirmed": "yes"}, follow=True)
        assert "Discarded: 1, skipped: 1, failed: 0. Why: no longer exists (1)." in page.content.decode()
        assert [row.state for row in DeadLetter.objects.order_by("seq")] == ["discarded", "open"]
        invalid = {"action": "discard", "chosen": "no-key", "confirmed": "yes"}
        assert client.post(LIST, invalid).status_code == 400

    def test_blocked_letters_are_counted_with_their_reasons(self, room: Room, kept: list[DeadLetter]) -> None:
        ada, bob = User.objects.get(username="ada"), User.objects.get(username="bob")
        [inactive] = people("inactive")
        Membership.objects.create(room=room, user=inactive)
        User.objects.filter(pk=inactive.pk).update(is_active=False)
        now_ms = run_async(_now_ms)
        to_one = letter(room, ada, bob, inactive, seq=4, now_ms=now_ms, expires_at=now_ms)
        to_none = letter(room, ada, inactive, seq=5, now_ms=now_ms, expires_at=now_ms)
        gone = run_async(room_of, ada, bob, name="Gone")
        of_gone = letter(gone, ada, bob, seq=6, now_ms=now_ms, expires_at=now_ms)
        gone.delete()
        DeadLetter.objects.filter(pk=kept[0].pk).update(body=None)
        shown = act(staff(*MAY), "send_again", to_one, to_none, of_gone, kept[0])
        assert shown == (
            "Sent again: 1, skipped: 3, failed: 0. Why: no remaining recipient can be reached (1),"
            " the room no longer exists (1), the text is no longer kept (1). Left out: account deactivated (2)."
        )

    def test_a_discard_can_be_undone_for_ten_minutes(self, kept: list[DeadLetter]) -> None:
        client = staff(*MAY)
        assert act(client, "discard", *kept) == "Discarded: 3, skipped: 0, failed: 0."
        assert "Why: discarded (1)" in act(client, "discard", kept[0])
        assert states(kept) == ["discarded"] * 3
        assert act(client, "take_back", *kept[:2]) == "Reopened: 2, skipped: 0, failed: 0."
        DeadLetter.objects.filter(pk=kept[2].pk).update(
            resolved_at=again(kept[2].pk).resolved_at.replace(year=2020)  # type: ignore[union-attr]
        )
        assert "Why: not discarded (1), discarded more than 10 minutes ago (1)." in act(
            client, "take_back", kept[1], kept[2]
        )
        assert states(kept) == ["open", "open", "discarded"]

    def test_an_unavailable_store_fails_the_action_and_changes_nothing(
        self, kept: list[DeadLetter], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = staff(*MAY)

        monkeypatch.setattr(Log, "append", unavailable)
        assert act(client, "send_again", *kept) == (
            "Sent again: 0, skipped: 0, failed: 1. Why: the store does not answer (1). Unchanged: 2."
        )
        assert states(kept) == ["open"] * 3

    @pytest.mark.parametrize("language", ["zh-hans"])
    def test_results_are_shown_in_chinese(self, kept: list[DeadLetter], language: str) -> None:
        client = staff(*MAY)
        client.defaults["HTTP_ACCEPT_LANGUAGE"] = language
        assert act(client, "discard", kept[0]) == "已丢弃：1，跳过：0，失败：0。"
        assert act(client, "discard", kept[0]).endswith("原因：已丢弃 (1)。")

    @pytest.mark.parametrize(
        ("permissions", "allowed"),
        [
            (READ, set()),
            ((*READ, "change_deadletter", "delete_deadletter"), set()),
            ((*READ, "requeue_deadletter"), {"send_again"}),
            ((*READ, "discard_deadletter"), {"discard", "take_back"}),
        ],
    )
    def test_each_action_needs_its_own_permission(
        self, kept: list[DeadLetter], permissions: tuple[str, ...], allowed: set[str]
    ) -> None:
        client = staff(*permissions)
        letters.discard([kept[2].pk], None, run_async(_now_ms))
        before = states(kept)
        changed = set()
        for action, row in (("send_again", kept[0]), ("discard", kept[1]), ("take_back", kept[2])):
            act(client, action, row)
            data = {"action": action, "chosen": str(row.pk), "confirmed": "yes"}
            wanted = 302 if action in allowed else 403
            assert client.post(LIST, data).status_code == wanted
            if states(kept) != before:
                changed.add(action)
            before = states(kept)
        assert changed == allowed
        assert "delete_selected" not in client.get(LIST).content.decode()

    def test_list_without_the_view_permission_is_403(self, kept: list[DeadLetter]) -> None:
        client = staff("requeue_deadletter")
        assert client.get(LIST).status_code == 403
        assert client.post(LIST, {"action": "send_again", "_selected_action": kept[0].pk}).status_code == 403
        assert states(kept)[0] == "open"


def test_a_user_with_notices_can_be_deleted_together_with_them(kept: list[DeadLetter]) -> None:
    client = staff(is_superuser=True)
    ada = User.objects.get(username="ada")
    page = client.post(f"/admin/auth/user/{ada.pk}/delete/", {"post": "yes"})
    assert page.status_code == 302
    assert not User.objects.filter(pk=ada.pk).exists()
    assert not Notice.objects.exists()
    assert set(DeadLetter.objects.values_list("sender", "sender_name")) == {(None, "ada")}


def test_nobody_deletes_a_notice_from_its_list(kept: list[DeadLetter]) -> None:
    client = staff(is_superuser=True)
    notices = "/admin/messaging/notice/"
    data = {"action": "delete_selected", "_selected_action": Notice.objects.all()[0].pk, "post": "yes"}
    client.post(notices, data)
    assert Notice.objects.count() == 3


async def _top(room: Room) -> int:
    """Return the number of live messages of a room."""
    return int(await open_store().client.zcard(f"{key_of(room).key}:live"))
