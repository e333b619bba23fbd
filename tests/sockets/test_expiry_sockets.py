"""The end of a message over sockets, in two server processes and a job: `expired`, `notice`, `resend`, `dismiss`.

Times are moved, not waited for; the job runs in the test's own process, a further one of the site.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from messaging.expiry import reports
from messaging.models import DeadLetter, Membership, MissedRecipient, Notice, Room
from tests.sockets.test_sockets import MESSAGE_FIELDS, RESUMED_FIELDS
from tests.support import expired_records
from tests.support.clients import Frame, Wire, new_id, seqs
from tests.support.conversation import Talk
from tests.support.sites import Browser, Site, later

Meet = Callable[..., Any]
Open = Callable[..., Any]

NOTICE = {"type", "notice", "kind", "at", "data", "dismissed"}
UNDELIVERED = {
    *("room", "epoch", "seq", "id", "sent_at", "expired_at", "delivered", "total"),
    *("missing", "missing_total", "resendable"),
}
SENT = {"type", "id", "room", "epoch", "seq", "sent_at", "expires_at", "duplicate"}


async def missed(meet: Meet, body: str = "secret", **fields: Any) -> tuple[Talk, Frame, Frame]:
    """Let bob miss what ada wrote and grace holds. Return the room, the `sent` and the notice."""
    room = await meet("ada", "grace", away=("bob",), **fields)
    sent = await room.here("ada").post(room.id, body)
    await room.here("grace").ack(room.id, room.epoch, delivered=sent["seq"])
    await room.here("ada").told(sent["seq"], 1, 0, 2)
    await room.expire(sent["seq"])
    notice = await room.there("ada").next("notice")
    await room.here("ada").next("notice", notice=notice["notice"])
    await room.settle()
    return room, sent, notice


def resend(room: Talk, seq: int, **fields: Any) -> Frame:
    return room.frame("resend", seq, **{"id": new_id(), **fields})


async def notices(wire: Wire, count: int) -> list[Frame]:
    """Wait for `count` notices on a new connection; return all that came."""
    for _ in range(count):
        await wire.next("notice")
    await wire.fence()
    return wire.heard("notice")


def texts(*wires: Wire) -> str:
    return "".join(text for wire in wires for text in wire.texts)


# expired


async def test_all_screens_learn_once_per_room_which_messages_expired(meet: Meet) -> None:
    atlas = await meet("ada", "grace")
    comet = await meet("eve", "bob")
    for n in range(4):
        await atlas.here("ada").post(atlas.id, f"m{n}")
        await comet.here("eve").post(comet.id, f"m{n}")
    await atlas.lapse(1, 2, 4)
    await comet.lapse(3)
    done = await atlas.run_job(all_rooms=True)
    assert done.expired >= 4  # the store has rooms of other tests as well
    assert done.left == 0
    for room, over in ((atlas, [1, 2, 4]), (comet, [3])):
        await room.settle()
        for wire in room.wires:
            [expired] = wire.heard("expired")
            assert expired.keys() == {"type", "room", "epoch", "seqs"}
            assert (expired["room"], expired["epoch"], sorted(expired["seqs"])) == (room.id, room.epoch, over)
    assert (await atlas.run_job(all_rooms=True)).expired == 0
    await atlas.settle()
    assert len(atlas.here("grace").heard("expired")) == 1


async def test_no_read_returns_expired_messages_although_every_job_is_dead(meet: Meet) -> None:
    room = await meet("ada", "grace")
    await room.here("ada").post(room.id, "secret")
    await room.here("ada").post(room.id, "alive")
    await room.settle()
    await room.lapse(1)
    answer = await room.here("grace").post(room.id, "about that", reply_to=1)
    assert answer["seq"] == 3
    for name in ("ada", "grace"):
        wire = await room.arrive(name, room.sites[1], since=0, rev=0)
        [resumed] = wire.heard("resumed")
        assert (seqs(resumed["messages"]), resumed["gone"]) == ([2, 3], [[1, "expired"]])
        synced = await room.ask(wire, "resumed", room.frame("sync", epoch=room.epoch, since=0, rev=0))
        assert (seqs(synced["messages"]), synced["gone"]) == ([2, 3], [[1, "expired"]])
        history = await room.ask(wire, "history", room.frame("history", before=9))
        assert seqs(history["messages"]) == [2, 3]
        assert history["messages"][-1]["reply_to"] == 1
        assert "secret" not in texts(wire)
    for wire in room.wires:
        assert not wire.heard("expired")


async def test_an_offline_member_acknowledges_past_expired_messages(meet: Meet) -> None:
    room = await meet("ada", away=("bob",))
    for body in ("secret", "alive"):
        await room.here("ada").post(room.id, body)
    await room.expire(1)
    bob = await room.arrive("bob")
    [resumed] = bob.heard("resumed")
    assert (resumed["from"], resumed["upto"], seqs(resumed["messages"])) == (0, 2, [2])
    assert "secret" not in texts(bob)
    await bob.ack(room.id, room.epoch, delivered=2)
    await room.here("ada").told(2, 1, 0, 1)


# notice


async def test_sender_learns_at_once_on_every_device_which_members_missed_it_and_why(meet: Meet) -> None:
    room = await meet("ada", "grace", away=("bob", "carol", "dan"))
    sent = await room.here("ada").post(room.id, "secret")
    await room.here("grace").ack(room.id, room.epoch, delivered=1)
    await room.here("ada").told(1, 1, 0, 4)
    carol = await room.arrive("carol")
    await carol.send(room.frame("reject", 1, epoch=room.epoch, reason="unreadable"))
    dan = Browser(room.sites[0], room.people["dan"])
    assert await asyncio.to_thread(dan.call, "POST", f"/api/rooms/{room.id}/leave/") < 300
    await carol.fence()
    await room.expire(1)
    notice = await room.there("ada").next("notice")
    assert await room.here("ada").next("notice") == notice
    assert notice.keys() == NOTICE
    assert (notice["kind"], notice["dismissed"]) == ("undelivered", False)
    data = notice["data"]
    assert data.keys() == UNDELIVERED
    assert {name: data[name] for name in ("room", "epoch", "seq", "id", "sent_at")} == {
        name: sent[name] for name in ("room", "epoch", "seq", "id", "sent_at")
    }
    assert sent["sent_at"] <= data["expired_at"] <= notice["at"] <= await room.store.now_ms()
    assert (data["delivered"], data["total"], data["missing_total"], data["resendable"]) == (1, 4, 3, True)
    people = room.people
    assert sorted(data["missing"], key=lambda row: row["name"]) == [
        {"user": people["bob"].id, "name": "bob", "reason": "offline", "attempts": 0},
        {"user": people["carol"].id, "name": "carol", "reason": "client_rejected", "attempts": 0},
        {"user": people["dan"].id, "name": "dan", "reason": "left_room", "attempts": 0},
    ]
    await room.settle(*room.devices["ada"], *room.devices["grace"], carol)
    for wire in (*room.devices["grace"], carol):
        assert not wire.heard("notice")
    for wire in room.devices["ada"]:
        assert len(wire.heard("notice")) == 1
        assert "secret" not in str(wire.heard("notice"))


@pytest.mark.parametrize(
    ("fields", "late"),
    [({}, [1, 2]), ({"late": [2]}, [2]), ({"late": []}, [])],
    ids=["no-word", "one-named", "none-named"],
)
async def test_sender_learns_which_messages_came_only_after_their_end(
    meet: Meet, fields: dict[str, list[int]], late: list[int]
) -> None:
    """A client without `late` does not say whether it showed a message that had ended when it acknowledged it."""
    room = await meet("ada", "grace")
    for body in ("one", "two", "three"):
        await room.here("ada").post(room.id, body)
    await room.lapse(1, 2)
    await room.here("grace").ack(room.id, room.epoch, delivered=3, **fields)
    await room.here("ada").told(3, 1, 0, 1)
    await room.run_job()
    rows = await later(list)(MissedRecipient.objects.order_by("dead_letter__seq"))
    assert [(row.name, row.reason) for row in rows] == [("grace", "late")] * len(late)
    assert [row.dead_letter_id for row in rows] == [
        letter.pk for letter in await later(list)(DeadLetter.objects.filter(seq__in=late).order_by("seq"))
    ]


async def test_a_message_that_reached_all_or_was_deleted_makes_no_notice(meet: Meet) -> None:
    room = await meet("ada", "grace", away=("bob",))
    await room.here("ada").post(room.id, "to be deleted")
    await room.ask(room.here("ada"), "deleted", room.frame("delete", 1))
    await room.here("ada").post(room.id, "hello")
    for wire in (room.here("grace"), await room.arrive("bob")):
        await wire.ack(room.id, room.epoch, delivered=2)
    await room.here("ada").told(2, 2, 0, 2)
    done = await room.expire(1, 2)
    assert done.missed == 0
    assert await later(Notice.objects.count)() == 0
    again = await room.arrive("ada")
    for seq in (1, 2):
        await room.refused(again, resend(room, seq), "nobody_missed_it")
    for wire in room.wires:
        assert not wire.heard("notice")
        assert [seq for frame in wire.heard("expired") for seq in frame["seqs"]] in ([2], [])


def report_many(ada: int, bob: int, room_id: str, number: int) -> None:
    room = Room.objects.get(pk=room_id)
    user = User.objects.get(pk=ada)
    who = expired_records.missed(bob)
    some = [
        expired_records.expired(room, user, who, seq, expires_at=expired_records.NOW - 9_000)
        for seq in range(1, number + 1)
    ]
    reports.record(some, expired_records.NOW)


async def test_a_connect_repeats_the_newest_hundred_that_wait_the_oldest_of_them_first(meet: Meet) -> None:
    room = await meet("ada", away=("bob",))
    await later(report_many)(room.people["ada"].id, room.people["bob"].id, room.id, 102)
    first = await room.arrive("ada")
    told = await notices(first, 100)
    assert [notice["data"]["seq"] for notice in told] == list(range(3, 103))
    assert all(notice.keys() == NOTICE and not notice["dismissed"] for notice in told)
    assert first.frames[0]["type"] == "welcome"
    for notice in (told[0], told[-1]):
        await room.ask(first, "notice", {"type": "dismiss", "notice": notice["notice"]})
    again = await notices(await room.arrive("ada", room.sites[1]), 100)
    assert [notice["data"]["seq"] for notice in again] == [1, 2, *range(4, 102)]


# dismiss


async def test_a_notice_is_dismissed_on_all_devices_and_again_by_a_repetition(meet: Meet) -> None:
    room, _, notice = await missed(meet)
    await room.here("ada").post(room.id, "other")
    await room.expire(2)
    other = await room.there("ada").next("notice")
    assert await room.here("ada").next("notice", notice=other["notice"]) == other
    dismissal = {"type": "dismiss", "notice": notice["notice"]}
    over = {**notice, "dismissed": True}
    assert await room.ask(room.here("ada"), "notice", dismissal) == over
    assert await room.there("ada").next("notice", dismissed=True) == over
    assert await room.ask(room.there("ada"), "notice", dismissal) == over, "an answer may have been lost"
    again = await room.arrive("ada", room.sites[1])
    assert await notices(again, 1) == [other]
    assert await room.ask(again, "notice", dismissal) == over
    for wire in room.devices["grace"]:
        assert not wire.heard("notice")


@pytest.mark.parametrize("notice", ["", "none", "x" * 500, "\u0000", "../..", "another's"])
async def test_only_the_users_own_notice_can_be_dismissed(meet: Meet, notice: str) -> None:
    room, _, told = await missed(meet)
    frame = {"type": "dismiss", "notice": told["notice"] if notice == "another's" else notice}
    at = len(room.here("grace").frames)
    await room.here("grace").send(frame)
    error = await room.here("grace").next("error")
    assert (error["code"], error["of"], error["retryable"]) == ("no_such_message", "dismiss", False)
    assert [one["type"] for one in room.here("grace").frames[at:]] == ["error"]
    assert await later(Notice.objects.filter(dismissed_at=None).count)() == 1


# resend


async def test_resend_reaches_only_the_members_who_missed_it(meet: Meet) -> None:
    room, first, _ = await missed(meet)
    await room.join("carol")
    frame = resend(room, 1, epoch=room.epoch, ttl=600)
    sent = await room.ask(room.here("ada"), "sent", frame)
    assert sent.keys() == SENT
    assert (sent["id"], sent["room"], sent["epoch"], sent["seq"]) == (frame["id"], room.id, room.epoch, 2)
    assert (sent["duplicate"], sent["expires_at"] - sent["sent_at"]) == (False, 600_000)
    for wire in room.devices["ada"]:
        message = await wire.next("message", seq=2)
        assert message.keys() == MESSAGE_FIELDS | {"resends"}
        assert (message["body"], message["resends"], message["from"]["name"]) == ("secret", 1, "ada")
        assert message["id"] not in (frame["id"], first["id"]), "the server's own"
    await room.settle()
    for wire in room.devices["grace"]:
        asked, instead = wire.heard("resumed")
        assert instead.keys() == RESUMED_FIELDS - {"changed"}
        assert instead == {
            "type": "resumed",
            "room": room.id,
            "epoch": room.epoch,
            "ok": True,
            "from": 1,
            "upto": 2,
            "top": 2,
            "rev": asked["rev"],
            "more": False,
            "messages": [],
            "gone": [[2, "not_for_you"]],
        }
    for name in ("grace", "carol"):
        late = await room.arrive(name, room.sites[1], since=1, rev=0)
        [entry] = late.frames[0]["rooms"]
        assert entry["unread"] == 0
        [resumed] = late.heard("resumed")
        assert (resumed["upto"], resumed["messages"], resumed["gone"]) == (2, [], [[2, "not_for_you"]])
        for ask in (room.frame("sync", epoch=room.epoch, since=0), room.frame("history", before=9)):
            answer = await room.ask(late, "resumed" if ask["type"] == "sync" else "history", ask)
            assert answer["messages"] == []
        assert "secret" not in texts(late)
    await room.here("ada").told(2, 0, 0, 1)
    bob = await room.arrive("bob")
    [resumed] = bob.heard("resumed")
    [message] = resumed["messages"]
    assert (message["seq"], message["body"], message["resends"]) == (2, "secret", 1)
    assert resumed["gone"] == []
    for wire in (bob, room.here("grace")):
        await wire.ack(room.id, room.epoch, delivered=2)
    await room.there("ada").told(2, 1, 0, 1)
    await room.here("ada").post(room.id, "goes on")
    for wire in room.devices["grace"]:
        assert (await wire.next("message", seq=3))["body"] == "goes on"
        assert len(wire.heard("resumed")) == 2, "no client syncs for it"


async def test_a_repeated_resend_gets_the_first_answer_and_nothing_is_sent_twice(meet: Meet) -> None:
    room, _, _ = await missed(meet)
    one, two = resend(room, 1), resend(room, 1, ttl=60)
    for wire, frame in zip(room.devices["ada"], (one, two), strict=True):
        await wire.send(frame)
    here = await room.here("ada").next("sent", id=one["id"])
    there = await room.there("ada").next("sent", id=two["id"])
    same = {name: here[name] for name in ("epoch", "seq", "sent_at", "expires_at")}
    assert {name: there[name] for name in same} == same
    assert sorted((here["duplicate"], there["duplicate"])) == [False, True]
    again = await room.arrive("ada", room.sites[1])
    for frame in (one, two, resend(room, 1, epoch=room.epoch)):
        for wire in (again, room.here("ada")):
            answer = await room.ask(wire, "sent", frame)
            assert answer == {
                **same, "type": "sent", "room": room.id, "id": frame["id"], "duplicate": True
            }  # fmt: skip
    await later(DeadLetter.objects.update)(body=None)  # as when it was kept long enough
    assert (await room.ask(again, "sent", one))["seq"] == here["seq"]
    await room.settle()
    for wire in (room.here("ada"), room.there("ada")):
        assert [frame["seq"] for frame in wire.heard("message") if "resends" in frame] == [2]
    history = await room.ask(again, "history", room.frame("history", before=9))
    assert seqs(history["messages"]) == [2]
    [notice] = await notices(await room.arrive("ada"), 1)
    assert notice["data"]["resendable"] is False


async def test_missed_resend_names_its_recipients(meet: Meet) -> None:
    room, _, _ = await missed(meet)
    await room.ask(room.here("ada"), "sent", resend(room, 1))
    await room.expire(2)
    notice = await room.there("ada").next("notice")
    data = notice["data"]
    assert (data["seq"], data["delivered"], data["total"], data["missing_total"]) == (2, 0, 1, 1)
    assert [row["name"] for row in data["missing"]] == ["bob"]
    again = await room.ask(room.there("ada"), "sent", resend(room, 2))
    assert (again["seq"], again["duplicate"]) == (3, False)
    bob = await room.arrive("bob")
    [resumed] = bob.heard("resumed")
    assert [(message["seq"], message["resends"]) for message in resumed["messages"]] == [(3, 2)]


async def test_resend_is_allowed_to_the_sender_only_and_for_missed_messages_only(meet: Meet) -> None:
    room, _, _ = await missed(meet)
    await room.here("ada").post(room.id, "alive")
    stranger = await meet("eve")
    await room.settle()
    before = await room.stored()
    grace, ada = room.here("grace"), room.here("ada")
    await room.refused(grace, resend(room, 1), "forbidden")
    await later(set_owner)(room, "grace")
    await room.refused(await room.arrive("grace"), resend(room, 1), "forbidden")
    await room.refused(stranger.here("eve"), resend(room, 1), "not_member")
    for seq, code in ((2, "nobody_missed_it"), (0, "no_such_message"), (3, "no_such_message")):
        await room.refused(ada, resend(room, seq), code)
    await room.refused(ada, resend(room, 2**53 - 1), "no_such_message")
    await room.refused(ada, resend(room, 1, epoch="another"), "no_such_message")
    for ttl in (0, 9, 28 * 86_400 + 1, 2**53 - 1):
        error = await room.refused(ada, resend(room, 1, ttl=ttl), "bad_ttl")
        assert "10" in error["detail"]
        assert str(28 * 86_400) in error["detail"], "the bounds"
    assert await room.stored() == before
    assert (await room.ask(ada, "sent", resend(room, 1)))["duplicate"] is False, "nothing was used up"


def set_owner(room: Talk, name: str) -> None:
    Membership.objects.filter(room=room.id, user=room.people[name].id).update(role="owner")


async def test_a_text_that_is_not_kept_any_more_cannot_be_sent_again(meet: Meet) -> None:
    room, _, _ = await missed(meet)
    await later(DeadLetter.objects.update)(body=None)
    await room.refused(room.here("ada"), resend(room, 1), "too_late")
    [notice] = await notices(await room.arrive("ada"), 1)
    assert notice["data"]["resendable"] is False


async def test_resend_is_for_current_members(meet: Meet) -> None:
    room, _, _ = await missed(meet)
    bob = Browser(room.sites[0], room.people["bob"])
    assert await asyncio.to_thread(bob.call, "POST", f"/api/rooms/{room.id}/leave/") < 300
    await room.refused(room.here("ada"), resend(room, 1), "nobody_missed_it")
    ada = Browser(room.sites[0], room.people["ada"])
    assert await asyncio.to_thread(ada.call, "POST", f"/api/rooms/{room.id}/leave/") < 300
    for wire in room.devices["ada"]:
        await wire.next("room", removed=True)
        await room.refused(wire, resend(room, 1), "not_member")


# Rooms in which nobody owes


async def test_an_untracked_room_has_no_debts_and_no_notices(meet: Meet) -> None:
    room = await meet("ada", "grace", away=("bob",), tracked=False)
    [entry] = room.here("ada").frames[0]["rooms"]
    assert entry["tracked"] is False
    for _ in range(2):
        await room.here("ada").post(room.id, "hello")
    await room.here("grace").ack(room.id, room.epoch, delivered=1)
    done = await room.expire(1)
    assert (done.expired, done.missed) == (1, 0)
    await room.settle()
    for wire in room.wires:
        assert [frame["seqs"] for frame in wire.heard("expired")] == [[1]]
        assert not wire.heard("notice")
    assert await later(Notice.objects.count)() == 0
    await room.refused(room.here("ada"), resend(room, 1), "nobody_missed_it")
    assert not [wire for wire in room.wires if wire.heard("receipt")]


# A database that is away


async def test_frames_lose_nothing_while_the_database_is_away_and_succeed_when_repeated(
    meet: Meet, site: Site
) -> None:
    room, _, notice = await missed(meet)
    frames = [resend(room, 1), {"type": "dismiss", "notice": notice["notice"]}]
    site.take_database_away()
    try:
        for frame in frames:
            error = await room.ask(room.here("ada"), "error", frame)
            assert (error["code"], error["of"], error["retryable"]) == ("unavailable", frame["type"], True)
            assert error["retry_after_ms"] > 0
            if frame["type"] == "resend":
                assert (error["id"], error["room"], error["seq"]) == (frame["id"], room.id, 1)
    finally:
        site.bring_database_back()
    assert (await room.ask(room.here("ada"), "sent", frames[0]))["duplicate"] is False
    assert (await room.ask(room.here("ada"), "notice", frames[1]))["dismissed"] is True
