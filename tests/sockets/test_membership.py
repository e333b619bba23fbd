"""Joining and leaving while connected: reported at once, found at the next check otherwise, and enforced in both cases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from messaging import control
from messaging.live.control_events import INTERVAL_S
from messaging.models import Membership, Room
from messaging.store import Store
from tests.support.clients import Client, Wire, new_id, seqs
from tests.support.sites import Browser, Person, Site, add_row, later, people, remove_row, room, until

Open = Callable[..., Any]

RECHECK_S = 0.3


async def greeted(site: Site, open_wire: Open, *members: Person) -> list[Wire]:
    wires = [await open_wire(site, member) for member in members]
    for wire in wires:
        await wire.hello()
        await wire.fence()
    return wires


async def call(site: Site, who: Person, method: str, path: str, **fields: Any) -> int:
    return int(await asyncio.to_thread(Browser(site, who).call, method, path, **fields))


async def nothing_is_left(wire: Wire, room_id: str) -> None:
    """Prove that somebody who was removed can neither read, nor resume, nor write, nor be heard."""
    for frame, code in (
        ({"type": "send", "id": new_id(), "room": room_id, "body": "hello"}, "not_member"),
        ({"type": "history", "room": room_id, "before": 9}, "not_member"),
        ({"type": "typing", "room": room_id}, "not_member"),
    ):
        await wire.send(frame)
        assert (await wire.next("error", of=frame["type"]))["code"] == code
    await wire.send({"type": "sync", "room": room_id, "epoch": "e", "since": 0})
    resumed = await wire.next("resumed", room=room_id)
    assert (resumed["ok"], resumed["why"], resumed["messages"]) == (False, "not_member", [])


async def test_joining_a_public_room_gives_open_sockets_the_room_then_its_resumed(
    site: Site, open_wire: Open
) -> None:
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada)
    [wire, late, later_tab] = await greeted(site, open_wire, ada, bob, bob)
    await wire.post(atlas, "before")
    assert await call(site, bob, "POST", f"/api/rooms/{atlas}/join/") in (200, 201, 204)
    for tab in (late, later_tab):
        joined = await tab.next("room")
        assert (joined["room"], joined["top"], joined["delivered"], joined["unread"]) == (atlas, 1, 1, 0)
        assert "removed" not in joined
        resumed = await tab.next("resumed", room=atlas)
        assert (resumed["from"], resumed["upto"], resumed["messages"]) == (1, 1, [])
    await wire.post(atlas, "after")
    assert (await late.next("message"))["seq"] == 2
    await later_tab.next("message", seq=2)
    await wire.told(2, 0, 0, 1)


async def test_others_see_new_members_and_their_presence(site: Site, open_wire: Open) -> None:
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada)
    [wire, _] = await greeted(site, open_wire, ada, bob)
    await call(site, bob, "POST", f"/api/rooms/{atlas}/join/")
    await wire.next("presence", room=atlas, user=bob.id, online=True)


async def test_leaving_takes_the_room_from_open_sockets_at_once(site: Site, open_wire: Open) -> None:
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob)
    [wire, leaver] = await greeted(site, open_wire, ada, bob)
    await call(site, bob, "POST", f"/api/rooms/{atlas}/leave/")
    gone = await leaver.next("room", room=atlas, removed=True)
    assert gone["name"] == "atlas"
    await wire.post(atlas, "without bob")
    await wire.next("message")
    await nothing_is_left(leaver, atlas)
    assert not leaver.heard("message")


async def test_a_removed_member_reads_nothing_more_from_that_moment(site: Site, open_wire: Open) -> None:
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob, kind="private")
    await later(Membership.objects.filter(user_id=ada.id).update)(role="owner")
    [wire, removed] = await greeted(site, open_wire, ada, bob)
    epoch = (await wire.post(atlas, "with bob"))["epoch"]
    await removed.next("message")
    await call(site, ada, "DELETE", f"/api/rooms/{atlas}/members/{bob.id}/")
    await removed.next("room", room=atlas, removed=True)
    await wire.post(atlas, "without bob")
    await nothing_is_left(removed, atlas)
    again = await open_wire(site, bob)
    welcome = await again.hello({"room": atlas, "epoch": epoch, "since": 0})
    assert welcome["rooms"] == []
    resumed = await again.next("resumed", room=atlas)
    assert (resumed["ok"], resumed["why"]) == (False, "not_member")
    await again.fence()
    assert not again.heard("message")
    assert seqs(removed.heard("message")) == [1]


async def test_a_message_sent_on_after_the_removal_reaches_nobody_removed(
    site: Site, open_wire: Open
) -> None:
    """The row is deleted first: even before the event, a new connection has no room."""
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob)
    await greeted(site, open_wire, ada, bob)
    await later(remove_row)(atlas, bob)
    again = await open_wire(site, bob)
    assert (await again.hello())["rooms"] == []


@pytest.mark.parametrize("change", ["removed", "added"])
async def test_a_change_whose_event_was_lost_is_found_at_the_next_look(
    new_site: Open, open_wire: Open, change: str
) -> None:
    site = new_site(recheck_interval_s=RECHECK_S)
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob, name="atlas")
    comet = await later(room)(ada, name="comet")
    [wire, other] = await greeted(site, open_wire, ada, bob)
    if change == "removed":
        await later(remove_row)(atlas, bob)
        await other.next("room", room=atlas, removed=True)
        await wire.post(atlas, "without bob")
        await wire.next("message")
        await nothing_is_left(other, atlas)
        assert not other.heard("message")
    else:
        await later(add_row)(comet, bob)
        await other.next("room", room=comet)
        await other.next("resumed", room=comet)
        await wire.post(comet, "with bob")
        await other.next("message", room=comet)


@pytest.mark.xdist_group("recheck")
async def test_a_role_that_nobody_announced_is_lost_at_the_next_check(
    pooled_site: Open, open_wire: Open
) -> None:
    site = pooled_site(recheck_interval_s=RECHECK_S)
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob)
    await later(Membership.objects.filter(user_id=bob.id).update)(role="moderator")
    [wire, other] = await greeted(site, open_wire, ada, bob)
    sent = await wire.post(atlas, "ada's")
    await later(Membership.objects.filter(user_id=bob.id).update)(role="member")
    assert (await other.next("room", room=atlas))["role"] == "member"
    await other.send({"type": "delete", "room": atlas, "epoch": sent["epoch"], "seq": sent["seq"]})
    assert (await other.next("error", of="delete"))["code"] == "forbidden"
    await later(Room.objects.filter(pk=atlas).update)(ttl_s=60, ttl_max_s=60)
    assert (await other.next("room", room=atlas))["ttl_max"] == 60


async def test_a_new_role_and_a_new_name_reach_open_sockets(site: Site, open_wire: Open) -> None:
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob)
    [wire, other] = await greeted(site, open_wire, ada, bob)
    await later(Membership.objects.filter(user_id=bob.id).update)(role="moderator")
    await site.announce("membership_changed", room=atlas, user=bob.id)
    assert (await other.next("room"))["role"] == "moderator"
    await later(Room.objects.filter(pk=atlas).update)(name="Atlas II", ttl_s=60)
    await site.announce("room_changed", room=atlas)
    for tab in (wire, other):
        changed = await tab.next("room", name="Atlas II")
        assert (changed["room"], changed["ttl"]) == (atlas, 60)


async def test_room_that_changes_all_the_time_is_sent_a_few_times_a_second_and_a_removal_in_between(
    site: Site, site_store: Store, open_wire: Open
) -> None:
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob)
    [wire, removed] = await greeted(site, open_wire, ada, bob)
    began_s = time.monotonic()
    for number in range(40):
        await later(Room.objects.filter(pk=atlas).update)(name=f"Atlas {number}")
        await control.publish("room_changed", room=atlas)
        if number == 20:
            await later(remove_row)(atlas, bob)
            await control.publish("membership_changed", room=atlas, user=bob.id)
    await removed.next("room", removed=True)
    await wire.next("room", name="Atlas 39")
    rounds = (time.monotonic() - began_s) / INTERVAL_S
    assert len(wire.heard("room")) <= rounds + 2
    await removed.fence()
    assert removed.heard("room")[-1]["removed"]


async def test_a_slow_reader_does_not_hold_up_the_news_for_others(new_site: Open, open_wire: Open) -> None:
    site = new_site(unsent_max=5)
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob, name="atlas")
    comet = await later(room)(ada, name="comet")
    [wire, slow, quick] = await greeted(site, open_wire, ada, bob, bob)
    epoch = (await wire.post(atlas, "first"))["epoch"]
    slow.stop_reading()
    for _ in range(40):
        await slow.send({"type": "sync", "room": atlas, "epoch": epoch, "since": 0})
    for _ in range(60):
        await wire.send(
            *({"type": "send", "id": new_id(), "room": atlas, "body": "x" * 4_000} for _ in range(5))
        )
        await wire.next("sent")
    await call(site, bob, "POST", f"/api/rooms/{comet}/join/")
    await quick.next("room", room=comet)
    await quick.next("resumed", room=comet)


async def test_a_member_who_joins_and_leaves_while_others_write_agrees_with_them(
    new_site: Open, open_client: Open
) -> None:
    site = new_site()
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada)
    writer: Client = open_client(site, ada)
    guest: Client = open_client(site, bob)
    await until(lambda: writer.welcomed and guest.welcomed)
    for turn in range(3):
        for n in range(20):
            writer.offer(atlas, f"{turn} {n}")
        await call(site, bob, "POST", f"/api/rooms/{atlas}/join/")
        await until(lambda: atlas in guest.logs)
        for n in range(20):
            writer.offer(atlas, f"{turn} {20 + n}")
        await until(lambda: writer.unsettled == 0 and guest.logs[atlas].last == writer.logs[atlas].last)
        first, theirs = guest.logs[atlas].first, writer.logs[atlas].held
        assert guest.logs[atlas].held == [message for message in theirs if message["seq"] > first]
        await call(site, bob, "POST", f"/api/rooms/{atlas}/leave/")
        await until(lambda: atlas not in guest.logs)
    assert writer.disagreed == guest.disagreed == []
