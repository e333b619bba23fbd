"""One message, from the keystroke to the last receipt, through every station in order; and the end of one. Read it from top to bottom.

Ada writes to the room Atlas. Grace is connected, but sends no acknowledgement at first; Bob is offline. Each `# ──` is a station:
the input, the state after it, and the module that does the work.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from messaging import protocol
from messaging.jobs import schedules as jobs
from messaging.models import DeadLetter, MissedRecipient, Room
from messaging.store.records import RoomKey
from tests.support.clients import Wire, new_id
from tests.support.sites import Person, Site, later, people, room, until
from tests.support.workers import Worker

Open = Callable[..., Any]

ACK_TIMEOUT_S = 0.4
TTL_S = 10
# From the end: 5 s for acks in flight, the minute of the schedule, the half minute of its scheduler.
TOLD_WITHIN_S = 100


async def enter(site: Site, open_wire: Open, who: Person) -> Wire:
    wire = await open_wire(site, who)
    await wire.hello()
    await wire.next("resumed")
    return wire


async def test_the_walk_of_one_message(new_site: Open, open_wire: Open) -> None:
    site = new_site(ack_timeout_s=ACK_TIMEOUT_S, receipt_interval_s=0.1)
    ada, grace, bob = await later(people)("ada", "grace", "bob")
    atlas = await later(room)(ada, grace, bob)
    key = RoomKey(atlas, (await later(Room.objects.get)(pk=atlas)).partition)
    store = redis.Redis(unix_socket_path=str(site.store.socket), decode_responses=True)

    # ── Before: everybody's page has said hello once, so that the room has a log and knows its members (delivery, store) ──
    pages = {who.name: await enter(site, open_wire, who) for who in (ada, grace, bob)}
    epoch, top = store.hmget(key.key, "epoch", "top")
    assert top == "0"
    assert dict(store.zscan_iter(f"{key.key}:joined")) == {str(who.id): 0.0 for who in (ada, grace, bob)}
    await pages["bob"].aclose()
    await pages["ada"].next("presence", user=bob.id, online=False)

    # ── 1. The frame: Ada's outbox keeps the message under an id that the outbox made, until it is answered (protocol) ──
    message_id = new_id()
    frame = {"type": "send", "id": message_id, "room": atlas, "body": "hello, world", "ttl": 600}
    [parsed] = protocol.parse(json.dumps(frame), frames_max=100, body_max=4_000)
    assert isinstance(parsed, protocol.Send)

    # ── 2. Accepted: numbered, stored, indexed and published by one script; `sent` confirms that it is durable (delivery, store) ──
    await pages["ada"].send(frame)
    sent = await pages["ada"].next("sent", id=message_id)
    assert (sent["epoch"], sent["seq"], sent["duplicate"]) == (epoch, 1, False)
    assert store.hget(key.key, "top") == "1"
    assert store.hget(f"{key.key}:msg:1", "body") == "hello, world"
    assert store.zrange(f"{key.key}:live", 0, -1, withscores=True) == [(f"1|{ada.id}|{message_id}", 1.0)]
    # the job that reports what expired will look for it here:
    assert store.zscore(f"{key.prefix}expiring", f"{atlas}|1") == sent["expires_at"]
    # and the sweep here, one entry for the whole room:
    assert store.zscore(f"{key.prefix}unacked", atlas) is not None
    # Only its sender holds the message yet.
    assert store.zscore(f"{key.key}:delivered", str(ada.id)) == 1
    assert store.zscore(f"{key.key}:delivered", str(grace.id)) == 0

    # ── 3. Said again after doubt, the same id is the same message (store) ──
    await pages["ada"].send(frame)
    assert await pages["ada"].next("sent", id=message_id) == {**sent, "duplicate": True}

    # ── 4. Fanned out: the same bytes to every open socket of every member, Ada's own too (hub, connection) ──
    for name in ("ada", "grace"):
        [message] = await until(lambda page=pages[name]: page.heard("message"))
        assert (message["seq"], message["id"], message["from"]["name"]) == (1, message_id, "ada")
        assert (message["body"], message["expires_at"]) == ("hello, world", sent["expires_at"])

    # ── 5. Silence: Grace's page does not acknowledge, so the message is pushed again and the attempt counted (retry) ──
    again = await pages["grace"].next("message", seq=1, attempt=1)
    assert (again["id"], again["body"]) == (message_id, "hello, world")
    assert store.hget(f"{key.key}:attempts", str(grace.id)).split("|")[0] == "1"
    # Bob is offline: nothing is written for an offline member, and no work is done.
    assert store.hget(f"{key.key}:attempts", str(bob.id)) is None

    # ── 6. Acknowledged: one cumulative cursor rises, and the count of attempts is deleted (delivery, store) ──
    await pages["grace"].ack(atlas, epoch, delivered=1)
    await pages["ada"].told(1, 1, 0, 2)
    assert store.zscore(f"{key.key}:delivered", str(grace.id)) == 1
    assert store.hget(f"{key.key}:attempts", str(grace.id)) is None

    # ── 7. Receipts: Ada is told who holds it and who has read it, of those who owe it (receipts) ──
    await pages["grace"].ack(atlas, epoch, delivered=1, read=1)
    await pages["ada"].told(1, 1, 1, 2)

    # ── 8. The crash: server and store are killed with -9; what was accepted is still there, under the same number ──
    await site.restart_store()
    await site.restart_server()
    assert await pages["ada"].close_code() == 1006
    ada_again = await open_wire(site, ada)
    await ada_again.hello({"room": atlas, "epoch": epoch, "since": 1, "rev": 0})
    await ada_again.send(frame)
    assert await ada_again.next("sent", id=message_id) == {**sent, "duplicate": True}

    # ── 9. Bob reconnects and resumes from the stored cursor: a parked message costs nothing in the meantime (store) ──
    bob_again = await open_wire(site, bob)
    [entry] = (await bob_again.hello())["rooms"]
    assert (entry["top"], entry["delivered"], entry["unread"]) == (1, 0, 1)
    resumed = await bob_again.next("resumed")
    assert (resumed["from"], resumed["upto"], resumed["more"]) == (0, 1, False)
    assert [(m["seq"], m["id"], m["body"]) for m in resumed["messages"]] == [(1, message_id, "hello, world")]

    # ── 10. The end: everybody holds it; nobody owes anything ──
    await bob_again.ack(atlas, epoch, delivered=1)
    await ada_again.told(1, 2, 1, 2)
    assert store.zrangebyscore(f"{key.key}:delivered", "-inf", "(1") == []
    assert store.hgetall(f"{key.key}:attempts") == {}
    await asyncio.to_thread(store.close)


# ── The end of a message, as docs/explanation/architecture.md describes it: no time is moved, and the worker runs by its schedules ──


@pytest.fixture
def start_worker() -> Iterator[Callable[[Site], Worker]]:
    """Return what starts a site's worker, jobs, schedules and all."""
    workers: list[Worker] = []

    def start(site: Site) -> Worker:
        jobs.install_schedules()
        workers.append(Worker(site).start())
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


@pytest.mark.proof
async def test_the_end_of_a_message_that_one_of_two_missed(
    new_site: Open, open_wire: Open, start_worker: Callable[[Site], Worker]
) -> None:
    site = new_site()
    ada, bob, carol = await later(people)("ada", "bob", "carol")
    atlas = await later(room)(ada, bob, carol)
    at_ada, at_carol = [await enter(site, open_wire, who) for who in (ada, carol)]
    worker = await later(start_worker)(site)
    await until(worker.has_run, within_s=30, what="what the worker runs at its start is behind it")

    # ── 1. Ada writes; Carol acknowledges, Bob is away for all of its life ──
    sent = await at_ada.post(atlas, "the gate code", ttl=TTL_S)
    assert sent["expires_at"] - sent["sent_at"] == 1000 * TTL_S
    place = {"room": atlas, "epoch": sent["epoch"]}
    assert (await at_carol.next("message", seq=sent["seq"]))["body"] == "the gate code"
    await at_carol.ack(atlas, sent["epoch"], delivered=sent["seq"])
    await at_ada.told(sent["seq"], 1, 0, 2)

    # ── 2. Over: the job of the schedule tells Carol's screen to remove it, and Ada by name who missed it (expiry) ──
    await at_carol.next("expired", within_s=TTL_S + TOLD_WITHIN_S, **place, seqs=[sent["seq"]])
    notice = await at_ada.next("notice")
    assert time.time() * 1000 < sent["expires_at"] + 1000 * TOLD_WITHIN_S
    told = notice["data"]
    assert told["missing"] == [{"user": bob.id, "name": "bob", "reason": "offline", "attempts": 0}]
    assert (told["seq"], told["delivered"], told["total"], told["resendable"]) == (sent["seq"], 1, 2, True)

    # ── 3. Written down: one letter, one who missed it (reports) ──
    [letter] = await later(lambda: list(DeadLetter.objects.all()))()
    [missed] = await later(lambda: list(MissedRecipient.objects.all()))()
    assert (letter.message_id, letter.sender_name, letter.missing_total) == (sent["id"], "ada", 1)
    assert (missed.dead_letter_id, missed.name, missed.reason) == (letter.pk, "bob", "offline")

    # ── 4. Bob reconnects: nobody can read the text any more, neither Bob nor Carol's next screen (store) ──
    at_bob, carol_again = [await enter(site, open_wire, who) for who in (bob, carol)]
    for wire in (at_bob, carol_again):
        await wire.send(
            {"type": "sync", **place, "since": 0}, {"type": "history", "room": atlas, "before": 99}
        )
        await wire.next("history")
        assert "the gate code" not in "".join(wire.texts)

    # ── 5. Resent to those who missed it: Bob alone has it, and the receipts count Bob alone (resend) ──
    before = len(at_carol.texts)
    frame = {"type": "resend", **place, "seq": sent["seq"], "id": new_id()}
    await at_ada.send(frame)
    again = await at_ada.next("sent", id=frame["id"])
    message = await at_bob.next("message", seq=again["seq"])
    assert (message["body"], message["resends"]) == ("the gate code", sent["seq"])
    await at_bob.ack(atlas, sent["epoch"], delivered=again["seq"])
    await at_ada.told(again["seq"], 1, 0, 1)
    for wire in (at_carol, carol_again):
        await wire.next("resumed", **{"from": sent["seq"], "upto": again["seq"], "messages": []})
        assert "the gate code" not in "".join(wire.texts[before:] if wire is at_carol else wire.texts)
