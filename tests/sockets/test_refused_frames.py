"""Frames that one client sends in masses: they cost others nothing, and end the connection if they go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from messaging.store import Store
from tests.support.clients import Wire
from tests.support.sites import Site, later, people, room, until

Open = Callable[..., Any]

ROWS = 700  # in one frame of nearly 64 KiB


async def two(site: Site, open_wire: Open) -> tuple[str, Wire, Wire]:
    """Return a room and the sockets of two members."""
    members = await later(people)("ada", "grace")
    atlas = await later(room)(*members)
    wires = []
    for member in members:
        wire = await open_wire(site, member)
        await wire.hello()
        await wire.next("resumed")
        wires.append(wire)
    return atlas, *wires  # type: ignore[return-value]


async def script_calls(store: Store) -> int:
    """Return the number of scripts that the store has run."""
    stats = await store.client.info("commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


async def test_acks_above_top_are_checked_together(site: Site, site_store: Store, open_wire: Open) -> None:
    frames = 50
    atlas, ada, grace = await two(site, open_wire)
    sent = await ada.post(atlas, "hello")
    await grace.next("message")
    before = await script_calls(site_store)
    for n in range(frames):
        rows = [
            {"room": atlas, "epoch": sent["epoch"], "delivered": 2 + n * ROWS + row} for row in range(ROWS)
        ]
        await grace.send({"type": "ack", "rooms": rows})
    await grace.fence()
    await ada.post(atlas, "not delayed")
    errors = grace.heard("error")
    await grace.next("error", code="ack_too_high", room=atlas)
    assert len(errors) <= 3
    assert await script_calls(site_store) - before < 100, f"{frames * ROWS} rows were above top"
    await grace.ack(atlas, sent["epoch"], delivered=1)
    await ada.told(sent["seq"], 1, 0, 1)
    assert grace.closed is None


async def test_the_rooms_of_a_frame_with_an_ack_above_top_hold(site: Site, open_wire: Open) -> None:
    atlas, ada, grace = await two(site, open_wire)
    sent = await ada.post(atlas, "hello")
    await grace.next("message")
    for _ in range(2):  # the second is checked a second later
        await grace.send(
            {
                "type": "ack",
                "rooms": [
                    {"room": atlas, "epoch": sent["epoch"], "delivered": 99},
                    {"room": atlas, "epoch": sent["epoch"], "delivered": 1, "read": 1},
                ],
            }
        )
        await grace.next("error", code="ack_too_high", room=atlas)
    await ada.told(sent["seq"], 1, 1, 1)


async def test_many_frames_refused_for_good_end_the_connection(pooled_site: Open, open_wire: Open) -> None:
    site = pooled_site(refused_frames_per_minute_max=300)
    atlas, ada, grace = await two(site, open_wire)
    for frame in (
        {"type": "tomorrow"},
        {"type": "sync", "room": atlas, "epoch": "e", "since": 0},  # not refused
        {"type": "delete", "room": atlas, "seq": 9},
    ):
        await grace.send(*[frame] * 100)
    await until(lambda: len(grace.heard("error")) == 200)
    await grace.fence()
    await grace.send(
        *[{"type": "send", "id": "0b8f6c1e-52b2-4d62-9a60-6f2f6d1f0a11", "room": "x", "body": "y"}] * 100
    )
    await grace.fence()
    assert grace.closed is None
    await grace.send({"type": "tomorrow"})
    assert await grace.close_code() == 4429
    await ada.post(atlas, "not concerned")


async def test_frames_that_may_be_repeated_are_not_counted_as_refused(
    pooled_site: Open, open_wire: Open
) -> None:
    site = pooled_site(refused_frames_per_minute_max=300)
    _, _, grace = await two(site, open_wire)
    for n in range(5):
        await grace.send(*[{"type": "ping", "n": n}] * 100)
    await until(lambda: len(grace.heard("error", code="rate_limited")) > 300)
    assert grace.closed is None
