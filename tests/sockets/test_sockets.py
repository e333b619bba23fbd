"""Two people and a real server: every frame of the contract, its fields and its order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients import Frame, Wire, new_id, seqs
from tests.support.sites import Person, Site, add_row, later, people, room

Open = Callable[..., Any]

ROOM_FIELDS = {
    *("room", "name", "kind", "role", "epoch", "top", "rev", "delivered", "read", "unread", "ttl", "ttl_max"),
    "tracked",
}
MESSAGE_FIELDS = {"type", "room", "epoch", "seq", "id", "from", "body", "sent_at", "expires_at"}
RESUMED_FIELDS = {
    *("type", "room", "epoch", "ok", "from", "upto", "top", "rev", "more", "messages", "gone", "changed"),
}
BIG = "\u2603" * 4_000  # 12,000 bytes


async def talk(
    site: Site, open_wire: Open, *names: str, **fields: Any
) -> tuple[str, list[Wire], list[Person]]:
    """Let people open a socket each in a room of theirs, all greeted; return the room, the sockets and the people."""
    members = await later(people)(*(names or ("ada", "grace")))
    room_id = await later(room)(*members, **fields)
    wires = []
    for member in members:
        wire = await open_wire(site, member)
        await wire.hello()
        await wire.next("resumed", room=room_id)
        wires.append(wire)
    return room_id, wires, members


# hello, welcome, resumed


async def test_welcome_has_every_field_and_one_resumed_for_each_room_follows(
    site: Site, open_wire: Open
) -> None:
    [ada] = await later(people)("ada")
    rooms = {await later(room)(ada, name=name) for name in ("atlas", "comet")}
    wire = await open_wire(site, ada)
    welcome = await wire.hello()
    assert welcome.keys() == {"type", "v", "connection", "user", "now", "store", "limits", "rooms"}
    assert welcome["user"] == {"id": ada.id, "name": "ada"}
    assert welcome["limits"] == {
        "body": 4_000,
        "frame": 65_536,
        "ttl_min": 10,
        "ttl_max": 2_419_200,
        "unsent": 1_000,
        "id_s": 86_400,
    }
    assert [entry["name"] for entry in welcome["rooms"]] == ["atlas", "comet"]
    for entry in welcome["rooms"]:
        assert entry.keys() == {*ROOM_FIELDS, "online"}
        assert (entry["top"], entry["rev"], entry["delivered"], entry["read"], entry["unread"]) == (
            0,
            0,
            0,
            0,
            0,
        )
        assert entry["online"] == [ada.id]
    await wire.fence()
    resumed = wire.heard("resumed")
    assert {frame["room"] for frame in resumed} == rooms
    for frame in resumed:
        assert frame.keys() == RESUMED_FIELDS
        assert (frame["ok"], frame["from"], frame["upto"], frame["top"], frame["more"]) == (
            True,
            0,
            0,
            0,
            False,
        )
        assert (frame["messages"], frame["gone"], frame["changed"]) == ([], [], [])
    assert wire.frames[0]["type"] == "welcome"


async def test_frames_sent_right_after_hello_are_handled_after_welcome(site: Site, open_wire: Open) -> None:
    [ada] = await later(people)("ada")
    atlas = await later(room)(ada)
    wire = await open_wire(site, ada)
    message_id = new_id()
    await wire.send(
        {"type": "hello", "v": 1, "rooms": []},
        {"type": "ping", "n": 1},
        {"type": "send", "id": message_id, "room": atlas, "body": "early"},
    )
    await wire.next("sent", id=message_id)
    assert wire.frames[0]["type"] == "welcome"
    assert wire.heard("pong", n=1)


async def test_hello_resumes_from_since_and_since_counts_as_an_ack(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], [_, grace_self] = await talk(site, open_wire)
    sent = [await ada.post(atlas, f"m{n}") for n in range(4)]
    await grace.aclose()
    again = await open_wire(site, grace_self)
    welcome = await again.hello({"room": atlas, "epoch": sent[0]["epoch"], "since": 2})
    [entry] = welcome["rooms"]
    assert (entry["top"], entry["delivered"], entry["read"], entry["unread"]) == (4, 2, 0, 4)
    resumed = await again.next("resumed")
    assert (resumed["from"], resumed["upto"], resumed["more"], seqs(resumed["messages"])) == (
        2,
        4,
        False,
        [3, 4],
    )
    unnamed = await open_wire(site, grace_self)
    await unnamed.hello()
    resumed = await unnamed.next("resumed")
    assert (resumed["from"], seqs(resumed["messages"])) == (2, [3, 4])


async def test_a_hole_on_one_device_is_filled_by_its_own_since(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], [_, grace_self] = await talk(site, open_wire)
    sent = [await ada.post(atlas, f"m{n}") for n in range(3)]
    await grace.ack(atlas, sent[0]["epoch"], delivered=3)
    await ada.told(3, 1, 0, 1)
    second = await open_wire(site, grace_self)
    welcome = await second.hello({"room": atlas, "epoch": sent[0]["epoch"], "since": 1})
    assert welcome["rooms"][0]["delivered"] == 3
    assert seqs((await second.next("resumed"))["messages"]) == [2, 3]


@pytest.mark.parametrize("where", ["hello", "sync"])
@pytest.mark.parametrize("held", [{"epoch": "another", "since": 0}, {"epoch": None, "since": 7}])
async def test_another_epoch_and_a_since_above_top_start_again(
    site: Site, open_wire: Open, where: str, held: Frame
) -> None:
    atlas, [ada, _], [ada_self, _] = await talk(site, open_wire)
    sent = await ada.post(atlas, "one")
    asked = {"room": atlas, "epoch": held["epoch"] or sent["epoch"], "since": held["since"], "rev": 0}
    wire = await open_wire(site, ada_self)
    await wire.hello(*([asked] if where == "hello" else []))
    if where == "sync":
        await wire.next("resumed")
        await wire.send({"type": "sync", **asked})
    refused = await wire.next("resumed")
    assert refused.keys() == {*RESUMED_FIELDS, "why"}
    assert (refused["ok"], refused["why"], refused["epoch"]) == (False, "epoch", sent["epoch"])
    assert (refused["from"], refused["messages"]) == (held["since"], [])
    await wire.send({"type": "sync", "room": atlas, "epoch": refused["epoch"], "since": 0})
    resumed = await wire.next("resumed")
    assert (resumed["ok"], seqs(resumed["messages"])) == (True, [1])


async def test_a_room_that_is_not_ones_own_is_not_resumed(site: Site, open_wire: Open) -> None:
    _, [ada, _], _ = await talk(site, open_wire)
    [bob] = await later(people)("bob")
    elsewhere = await later(room)(bob, kind="private")
    for room_id in (elsewhere, "no-such-room"):
        await ada.send({"type": "sync", "room": room_id, "epoch": "e", "since": 3})
        refused = await ada.next("resumed", room=room_id)
        assert refused.keys() == {*RESUMED_FIELDS, "why"}
        assert (refused["ok"], refused["why"], refused["epoch"]) == (False, "not_member", None)
        assert (refused["from"], refused["messages"], refused["gone"]) == (3, [], [])
        await ada.send({"type": "send", "id": new_id(), "room": room_id, "body": "let me in"})
        assert (await ada.next("error"))["code"] == "not_member"
        await ada.send({"type": "history", "room": room_id, "before": 9})
        assert (await ada.next("error"))["code"] == "not_member"


# send, message, sent


async def test_a_message_reaches_everybody_and_its_sender_with_every_field(
    site: Site, open_wire: Open
) -> None:
    atlas, [ada, grace], [ada_self, _] = await talk(site, open_wire)
    message_id = new_id()
    sent = await ada.post(atlas, "hello\n\u4f60\u597d \U0001f600 <b>", id=message_id, ttl=60)
    assert sent.keys() == {"type", "id", "room", "epoch", "seq", "sent_at", "expires_at", "duplicate"}
    assert (sent["seq"], sent["duplicate"], sent["expires_at"] - sent["sent_at"]) == (1, False, 60_000)
    for wire in (ada, grace):
        message = await wire.next("message")
        assert message.keys() == MESSAGE_FIELDS
        assert message["from"] == {"id": ada_self.id, "name": "ada"}
        assert (message["body"], message["id"]) == ("hello\n\u4f60\u597d \U0001f600 <b>", message_id)
        assert {name: message[name] for name in ("epoch", "seq", "sent_at", "expires_at")} == {
            name: sent[name] for name in ("epoch", "seq", "sent_at", "expires_at")
        }
    await grace.post(atlas, "yes", reply_to=1)
    assert (await ada.next("message", seq=2))["reply_to"] == 1


async def test_the_same_id_gets_the_first_answer_and_other_content_is_refused(
    site: Site, open_wire: Open
) -> None:
    atlas, [ada, grace], _ = await talk(site, open_wire)
    message_id = new_id()
    first = await ada.post(atlas, "once", id=message_id)
    again = await ada.post(atlas, "once", id=message_id, ttl=120)
    assert again == {**first, "duplicate": True}
    await ada.send({"type": "send", "id": message_id, "room": atlas, "body": "twice"})
    error = await ada.next("error")
    assert (error["code"], error["of"], error["id"], error["room"]) == (
        "id_reused",
        "send",
        message_id,
        atlas,
    )
    await ada.post(atlas, "fence")
    await grace.next("message", body="fence")
    assert [frame["body"] for frame in grace.heard("message")] == ["once", "fence"]


async def test_the_same_id_by_two_people_is_two_messages(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], _ = await talk(site, open_wire)
    message_id = new_id()
    assert (await ada.post(atlas, "mine", id=message_id))["seq"] == 1
    assert (await grace.post(atlas, "yours", id=message_id))["seq"] == 2


async def test_an_array_is_handled_in_order_and_messages_come_in_the_order_of_their_seq(
    site: Site, open_wire: Open
) -> None:
    atlas, [ada, grace], _ = await talk(site, open_wire)
    bodies = [f"m{n}" for n in range(100)]
    await ada.send(*({"type": "send", "id": new_id(), "room": atlas, "body": body} for body in bodies))
    await grace.next("message", body="m99")
    heard = grace.heard("message")
    assert [frame["body"] for frame in heard] == bodies
    assert seqs(heard) == list(range(1, 101))


# ack and receipt


async def test_sender_learns_the_counts_of_delivered_and_read(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace, bob], _ = await talk(site, open_wire, "ada", "grace", "bob")
    sent = await ada.post(atlas, "hello")
    await grace.ack(atlas, sent["epoch"], delivered=1)
    await ada.told(1, 1, 0, 2)
    receipt = ada.heard("receipt")[-1]
    assert receipt.keys() == {"type", "room", "epoch", "receipts"}
    await bob.ack(atlas, sent["epoch"], delivered=1, read=1)
    await ada.told(1, 2, 1, 2)
    await grace.fence()
    assert not grace.heard("receipt")


async def test_read_position_set_while_a_second_tab_opens_is_sent_to_both(
    site: Site, open_wire: Open
) -> None:
    atlas, [ada, grace], [ada_self, _] = await talk(site, open_wire)
    *_, sent = [await ada.post(atlas, f"m{n}") for n in range(3)]
    await ada.told(3, 0, 0, 1)
    tab = await open_wire(site, ada_self)
    await tab.hello()
    await grace.ack(atlas, sent["epoch"], delivered=3, read=3)
    await ada.told(1, 1, 1, 1)
    await tab.told(1, 1, 1, 1)


async def test_read_position_set_while_the_only_tab_reconnects_is_sent(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], [ada_self, _] = await talk(site, open_wire)
    sent = await ada.post(atlas, "hello")
    await ada.aclose()
    again = await open_wire(site, ada_self)
    await again.hello()
    await grace.ack(atlas, sent["epoch"], delivered=1, read=1)
    await again.told(1, 1, 1, 1)


async def test_read_is_cut_to_delivered_and_cursors_only_rise(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], [_, grace_self] = await talk(site, open_wire)
    *_, sent = [await ada.post(atlas, f"m{n}") for n in range(3)]
    epoch = sent["epoch"]
    await grace.ack(atlas, epoch, delivered=2, read=3)
    await ada.told(2, 1, 1, 1)
    await grace.ack(atlas, epoch, delivered=1, read=1)
    await grace.ack(atlas, epoch, delivered=3)
    await ada.told(3, 1, 0, 1)
    again = await open_wire(site, grace_self)
    [entry] = (await again.hello())["rooms"]
    assert (entry["delivered"], entry["read"], entry["unread"]) == (3, 2, 1)


async def test_an_ack_above_top_is_refused_alone_and_the_others_count(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], members = await talk(site, open_wire)
    sent = await ada.post(atlas, "hello")
    acks = [
        {"room": atlas, "epoch": sent["epoch"], "delivered": 9},
        {"room": atlas, "epoch": sent["epoch"], "delivered": 1},
        {"room": atlas, "epoch": "another", "delivered": 1},
        {"room": "no-such-room", "epoch": "e", "delivered": 1},
    ]
    await grace.send({"type": "ack", "rooms": acks})
    error = await grace.next("error")
    assert (error["code"], error["of"], error["room"], error["retryable"]) == (
        "ack_too_high",
        "ack",
        atlas,
        False,
    )
    await ada.told(1, 1, 0, 1)
    await grace.fence()
    assert len(grace.heard("error")) == 1
    assert members


async def test_late_joiner_does_not_owe_earlier_messages(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], _ = await talk(site, open_wire)
    sent = await ada.post(atlas, "before")
    [bob] = await later(people)("bob")
    await later(add_row)(atlas, bob)
    wire = await open_wire(site, bob)
    [entry] = (await wire.hello())["rooms"]
    assert (entry["top"], entry["delivered"], entry["unread"]) == (1, 1, 0)
    await grace.ack(atlas, sent["epoch"], delivered=1)
    await ada.told(1, 1, 0, 1)
    await ada.post(atlas, "after")
    await wire.next("message", seq=2)
    await grace.ack(atlas, sent["epoch"], delivered=2)
    await ada.told(2, 1, 0, 2)


# sync and history


async def test_sync_has_more_until_it_reaches_top_and_no_message_comes_before(
    site: Site, open_wire: Open
) -> None:
    atlas, [ada, grace], _ = await talk(site, open_wire)
    *_, sent = [await ada.post(atlas, f"m{n}") for n in range(5)]
    epoch = sent["epoch"]
    await grace.next("message", seq=5)
    await grace.send({"type": "sync", "room": atlas, "epoch": epoch, "since": 0, "limit": 2})
    first = await grace.next("resumed")
    assert (first["from"], first["upto"], first["top"], first["more"]) == (0, 2, 5, True)
    await ada.post(atlas, "m5")
    await ada.next("message", seq=6)
    await grace.fence()
    assert seqs(grace.heard("message")) == [1, 2, 3, 4, 5]
    await grace.send({"type": "sync", "room": atlas, "epoch": epoch, "since": 2, "limit": 10**15})
    rest = await grace.next("resumed")
    assert (rest["from"], rest["upto"], rest["more"], seqs(rest["messages"])) == (2, 6, False, [3, 4, 5, 6])
    await ada.post(atlas, "m6")
    await grace.next("message", seq=7)
    assert seqs(grace.heard("message")) == [1, 2, 3, 4, 5, 7]


async def test_answer_holds_at_most_256_kib(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], [_, grace_self] = await talk(site, open_wire)
    for at in range(0, 60, 5):
        for body in [BIG] * 4 + ["\u0001" * 4_000]:  # a control character is six bytes on the wire
            await ada.send({"type": "send", "id": new_id(), "room": atlas, "body": body})
        await grace.next("message", seq=at + 5)
    wire = await open_wire(site, grace_self)
    epoch = (await wire.hello())["rooms"][0]["epoch"]
    resumed = await wire.next("resumed")
    held = resumed["messages"]
    while resumed["more"]:
        await wire.send({"type": "sync", "room": atlas, "epoch": epoch, "since": resumed["upto"]})
        resumed = await wire.next("resumed")
        held += resumed["messages"]
    assert seqs(held) == list(range(1, 61))
    before, paged = 61, []
    while before > 1:
        await wire.send({"type": "history", "room": atlas, "before": before, "limit": 100})
        page = await wire.next("history")
        assert page.keys() == {"type", "room", "epoch", "before", "messages", "more"}
        assert (page["before"], page["more"]) == (before, page["messages"][0]["seq"] > 1)
        paged = page["messages"] + paged
        before = page["messages"][0]["seq"]
    assert seqs(paged) == list(range(1, 61))
    for texts in (wire.texts, grace.texts):
        assert max(len(text.encode()) for text in texts) <= 262_144


async def test_history_is_the_newest_below_ascending(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], _ = await talk(site, open_wire)
    await ada.send(*({"type": "send", "id": new_id(), "room": atlas, "body": f"m{n}"} for n in range(60)))
    await grace.next("message", seq=60)
    for asked, first, last, more in (
        ({"before": 61}, 11, 60, True),
        ({"before": 11}, 1, 10, False),
        ({"before": 61, "limit": 1_000}, 1, 60, False),
        ({"before": 31, "limit": 2}, 29, 30, True),
        ({"before": 10**15, "limit": 1}, 60, 60, True),
    ):
        await grace.send({"type": "history", "room": atlas, **asked})
        page = await grace.next("history")
        assert (seqs(page["messages"]), page["more"]) == (list(range(first, last + 1)), more)
    for before in (0, 1):
        await grace.send({"type": "history", "room": atlas, "before": before})
        page = await grace.next("history")
        assert (page["messages"], page["more"]) == ([], False)


@pytest.mark.parametrize(("kind", "visible"), [("public", [1, 2]), ("private", [2])])
async def test_only_a_public_room_shows_messages_from_before_the_joining(
    site: Site, open_wire: Open, kind: str, visible: list[int]
) -> None:
    atlas, [ada, _], _ = await talk(site, open_wire, kind=kind)
    await ada.post(atlas, "before")
    [bob] = await later(people)("bob")
    await later(add_row)(atlas, bob)
    wire = await open_wire(site, bob)
    epoch = (await wire.hello())["rooms"][0]["epoch"]
    await wire.next("resumed")
    await ada.post(atlas, "after")
    await wire.next("message", seq=2)
    await wire.send({"type": "history", "room": atlas, "before": 3})
    assert seqs((await wire.next("history"))["messages"]) == visible
    await wire.send({"type": "sync", "room": atlas, "epoch": epoch, "since": 0})
    resumed = await wire.next("resumed")
    assert (resumed["from"], resumed["upto"], seqs(resumed["messages"])) == (0, 2, visible)


# presence, typing, ping


async def test_presence_is_sent_to_the_others_and_once_for_two_tabs(site: Site, open_wire: Open) -> None:
    _atlas, [ada, grace], [_, grace_self] = await talk(site, open_wire)
    came = await ada.next("presence")
    assert came.keys() == {"type", "room", "user", "online"}
    assert (came["user"], came["online"]) == (grace_self.id, True)
    second = await open_wire(site, grace_self)
    await second.hello()
    await second.next("resumed")
    await second.aclose()
    await ada.fence()
    assert len(ada.heard("presence")) == 1
    await grace.aclose()
    went = await ada.next("presence")
    assert (went["user"], went["online"]) == (grace_self.id, False)
    assert not grace.heard("presence", user=grace_self.id)


async def test_presence_is_left_out_in_a_room_of_more_than_a_hundred(site: Site, open_wire: Open) -> None:
    crowd = await later(people)(*(f"person{n}" for n in range(101)))
    await later(room)(*crowd, name="crowd")
    few = await later(room)(*crowd[:100], name="few")
    wire = await open_wire(site, crowd[0])
    crowded, quiet = (await wire.hello())["rooms"]
    assert "online" not in crowded
    assert quiet["online"] == [crowd[0].id]
    other = await open_wire(site, crowd[1])
    await other.hello()
    await other.next("resumed", room=few)
    await wire.next("presence", user=crowd[1].id)
    assert [frame["room"] for frame in wire.heard("presence")] == [few]


async def test_typing_is_sent_to_the_others_at_most_once_in_three_seconds(
    site: Site, open_wire: Open
) -> None:
    atlas, [ada, grace], [ada_self, _] = await talk(site, open_wire)
    for _ in range(5):
        await ada.send({"type": "typing", "room": atlas})
    await ada.post(atlas, "fence")
    await grace.next("message")
    assert grace.heard("typing") == [{"type": "typing", "room": atlas, "user": ada_self.id}]
    assert not ada.heard("typing")


async def test_ping_is_answered_with_its_number(site: Site, open_wire: Open) -> None:
    _, [ada, _], _ = await talk(site, open_wire)
    await ada.send({"type": "ping", "n": 2**53 - 1})
    assert await ada.next("pong") == {"type": "pong", "n": 2**53 - 1}


async def test_a_frame_is_an_object_and_several_are_an_array(site: Site, open_wire: Open) -> None:
    atlas, [ada, grace], _ = await talk(site, open_wire)
    await ada.send(*({"type": "send", "id": new_id(), "room": atlas, "body": f"m{n}"} for n in range(100)))
    await grace.next("message", seq=100)
    for text in grace.texts:
        data = json.loads(text)
        assert isinstance(data, dict) or (data and all(isinstance(frame, dict) for frame in data))
    assert len(grace.texts) < 60


async def test_bye_is_sent_before_the_server_stops(new_site: Callable[..., Site], open_wire: Open) -> None:
    site = new_site()
    _, [ada, _], _ = await talk(site, open_wire)
    assert site.process is not None
    site.process.terminate()
    bye = await ada.next("bye")
    assert bye.keys() == {"type", "code", "after_ms"}
    assert (bye["code"], await ada.close_code()) == (1012, 1012)
