"""The store gone, frozen or restarted while people are connected: sockets stay, answers say so, and everything drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import redis

from messaging.errors import Unavailable
from messaging.live.server import Server
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import AckRow
from tests.support.clients import Client, Wire, new_id, seqs
from tests.support.messages import GRACE, ROOM, accept, cursors, message
from tests.support.sites import Person, Site, later, people, person, room, until

Open = Callable[..., Any]

pytestmark = pytest.mark.xdist_group("clock")  # tests that measure time run one after another

ANSWERED_WITHIN_S = 4.0
DRAINED_WITHIN_S = 2.0
SLACK_S = 0.3  # of a busy machine, on top of a promise
SKIP = 1_048_576


@pytest.fixture
async def site(pooled_site: Open) -> AsyncIterator[Site]:
    """Return a site whose store the test can take away. It is there again afterwards."""
    site: Site = pooled_site(memory_interval_s=3_600.0)  # only the store itself reports that it is full
    yield site
    site.store.thaw()
    if site.store.process is None or site.store.process.poll() is not None:
        await site.restart_store()


async def away(site: Site, how: str) -> None:
    await asyncio.to_thread(site.store.kill) if how == "gone" else site.store.freeze()


async def back(site: Site, how: str) -> None:
    await site.restart_store() if how == "gone" else site.store.thaw()


async def greeted(site: Site, open_wire: Open, *members: Person) -> list[Wire]:
    wires = [await open_wire(site, member) for member in members]
    for wire in wires:
        await wire.hello()
        await wire.next("resumed")
    return wires


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_a_send_is_answered_unavailable_within_four_seconds_and_the_socket_stays(
    site: Site, open_wire: Open, how: str
) -> None:
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    [wire, other] = await greeted(site, open_wire, ada, grace)
    await away(site, how)
    asked_s: dict[str, float] = {}
    ids = [new_id() for _ in range(8)]
    for n, message_id in enumerate(ids):  # also one that has to wait behind others
        asked_s[message_id] = time.monotonic()
        await wire.send({"type": "send", "id": message_id, "room": atlas, "body": f"m{n}"})
        await asyncio.sleep(0.25)  # spread over the time in which the first call is still under way
    for kind, fields in (("sync", {"epoch": "e", "since": 0}), ("history", {"before": 9})):
        asked_s[kind] = time.monotonic()
        await other.send({"type": kind, "room": atlas, **fields})
    await until(lambda: len(wire.heard("error")) == 8 and len(other.heard("error")) == 2)
    for asking in (wire, other):
        for answer, heard_s in zip(asking.frames, asking.heard_s, strict=True):
            if answer["type"] != "error":
                continue
            took_s = heard_s - asked_s.pop(answer.get("id") or answer["of"])
            assert took_s <= ANSWERED_WITHIN_S + SLACK_S, (answer, took_s)
            assert (answer["code"], answer["retryable"], answer["room"]) == ("unavailable", True, atlas)
            assert answer["retry_after_ms"] > 0
    assert not asked_s
    await back(site, how)
    for n, message_id in enumerate(ids):
        await wire.send({"type": "send", "id": message_id, "room": atlas, "body": f"m{n}"})
        await wire.next("sent", id=message_id)
    assert wire.closed is other.closed is None


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_everything_drains_in_order_within_two_seconds_of_the_return(
    site: Site, open_client: Open, how: str
) -> None:
    members = await later(people)("ada", "grace", "bob")
    atlas = await later(room)(*members)
    clients: list[Client] = [open_client(site, member) for member in members]
    await until(lambda: all(client.welcomed for client in clients))
    for client in clients:
        client.offer(atlas, "before")
    await until(lambda: all(len(client.logs[atlas].held) == 3 for client in clients))
    await away(site, how)
    for n in range(20):
        for client in clients:
            client.offer(atlas, f"{n}")
    await asyncio.sleep(1)  # some are sent, and told that they must wait
    await back(site, how)
    back_s = time.monotonic()
    await until(lambda: _all_hold(clients, atlas, 63), what="everybody holds everything")
    took_s = time.monotonic() - back_s
    assert took_s <= DRAINED_WITHIN_S + SLACK_S, took_s
    assert all(client.connections == 1 for client in clients), "a socket was closed"
    _agree(clients, atlas)
    for client in clients:
        mine = [m["body"] for m in client.logs[atlas].held if m["id"] in client.accepted]
        assert mine == ["before", *(f"{n}" for n in range(20))]


def _all_hold(clients: Sequence[Client], room_id: str, count: int) -> bool:
    return all(len(client.logs[room_id].held) == count for client in clients)


def _agree(clients: Sequence[Client], room_id: str) -> None:
    logs = [[(m["seq"], m["id"]) for m in client.logs[room_id].held] for client in clients]
    assert all(log == logs[0] for log in logs)
    assert [client.disagreed for client in clients] == [[]] * len(clients)


async def test_an_ack_that_failed_is_not_lost_behind_a_lower_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tab's comes while the store does not answer for the first."""
    acknowledger = Server(store, Policy(ack_flush_s=0.01)).acknowledger
    await accept(store, *(message() for _ in range(3)))
    [place] = await store.log.positions([ROOM])
    assert place is not None
    settle = store.cursors.acknowledge

    async def fail(acks: Sequence[AckRow]) -> list[int]:
        monkeypatch.setattr(store.cursors, "acknowledge", settle)
        acknowledger._put(AckRow(ROOM, place.epoch, GRACE, 1, 1))
        raise Unavailable()

    monkeypatch.setattr(store.cursors, "acknowledge", fail)
    acknowledger._put(AckRow(ROOM, place.epoch, GRACE, 3, None))
    await acknowledger._settler
    assert await cursors(store, GRACE) == (3, 1)


async def test_subscription_is_restored_after_a_restart_and_the_position_sent_at_once(
    site: Site, open_wire: Open
) -> None:
    ada, grace = await later(people)("ada", "grace")
    atlas, comet = [await later(room)(ada, grace, name=name) for name in ("atlas", "comet")]
    [wire, other] = await greeted(site, open_wire, ada, grace)
    first = await wire.post(atlas, "before")
    await other.next("message", body="before")
    await asyncio.to_thread(site.store.kill)
    site.store.start()
    await asyncio.to_thread(site.store.wait_until_ready)
    # Another process accepts one before this one listens again: it is published to nobody here.
    _append_elsewhere(site, atlas, ada)
    position = await other.next("position", room=atlas, within_s=4)
    assert position.keys() == {"type", "room", "epoch", "top", "rev"}
    assert (position["epoch"], position["top"]) == (first["epoch"], 2)
    await other.send({"type": "sync", "room": atlas, "epoch": first["epoch"], "since": 1})
    assert seqs((await other.next("resumed", room=atlas))["messages"]) == [2]
    sent = await wire.post(comet, "after")
    message = await other.next("message", room=comet)
    assert (message["seq"], message["after"]) == (sent["seq"], 0)
    assert sent["seq"] > SKIP + 1


def _append_elsewhere(site: Site, room_id: str, who: Person) -> None:
    with redis.Redis(unix_socket_path=str(site.store.socket)) as client:
        [key] = [key.decode() for key in client.scan_iter(match=f"chat:*room:{room_id}")]
        seq = client.hincrby(key, "top", 1)
        message_id, expires_at = new_id(), int(time.time() * 1000) + 60_000
        fields = {"id": message_id, "sender": who.id, "name": who.name, "body": "unheard"}
        client.hset(
            f"{key}:msg:{seq}", mapping={**fields, "sent_at": expires_at - 60_000, "expires_at": expires_at}
        )
        client.zadd(f"{key}:live", {f"{seq}|{who.id}|{message_id}": seq})


async def test_seq_is_never_assigned_twice_over_a_restart_and_nobody_syncs_for_the_jump(
    site: Site, open_client: Open
) -> None:
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    writer, reader = (open_client(site, who) for who in (ada, grace))
    await until(lambda: writer.welcomed and reader.welcomed)
    for n in range(3):
        writer.offer(atlas, f"{n}")
    await until(lambda: len(reader.logs[atlas].held) == 3)
    await site.restart_store()
    writer.offer(atlas, "after")
    await until(lambda: len(reader.logs[atlas].held) == 4)
    *before, after = seqs(reader.logs[atlas].held)
    assert before == [1, 2, 3]
    assert after > SKIP + 4


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_a_hello_is_closed_with_1013_and_the_page_reconnects_automatically(
    site: Site, open_wire: Open, open_client: Open, how: str
) -> None:
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    await away(site, how)
    wire = await open_wire(site, ada)
    await wire.send({"type": "hello", "v": 1, "rooms": []})
    assert await wire.close_code() == 1013
    assert wire.frames == []
    assert await asyncio.to_thread(site.check, cookie=ada.cookie) == 204  # the store is not asked
    client: Client = open_client(site, grace, max_backoff_s=0.5)
    client.offer(atlas, "waiting")
    await until(lambda: 1013 in client.closes)
    await back(site, how)
    await until(lambda: client.accepted)
    assert set(client.closes) == {1013}


async def test_a_store_that_lost_everything_begins_a_new_epoch_and_the_page_follows(
    new_site: Open, open_client: Open
) -> None:
    site = new_site(position_interval_s=0.5)
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    writer, reader = (open_client(site, who) for who in (ada, grace))
    await until(lambda: writer.welcomed and reader.welcomed)
    for n in range(3):
        writer.offer(atlas, f"{n}")
    await until(lambda: len(reader.logs[atlas].held) == 3)
    epoch = reader.logs[atlas].epoch
    with redis.Redis(unix_socket_path=str(site.store.socket)) as client:
        client.flushall()
    writer.offer(atlas, "anew")
    await until(lambda: [m["body"] for m in reader.logs[atlas].held] == ["anew"])
    assert reader.logs[atlas].epoch == writer.logs[atlas].epoch != epoch
    assert writer.connections == reader.connections == 1


async def test_scripts_that_were_flushed_are_loaded_again_unseen(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    atlas = await later(room)(ada)
    [wire] = await greeted(site, open_wire, ada)
    with redis.Redis(unix_socket_path=str(site.store.socket)) as client:
        client.script_flush()
    sent = await wire.post(atlas, "hello")
    assert (sent["seq"], wire.heard("error")) == (1, [])


async def test_a_full_store_answers_backlog_full_and_still_takes_acks(site: Site, open_wire: Open) -> None:
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    [wire, other] = await greeted(site, open_wire, ada, grace)
    sent = await wire.post(atlas, "before")
    with redis.Redis(unix_socket_path=str(site.store.socket)) as client:
        client.config_set("maxmemory", 1)
        message_id = new_id()
        await wire.send({"type": "send", "id": message_id, "room": atlas, "body": "no room"})
        error = await wire.next("error")
        assert (error["code"], error["retryable"], error["id"]) == ("backlog_full", True, message_id)
        assert error["retry_after_ms"] > 0
        await other.ack(atlas, sent["epoch"], delivered=1)
        await wire.told(1, 1, 0, 1)
        client.config_set("maxmemory", 0)
    await wire.send({"type": "send", "id": message_id, "room": atlas, "body": "no room"})
    assert (await wire.next("sent", id=message_id))["seq"] == 2
