"""A socket whose peer reads slowly, or not at all: it costs bounded memory, delays no others, and is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.support.clients import Frame, Wire, new_id, seqs
from tests.support.sites import Person, Site, later, people, room, until

Open = Callable[..., Any]

pytestmark = pytest.mark.xdist_group("clock")  # tests that measure time run one after another

UNSENT = 50
GONE_WITHIN_S = 20.0
OPEN_STATES = {psutil.CONN_ESTABLISHED, psutil.CONN_FIN_WAIT1, psutil.CONN_CLOSE_WAIT, psutil.CONN_LAST_ACK}
BODY = "x" * 4_000


async def two(site: Site, open_wire: Open) -> tuple[str, Wire, Wire, list[Person]]:
    members = await later(people)("ada", "grace")
    atlas = await later(room)(*members)
    wires = []
    for member in members:
        wire = await open_wire(site, member)
        await wire.hello()
        await wire.next("resumed")
        wires.append(wire)
    return atlas, wires[0], wires[1], members


async def flood(wire: Wire, atlas: str, count: int) -> Frame:
    """Send more than any buffer of the kernel holds; return the last `sent`."""
    wanted = len(wire.heard("sent")) + count
    for _ in range(count // 10):
        await wire.send(*({"type": "send", "id": new_id(), "room": atlas, "body": BODY} for _ in range(10)))
    await until(lambda: len(wire.heard("sent")) == wanted, within_s=60)
    return wire.heard("sent")[-1]


async def test_slow_reader_past_the_limit_gets_only_the_position_until_a_sync(
    pooled_site: Open, open_wire: Open
) -> None:
    site = pooled_site(unsent_max=UNSENT, rate_limit_scale=100.0)
    atlas, ada, grace, [_, grace_self] = await two(site, open_wire)
    grace.stop_reading()
    last = await flood(ada, atlas, 2_000)  # 8 MB: the kernel's buffers and the transport's hold less
    grace.read_on()
    position = await grace.next("position")
    assert position["epoch"] == last["epoch"]
    held = seqs(grace.heard("message"))
    assert held == list(range(1, len(held) + 1))
    assert len(held) < last["seq"]
    assert position["top"] > held[-1]
    watching = await open_wire(site, grace_self)  # another tab, to know when the process has heard of it
    await watching.hello({"room": atlas, "epoch": last["epoch"], "since": last["seq"]})
    await watching.next("resumed")
    await ada.post(atlas, "one more")
    await watching.next("message", body="one more")
    await grace.fence()
    assert seqs(grace.heard("message")) == held, "a message after the position"
    since = held[-1]
    while True:
        await grace.send({"type": "sync", "room": atlas, "epoch": last["epoch"], "since": since})
        resumed = await grace.next("resumed")
        assert resumed["from"] == since
        held += seqs(resumed["messages"])
        since = resumed["upto"]
        if not resumed["more"]:
            break
    assert held == list(range(1, last["seq"] + 2))
    await ada.post(atlas, "live again")
    assert (await grace.next("message"))["body"] == "live again"


async def test_slow_reader_delays_nobody(pooled_site: Open, open_wire: Open) -> None:
    site = pooled_site(unsent_max=UNSENT, rate_limit_scale=100.0)
    atlas, ada, grace, _ = await two(site, open_wire)
    grace.stop_reading()
    await flood(ada, atlas, 1_000)
    began_s = time.monotonic()
    await ada.post(atlas, "quick")
    assert time.monotonic() - began_s < 1


async def test_memory_for_a_client_that_does_not_read_is_bounded(new_site: Open, open_wire: Open) -> None:
    site = new_site(unsent_max=UNSENT, rate_limit_scale=100.0, ack_timeout_s=60.0)
    atlas, ada, grace, _ = await two(site, open_wire)
    grace.stop_reading()
    await flood(ada, atlas, 2_000)  # what the process and the kernel hold at most is held
    before = _resident_bytes(site)
    await flood(ada, atlas, 6_000)
    assert _resident_bytes(site) - before < 20_000_000, "24 MB more were meant for one who reads nothing"


def _resident_bytes(site: Site) -> int:
    assert site.process is not None
    return int(psutil.Process(site.process.pid).memory_info().rss)


async def idle(site: Site) -> None:
    """Wait until the server has handled all that it handles for now."""
    assert site.process is not None
    process = psutil.Process(site.process.pid)
    before_s, now_s = -1.0, 0.0
    while now_s - before_s > 0.03:
        await asyncio.sleep(1)
        before_s, now_s = now_s, process.cpu_times().user


async def changed_room(ada: Wire, atlas: str, count: int) -> tuple[str, int]:
    """Send messages and edit all of them; return the room's epoch and top."""
    for _ in range(count):
        sent = await ada.post(atlas, BODY)
        await ada.send({"type": "edit", "room": atlas, "seq": sent["seq"], "body": BODY})
        await ada.next("edited", seq=sent["seq"])
    return sent["epoch"], sent["seq"]


async def test_memory_for_twenty_sockets_of_a_slow_reader_is_bounded(new_site: Open, open_wire: Open) -> None:
    """They ask for messages, changes and history, each another part, and read nothing. Each request is answered later."""
    site = new_site(rate_limit_scale=100.0, ack_timeout_s=60.0)
    atlas, ada, grace, [_, grace_self] = await two(site, open_wire)
    epoch, top = await changed_room(ada, atlas, 12)
    slow = [grace] + [await open_wire(site, grace_self) for _ in range(19)]
    for wire in slow[1:]:
        await wire.hello({"room": atlas, "epoch": epoch, "since": top, "rev": 12})
        await wire.next("resumed")
    before = _resident_bytes(site)
    for number, wire in enumerate(slow):
        wire.stop_reading()
        limit = 20 + number  # equal reads of several sockets are one text
        sync = {"type": "sync", "room": atlas, "epoch": epoch, "limit": limit}
        for _ in range(25):
            await wire.send(
                {**sync, "since": top, "rev": 0},
                {**sync, "since": 0},
                {"type": "history", "room": atlas, "before": top + 1, "limit": limit},
            )
    await ada.post(atlas, "quick")
    await idle(site)
    assert _resident_bytes(site) - before < 20_000_000, "75 MB of answers were asked for"
    await ada.post(atlas, "still quick")
    for wire in slow:
        wire.read_on()
    for wire in slow:
        await until(lambda wire=wire: len(wire.heard("history")) == 25, within_s=60)
        await until(lambda wire=wire: len(wire.heard("resumed", ok=True)) >= 50, within_s=60)
        assert wire.closed is None


async def test_requests_of_a_client_that_does_not_read_wait(pooled_site: Open, open_wire: Open) -> None:
    """Also those whose answers are not reads of the log: an `edited` for each `edit`."""
    edits = 600
    site = pooled_site(unsent_bytes_max=262_144, rate_limit_scale=100.0)
    atlas, ada, grace, _ = await two(site, open_wire)
    seq = (await grace.post(atlas, BODY))["seq"]
    grace.stop_reading()
    for n in range(edits):
        await grace.send({"type": "edit", "room": atlas, "seq": seq, "body": f"{n}{BODY}"[:4_000]})
    await idle(site)
    await ada.fence()
    assert 0 < len(ada.heard("edited")) < edits - 100
    grace.read_on()
    await until(lambda: len(ada.heard("edited")) == edits, within_s=30)
    await grace.fence()
    assert grace.closed is None


async def test_changes_past_the_limit_are_replaced_by_the_position(
    pooled_site: Open, open_wire: Open
) -> None:
    site = pooled_site(unsent_bytes_max=262_144, rate_limit_scale=100.0)
    atlas, ada, grace, _ = await two(site, open_wire)
    sent = await ada.post(atlas, BODY)
    await grace.next("message")
    grace.stop_reading()
    for n in range(500):
        await ada.send({"type": "edit", "room": atlas, "seq": sent["seq"], "body": f"{n}{BODY}"[:4_000]})
    await ada.next("edited", rev=500, within_s=30)
    grace.read_on()
    position = await grace.next("position", room=atlas)
    edited = grace.heard("edited")
    assert [frame["rev"] for frame in edited] == list(range(1, len(edited) + 1))
    assert len(edited) < position["rev"] <= 500
    await grace.send({"type": "sync", "room": atlas, "epoch": sent["epoch"], "since": 1, "rev": len(edited)})
    resumed = await grace.next("resumed")
    assert (resumed["rev"], [frame["body"][:3] for frame in resumed["changed"]]) == (500, ["499"])


async def test_the_largest_sockets_of_a_user_are_closed_above_the_users_bound(
    new_site: Open, open_wire: Open
) -> None:
    site = new_site(
        unsent_bytes_max=262_144,
        unsent_bytes_to_close=262_144,
        memory_per_user_max=262_144,
        rate_limit_scale=100.0,
    )
    atlas, ada, grace, [_, grace_self] = await two(site, open_wire)
    epoch, top = await changed_room(ada, atlas, 12)
    slow = [grace, await open_wire(site, grace_self), await open_wire(site, grace_self)]
    for wire in slow[1:]:
        await wire.hello({"room": atlas, "epoch": epoch, "since": top, "rev": 12})
        await wire.next("resumed")
    ports = [wire.socket.local_address[1] for wire in slow]
    for number, wire in enumerate(slow):
        wire.stop_reading()
        sync = {"type": "sync", "room": atlas, "epoch": epoch, "since": top, "rev": 0, "limit": 20 + number}
        for _ in range(2):
            await wire.send(*[sync] * 100)  # 10 MB of answers: more than the buffers of the kernel hold

    def are_open() -> list[bool]:
        return [psutil.CONN_ESTABLISHED in site.sockets_of(port) for port in ports]

    await until(lambda: sum(are_open()) == 1)
    await ada.post(atlas, "quick")
    [(wire, _)] = [(wire, is_open) for wire, is_open in zip(slow, are_open(), strict=True) if is_open]
    wire.read_on()
    await until(lambda: len(wire.heard("resumed")) > 200)
    assert wire.closed is None


async def test_a_socket_that_stops_reading_is_closed_within_twenty_seconds(
    new_site: Open, open_wire: Open
) -> None:
    site = new_site(rate_limit_scale=100.0)
    atlas, ada, grace, [_, grace_self] = await two(site, open_wire)
    port = grace.socket.local_address[1]
    grace.stop_reading()
    stopped_s = time.monotonic()
    await flood(ada, atlas, 2_000)
    assert site.sockets_of(port), "its connection must be there to begin with"
    await until(lambda: not set(site.sockets_of(port)) & OPEN_STATES, within_s=GONE_WITHIN_S + 5)
    assert time.monotonic() - stopped_s <= GONE_WITHIN_S + 1
    await ada.next("presence", user=grace_self.id, online=False)
    again = await open_wire(site, grace_self)
    await again.hello()
    assert (await asyncio.wait_for(again.next("resumed"), 5))["more"]
