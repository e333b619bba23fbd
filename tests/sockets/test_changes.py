"""Edit, delete and extend over sockets, in two server processes on one store: the events for each member, and the permissions."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from messaging.models import AuditEntry, Membership
from messaging.store.records import Append
from tests.sockets.test_sockets import MESSAGE_FIELDS, RESUMED_FIELDS, talk
from tests.support.clients import Frame, Wire, new_id, seqs
from tests.support.conversation import Talk
from tests.support.messages import message
from tests.support.sites import Browser, Site, later, until

Meet = Callable[..., Any]
Open = Callable[..., Any]

PLACE = {"type", "room", "epoch", "rev", "seq"}
EDITED = {*PLACE, "body", "edited_at"}
EXTENDED = {*PLACE, "expires_at"}
CHANGED = MESSAGE_FIELDS  # what a whole message has; `edited_at` comes on top
LIFE_S = 600


def changes(wire: Wire) -> list[Frame]:
    return [frame for frame in wire.frames if frame["type"] in ("edited", "deleted")]


async def send_again(room: Talk, seq: int, sender: str, *names: str, body: str = "again") -> int:
    """Append what a resend would: a message to just some of the room. Return its seq."""
    [answer] = await room.store.log.append(
        [
            Append(
                room=room.key,
                user=room.people[sender].id,
                name=sender,
                id=new_id(),
                body=body,
                ttl_ms=LIFE_S * 1_000,
                only=tuple(room.people[name].id for name in names),
                resends=seq,
            )
        ]
    )
    return int(answer.seq)


# What everybody hears


async def test_an_edit_reaches_every_screen_once_with_the_same_frame(meet: Meet) -> None:
    room = await meet("ada", "grace")
    sent = await room.here("ada").post(room.id, "befroe")
    edited = await room.ask(room.here("ada"), "edited", room.frame("edit", 1, body="before"))
    assert edited.keys() == EDITED
    assert {name: edited[name] for name in ("room", "epoch", "rev", "seq", "body")} == {
        "room": room.id,
        "epoch": room.epoch,
        "rev": 1,
        "seq": 1,
        "body": "before",
    }
    assert sent["sent_at"] <= edited["edited_at"] <= await room.store.now_ms()
    await room.settle()
    for wire in room.wires:
        assert changes(wire) == [edited]
    history = await room.ask(room.there("grace"), "history", room.frame("history", before=9))
    [message] = history["messages"]
    assert message.keys() - {"type"} == (CHANGED - {"type"}) | {"edited_at"}
    assert (message["body"], message["edited_at"]) == ("before", edited["edited_at"])
    assert (message["id"], message["expires_at"]) == (sent["id"], sent["expires_at"]), "no longer life"


async def test_an_extension_tells_every_screen_the_new_end_and_nothing_else(meet: Meet) -> None:
    room = await meet("ada", "grace")
    sent = await room.here("ada").post(room.id, "hello", ttl=60)
    extended = await room.ask(room.there("ada"), "edited", room.frame("extend", 1, ttl=LIFE_S))
    assert extended.keys() == EXTENDED
    now_ms = await room.store.now_ms()
    assert sent["sent_at"] + LIFE_S * 1_000 <= extended["expires_at"] <= now_ms + LIFE_S * 1_000
    await room.settle()  # or the first answer, on its way to this screen, is taken for the second
    shorter = await room.ask(room.here("ada"), "edited", room.frame("extend", 1, ttl=10))
    assert (shorter["rev"], shorter["expires_at"]) == (2, extended["expires_at"]), "never earlier than before"
    await room.settle()
    for wire in room.wires:
        assert changes(wire) == [extended, shorter]
    history = await room.ask(room.here("grace"), "history", room.frame("history", before=9))
    [message] = history["messages"]
    assert message["expires_at"] == extended["expires_at"]
    assert "edited_at" not in message


async def test_a_deletion_takes_the_message_from_every_screen_and_blocks_nobody(meet: Meet) -> None:
    room = await meet("ada", "grace", away=("bob",))
    for body in ("a", "secret", "c"):
        await room.here("ada").post(room.id, body)
    deleted = await room.ask(room.here("ada"), "deleted", room.frame("delete", 2))
    assert deleted == {"type": "deleted", "room": room.id, "epoch": room.epoch, "rev": 1, "seq": 2}
    await room.settle()
    for wire in room.wires:
        assert changes(wire) == [deleted]
    history = await room.ask(room.there("grace"), "history", room.frame("history", before=9))
    assert seqs(history["messages"]) == [1, 3]
    bob = await room.arrive("bob")
    [resumed] = bob.heard("resumed")
    assert (seqs(resumed["messages"]), resumed["upto"], resumed["more"]) == ([1, 3], 3, False)
    assert "secret" not in "".join(bob.texts)
    for wire in (room.here("grace"), bob):
        await wire.ack(room.id, room.epoch, delivered=3)
    await room.here("ada").told(3, 2, 0, 2)


async def test_a_changed_message_keeps_its_place_on_all_screens(meet: Meet) -> None:
    room = await meet("ada", "grace", "bob")
    for person in ("ada", "grace"):
        await room.here(person).post(room.id, f"{person}'s first")
    asked = []
    for n in range(12):
        for person, own in (("ada", 1), ("grace", 2)):
            wire = room.devices[person][n % 2]
            await wire.send(
                {"type": "send", "id": new_id(), "room": room.id, "body": f"{person} {n}"},
                room.frame("edit", own, body=f"edit {n} of {person}"),
                room.frame("extend", own, ttl=LIFE_S * 6 + n),
            )
            asked.append(wire)
    for wire in asked:
        await wire.fence()
    await until(lambda: len(changes(room.here("bob"))) == 48)
    await room.settle()

    def order(wire: Wire) -> list[tuple[str, int]]:
        told = [frame for frame in wire.frames if frame["type"] in ("message", "edited")]
        return [(frame["type"], frame["rev" if frame["type"] == "edited" else "seq"]) for frame in told]

    here, there = (order(wire) for wire in room.devices["bob"])
    assert here == there
    assert [rev for kind, rev in here if kind == "edited"] == list(range(1, 49))
    assert [seq for kind, seq in here if kind == "message"] == list(range(1, 27))
    for wire in room.wires:
        assert sorted(frame["rev"] for frame in changes(wire)) == list(range(1, 49)), "each once"


async def test_changes_of_one_connection_are_made_in_order_and_each_is_answered(meet: Meet) -> None:
    room = await meet("ada", "grace")
    await room.here("ada").post(room.id, "hello")
    await room.here("ada").send(*(room.frame("edit", 1, body=f"edit {n}") for n in range(90)))
    await room.there("grace").next("edited", rev=90)
    await room.settle()
    for wire in room.wires:
        assert [(frame["rev"], frame["body"]) for frame in changes(wire)] == [
            (n + 1, f"edit {n}") for n in range(90)
        ]


async def test_a_change_of_a_message_for_others_has_only_its_rev(meet: Meet) -> None:
    room = await meet("ada", "grace", "bob")
    await room.here("ada").post(room.id, "to all")
    seq = await send_again(room, 1, "ada", "bob", body="for bob alone")
    await room.settle()
    bare = {"type": "edited", "room": room.id, "epoch": room.epoch, "seq": seq}
    edited = await room.ask(room.here("ada"), "edited", room.frame("edit", seq, body="still for bob"))
    extended = await room.ask(room.here("ada"), "edited", room.frame("extend", seq, ttl=LIFE_S * 2))
    deleted = await room.ask(room.here("ada"), "deleted", room.frame("delete", seq))
    await room.settle()
    for person in ("ada", "bob"):
        for wire in room.devices[person]:
            assert changes(wire) == [edited, extended, deleted]
    for wire in room.devices["grace"]:
        assert changes(wire) == [{**bare, "rev": rev} for rev in (1, 2, 3)]
        assert "bob alone" not in "".join(wire.texts)
        assert "still for" not in "".join(wire.texts)


async def test_a_member_who_joined_later_gets_nothing_of_an_older_text(meet: Meet) -> None:
    room = await meet("ada", kind="private")
    await room.here("ada").post(room.id, "before bob")
    await room.join("bob")
    wire = await room.arrive("bob", room.sites[1])
    await room.ask(room.here("ada"), "edited", room.frame("edit", 1, body="secret of old"))
    await room.settle()
    assert changes(wire) == [{"type": "edited", "room": room.id, "epoch": room.epoch, "rev": 1, "seq": 1}]
    for frame in (room.frame("delete", 1), room.frame("extend", 1, ttl=60)):
        await room.refused(wire, frame, "no_such_message")
    again = await room.arrive("bob", since=1, rev=0)
    assert again.heard("resumed")[-1]["changed"] == []
    assert "secret" not in "".join(wire.texts + again.texts)


# Repetition, and answers that were lost


async def test_a_repeated_edit_is_one_more_and_a_repeated_deletion_the_same(meet: Meet) -> None:
    room = await meet("ada", "grace")
    for body in ("a", "b"):
        await room.here("ada").post(room.id, body)
    frame = room.frame("edit", 1, body="c")
    assert [(await room.ask(room.here("ada"), "edited", frame))["rev"] for _ in range(2)] == [1, 2]
    deletion = room.frame("delete", 1)
    first = await room.ask(room.here("ada"), "deleted", deletion)
    await room.ask(room.here("ada"), "edited", room.frame("edit", 2, body="d"))
    for wire in (room.here("ada"), room.here("ada"), room.there("ada")):
        assert await room.ask(wire, "deleted", deletion) == first
    await room.settle()
    for wire in room.devices["grace"]:
        assert [frame["rev"] for frame in changes(wire)] == [1, 2, 3, 4], (
            "a repetition is told to nobody else"
        )
    verbs = await later(lambda: list(AuditEntry.objects.values_list("verb", flat=True).order_by("pk")))()
    assert verbs == ["edit", "edit", "delete", "edit"]


@pytest.mark.parametrize(
    ("kind", "more"), [("edit", {"body": "new"}), ("delete", {}), ("extend", {"ttl": LIFE_S * 9})]
)
async def test_an_answer_lost_with_its_connection_is_made_up_for_by_the_next(
    meet: Meet, kind: str, more: Frame
) -> None:
    room = await meet("ada", "grace")
    await room.here("ada").post(room.id, "old")
    frame = room.frame(kind, 1, **more)
    answer = "deleted" if kind == "delete" else "edited"
    await room.here("ada").send(frame)
    await room.there("grace").next(answer, seq=1)
    await room.here("ada").aclose()
    again = await room.arrive("ada", since=1, rev=0)
    resumed = again.heard("resumed")[-1]
    assert resumed["rev"] == 1
    if kind == "delete":
        assert (resumed["changed"], resumed["gone"]) == ([], [[1, "deleted"]])
    else:
        assert seqs(resumed["changed"]) == [1]
    repeated = await room.ask(again, answer, frame)
    assert repeated["rev"] == (1 if kind == "delete" else 2)


# Resuming


async def test_an_offline_member_gets_each_changed_message_whole_and_once_in_the_order_of_change(
    meet: Meet,
) -> None:
    room = await meet("ada", "grace")
    for n in range(6):
        await room.here("ada").post(room.id, f"m{n}", ttl=LIFE_S)
    await room.there("grace").aclose()
    ada = room.here("ada")
    await room.ask(ada, "edited", room.frame("edit", 4, body="first edit"))
    await room.ask(ada, "edited", room.frame("edit", 2, body="two"))
    await room.ask(ada, "deleted", room.frame("delete", 3))
    extended = await room.ask(ada, "edited", room.frame("extend", 1, ttl=LIFE_S * 2))
    edited = await room.ask(ada, "edited", room.frame("edit", 4, body="second edit"))
    await room.ask(ada, "edited", room.frame("edit", 6, body="above since"))
    again = await room.arrive("grace", room.sites[1], since=5, rev=0)
    [resumed] = again.heard("resumed")
    assert resumed.keys() == RESUMED_FIELDS
    assert (resumed["from"], resumed["upto"], resumed["rev"], resumed["more"]) == (5, 6, 6, False)
    assert seqs(resumed["changed"]) == [2, 1, 4]
    assert resumed["gone"] == [[3, "deleted"]]
    assert [message["body"] for message in resumed["messages"]] == ["above since"]
    two, one, four = resumed["changed"]
    assert two.keys() == four.keys() == MESSAGE_FIELDS | {"edited_at"}
    assert one.keys() == MESSAGE_FIELDS
    assert (two["body"], one["expires_at"]) == ("two", extended["expires_at"])
    assert (four["body"], four["edited_at"]) == ("second edit", edited["edited_at"])
    assert "first edit" not in "".join(again.texts)
    for held, changed in (({"rev": 4}, [4]), ({"rev": 6}, []), ({}, [])):
        frame = room.frame("sync", epoch=room.epoch, since=5, **held)
        resumed = await room.ask(again, "resumed", frame)
        assert (seqs(resumed["changed"]), resumed["rev"], resumed["gone"]) == (changed, 6, []), held


async def test_changes_come_in_pages_none_of_which_is_too_large_and_none_is_left_out(meet: Meet) -> None:
    room = await meet("ada", "grace")
    big = "☃" * 4_000  # 12,000 bytes
    for n in range(30):
        await room.here("ada").post(room.id, f"m{n}")
    for seq in range(1, 31):
        await room.here("ada").send(room.frame("edit", seq, body=big))
    await room.there("grace").next("edited", rev=30)
    await room.ask(room.here("ada"), "deleted", room.frame("delete", 7))
    again = await room.arrive("grace", since=30, rev=0)
    [resumed] = again.heard("resumed")
    pages = [resumed]
    while pages[-1]["more"]:
        held = {"since": pages[-1]["upto"], "rev": pages[-1]["rev"]}
        pages.append(await room.ask(again, "resumed", room.frame("sync", epoch=room.epoch, **held)))
        assert pages[-1]["rev"] > held["rev"], "every page advances"
    assert len(pages) > 1
    assert [message["seq"] for page in pages for message in page["changed"]] == [
        seq for seq in range(1, 31) if seq != 7
    ]
    assert [row for page in pages for row in page["gone"]] == [[7, "deleted"]]
    assert pages[-1]["rev"] == 31
    assert max(len(text.encode()) for text in again.texts) <= 262_144
    held = room.frame("sync", epoch=room.epoch, since=30, rev=0, limit=4)
    resumed = await room.ask(again, "resumed", held)
    assert (seqs(resumed["changed"]), resumed["rev"], resumed["more"]) == ([1, 2, 3, 4], 4, True)


async def test_page_holds_at_most_five_hundred_changes_and_every_deletion_is_sent(meet: Meet) -> None:
    room = await meet("ada", "grace")
    ada = room.people["ada"].id
    for _ in range(6):
        accepted = await room.store.log.append([message(user=ada, room=room.key) for _ in range(100)])
        assert len(accepted) == 100
    store, key = room.store, room.key
    kept = list(range(10, 601, 10))
    await asyncio.gather(
        *(store.changes.delete(key, ada, None, seq, open_history=True) for seq in range(1, 601) if seq % 10),
        *(store.changes.edit(key, ada, None, seq, "edited", open_history=True) for seq in kept),
    )
    again = await room.arrive("grace", since=600, rev=0)
    [first] = again.heard("resumed")
    assert (len(first["gone"]) + len(first["changed"]), first["rev"], first["more"]) == (500, 500, True)
    held = room.frame("sync", epoch=room.epoch, since=first["upto"], rev=first["rev"])
    rest = await room.ask(again, "resumed", held)
    assert (rest["rev"], rest["more"]) == (600, False)
    gone = sorted(first["gone"] + rest["gone"])
    assert gone == [[seq, "deleted"] for seq in range(1, 601) if seq % 10]
    assert sorted(seqs(first["changed"] + rest["changed"])) == kept


async def test_expired_messages_and_those_for_others_are_never_among_the_changed_ones(meet: Meet) -> None:
    room = await meet("ada", "grace", "bob")
    await room.here("ada").post(room.id, "to all")
    await room.here("ada").post(room.id, "short-lived")
    seq = await send_again(room, 1, "ada", "bob", body="for bob alone")
    await room.ask(room.here("ada"), "edited", room.frame("edit", 2, body="over and out"))
    await room.ask(room.here("ada"), "edited", room.frame("edit", seq, body="bob, and only you"))
    await room.lapse(2)
    resumed = {}
    for person in ("grace", "bob"):
        again = await room.arrive(person, since=3, rev=0)
        [resumed[person]] = again.heard("resumed")
        assert "over and out" not in "".join(again.texts)
        assert (resumed[person]["gone"], resumed[person]["rev"]) == ([[2, "expired"]], 2)
    assert seqs(resumed["bob"]["changed"]) == [seq]
    assert resumed["bob"]["changed"][0]["resends"] == 1
    assert resumed["grace"]["changed"] == []
    assert "only you" not in json.dumps(resumed["grace"])


async def test_a_missed_change_is_revealed_by_the_next_rev_and_found_by_sync(meet: Meet) -> None:
    room = await meet("ada", "grace")
    await room.here("ada").post(room.id, "m1")
    await room.here("ada").post(room.id, "m2")
    await room.settle()
    # Past the room's channel, as when a publication is lost.
    await room.store.client.hset(room.key.key, "rev", 1)
    await room.store.client.zadd(f"{room.key.key}:changed", {"1": 1})
    edited = await room.ask(room.here("ada"), "edited", room.frame("edit", 2, body="news"))
    assert edited["rev"] == 2, "higher than theirs + 1"
    await room.settle()
    [told] = changes(room.there("grace"))
    assert told == edited
    resumed = await room.ask(
        room.there("grace"), "resumed", room.frame("sync", epoch=room.epoch, since=2, rev=0)
    )
    assert (seqs(resumed["changed"]), resumed["rev"]) == ([1, 2], 2)


# Who may


@dataclasses.dataclass(frozen=True)
class Verb:
    kind: str
    more: Frame
    answer: str = "edited"
    moderated: bool = True


VERBS = [
    Verb("edit", {"body": "changed"}, moderated=False),
    Verb("delete", {}, answer="deleted"),
    Verb("extend", {"ttl": LIFE_S * 7}),
]
EACH_VERB = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.kind)


@EACH_VERB
async def test_another_member_is_forbidden_every_change_and_a_moderator_only_to_edit(
    meet: Meet, verb: Verb
) -> None:
    room = await meet("ada", "grace")
    await room.here("ada").post(room.id, "mine")
    await room.settle()
    before = await room.stored()
    await room.refused(room.here("grace"), room.frame(verb.kind, 1, **verb.more), "forbidden")
    assert await room.stored() == before
    for role in ("moderator", "owner"):
        await room.here("ada").post(room.id, "mine")
        await later(set_role)(room, "grace", role)
        grace = await room.arrive("grace", room.sites[1])
        seq = room.here("ada").heard("sent")[-1]["seq"]
        frame = room.frame(verb.kind, seq, **verb.more)
        if verb.moderated:
            told = await room.ask(grace, verb.answer, frame, seq=seq)
            assert await room.here("ada").next(verb.answer, seq=seq) == told
        else:
            await room.refused(grace, frame, "forbidden")


def set_role(room: Talk, name: str, role: str) -> None:
    Membership.objects.filter(room=room.id, user=room.people[name].id).update(role=role)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.moderated], ids=lambda verb: verb.kind)
async def test_moderator_loses_the_right_with_the_row_although_no_event_came(meet: Meet, verb: Verb) -> None:
    room = await meet("ada", "grace")
    await later(set_role)(room, "grace", "moderator")
    grace = await room.arrive("grace")
    await room.here("ada").post(room.id, "ada's")
    await room.settle()
    before = await room.stored()
    await later(set_role)(room, "grace", "member")
    await room.refused(grace, room.frame(verb.kind, 1, **verb.more), "forbidden")
    assert await room.stored() == before
    own = await grace.post(room.id, "grace's")
    await room.ask(grace, verb.answer, room.frame(verb.kind, own["seq"], **verb.more), seq=own["seq"])


@EACH_VERB
async def test_user_who_is_no_member_or_has_left_is_refused_and_nothing_changes(
    meet: Meet, verb: Verb
) -> None:
    room = await meet("ada", "grace")
    elsewhere = await meet("eve", "bob")
    await room.here("ada").post(room.id, "mine")
    await room.here("grace").post(room.id, "hers")
    leaving = Browser(room.sites[0], room.people["grace"])
    assert await asyncio.to_thread(leaving.call, "POST", f"/api/rooms/{room.id}/leave/") < 300
    for wire in room.devices["grace"]:
        await wire.next("room", room=room.id, removed=True)
    before = await room.stored()
    for wire in (elsewhere.here("eve"), *room.devices["grace"]):
        for seq in (1, 2):
            await room.refused(wire, room.frame(verb.kind, seq, **verb.more), "not_member")
    nowhere = {**room.frame(verb.kind, 1, **verb.more), "room": "no-such-room"}
    await room.refused(elsewhere.here("eve"), nowhere, "not_member")
    assert await room.stored() == before
    assert not changes(room.here("ada"))


@EACH_VERB
async def test_a_seq_without_a_message_in_this_life_of_the_log_cannot_be_changed(
    meet: Meet, verb: Verb
) -> None:
    room = await meet("ada")
    await room.here("ada").post(room.id, "mine")
    before = await room.stored()
    for place in ({"seq": 0}, {"seq": 2}, {"seq": 2**53 - 1}, {"seq": 1, "epoch": "another"}):
        frame = {"type": verb.kind, "room": room.id, **place, **verb.more}
        await room.refused(room.here("ada"), frame, "no_such_message")
    assert await room.stored() == before
    for place in ({"epoch": room.epoch}, {"epoch": None}, {"mood": [1]}):
        if verb.kind == "delete":
            await room.here("ada").post(room.id, "one more")
        seq = room.here("ada").heard("sent")[-1]["seq"]
        assert await room.ask(room.here("ada"), verb.answer, room.frame(verb.kind, seq, **verb.more, **place))


@EACH_VERB
async def test_a_change_after_the_expiry_is_too_late_although_no_job_ran(meet: Meet, verb: Verb) -> None:
    room = await meet("ada", "grace")
    await room.here("ada").post(room.id, "mine")
    await later(set_role)(room, "grace", "moderator")
    moderator = await room.arrive("grace")
    await room.lapse(1)
    before = await room.stored()
    await room.refused(room.here("ada"), room.frame(verb.kind, 1, **verb.more), "too_late")
    if verb.moderated:
        await room.refused(moderator, room.frame(verb.kind, 1, **verb.more), "too_late")
    assert await room.stored() == before
    for wire in room.wires:
        assert not changes(wire)


# Tests that need a separate site


async def test_change_past_the_burst_gets_a_retry_time_and_does_nothing(
    new_site: Open, open_wire: Open
) -> None:
    site = new_site(change_rate=[0.05, 2])
    room_id, [ada, grace], _ = await talk(site, open_wire)
    await ada.post(room_id, "hello", ttl=60)
    for _ in range(2):
        await ada.send({"type": "dismiss", "notice": "none"})
        assert (await ada.next("error"))["code"] == "no_such_message"
    place = {"room": room_id, "seq": 1}
    for frame in (
        {"type": "edit", **place, "body": "changed"},
        {"type": "delete", **place},
        {"type": "extend", **place, "ttl": 600},
        {"type": "resend", **place, "id": new_id()},
        {"type": "dismiss", "notice": "none"},
    ):
        await ada.send(frame)
        error = await ada.next("error", of=frame["type"])
        assert error.keys() == {
            *("type", "code", "detail", "retryable", "of", "retry_after_ms"),
            *({"id", "room", "seq"} & frame.keys()),
        }
        assert (error["code"], error["retryable"]) == ("rate_limited", True)
        assert 0 < error["retry_after_ms"] <= 20_000
        assert {name: error[name] for name in {"id", "room", "seq"} & frame.keys()} == {
            name: frame[name] for name in {"id", "room", "seq"} & frame.keys()
        }
    await grace.send({"type": "history", "room": room_id, "before": 9})
    [message] = (await grace.next("history"))["messages"]
    assert (message["body"], message["expires_at"] - message["sent_at"]) == ("hello", 60_000)
    assert not changes(grace)


async def test_a_store_that_does_not_answer_is_unavailable_and_the_same_frame_settles_it(
    new_site: Callable[..., Site], open_wire: Open
) -> None:
    site = new_site()
    room_id, [ada, grace], _ = await talk(site, open_wire)
    for _ in range(3):
        await ada.post(room_id, "hello", ttl=60)
    frames = [
        {"type": "edit", "room": room_id, "seq": 1, "body": "changed"},
        {"type": "delete", "room": room_id, "seq": 2},
        {"type": "extend", "room": room_id, "seq": 3, "ttl": 600},
    ]
    await grace.next("message", seq=3)
    site.store.freeze()
    await ada.send(*frames)
    for frame in frames:
        error = await ada.next("error", of=frame["type"])
        ada.seen = 0
        assert (error["code"], error["retryable"]) == ("unavailable", True)
        assert (error["room"], error["seq"]) == (room_id, frame["seq"])
    site.store.thaw()
    ada.seen = len(ada.frames)
    await ada.send(*frames)
    for kind, seq in (("edited", 1), ("deleted", 2), ("edited", 3)):
        ada.seen = 0
        assert (await ada.next(kind, seq=seq))["seq"] == seq
    await ada.fence()
    await grace.send({"type": "history", "room": room_id, "before": 9})
    messages = (await grace.next("history"))["messages"]
    assert [(message["seq"], message["body"]) for message in messages] == [(1, "changed"), (3, "hello")]
    assert messages[1]["expires_at"] - messages[1]["sent_at"] > 500_000


async def test_a_database_that_is_away_undoes_no_change(
    new_site: Callable[..., Site], open_wire: Open
) -> None:
    site = new_site()
    room_id, [ada, grace], _ = await talk(site, open_wire)
    await ada.post(room_id, "hello")
    moderators = Membership.objects.filter(room=room_id, user__username="grace")
    await later(moderators.update)(role="moderator")
    await site.announce("membership_changed", room=room_id, user=(await later(moderators.get)()).user_id)
    await grace.next("room", role="moderator")
    site.take_database_away()
    await grace.send({"type": "delete", "room": room_id, "seq": 1})
    assert (await grace.next("error", of="delete"))["code"] == "unavailable", "their role cannot be read"
    await ada.send({"type": "edit", "room": room_id, "seq": 1, "body": "changed"})
    assert await grace.next("edited") == await ada.next("edited")
    for frame in (
        {"type": "resend", "room": room_id, "seq": 1, "id": new_id()},
        {"type": "dismiss", "notice": "none"},
    ):
        await ada.send(frame)
        error = await ada.next("error", of=frame["type"])
        assert (error["code"], error["retryable"]) == ("unavailable", True)
        assert error["retry_after_ms"] > 0
    site.bring_database_back()
