"""A connected client that never acknowledges: eight attempts with growing waits, then none. Other clients are not affected.

The policy's numbers are those of an installation divided by fifty.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients import Client, Wire
from tests.support.sites import Browser, Person, Site, later, people, room, until

Open = Callable[..., Any]

pytestmark = pytest.mark.xdist_group("clock")  # tests that measure time run one after another

ACK_TIMEOUT_S, CAP_S = 0.1, 1.2
BOUNDS_S = [0.1, 0.2, 0.4, 0.8, 1.2, 1.2, 1.2, 1.2]
LATE_S = 0.5  # a busy machine comes late, never early
QUICK = {"ack_timeout_s": ACK_TIMEOUT_S, "backoff_cap_s": CAP_S}


async def enter(site: Site, open_wire: Open, who: Person) -> Wire:
    wire = await open_wire(site, who)
    await wire.hello()
    await wire.next("resumed")
    return wire


async def row_of(site: Site, asking: Person, room_id: str, seq: int, who: Person) -> dict[str, Any]:
    path = f"/api/rooms/{room_id}/messages/{seq}/recipients/"
    answer = await asyncio.to_thread(Browser(site, asking).get, path)
    [row] = [row for row in answer["recipients"] if row["user"] == who.id]
    return row


def attempts(wire: Wire) -> list[tuple[int, float]]:
    """Return (attempt, when it came)."""
    return [
        (frame["attempt"], heard_s)
        for frame, heard_s in zip(wire.frames, wire.heard_s, strict=True)
        if "attempt" in frame
    ]


async def test_eight_attempts_with_growing_waits_then_no_ack(
    pooled_site: Open, open_wire: Open, open_client: Open
) -> None:
    site = pooled_site(**QUICK)
    ada, grace, bob = await later(people)("ada", "grace", "bob")
    atlas = await later(room)(ada, grace, bob)
    healthy: Client = open_client(site, bob)
    await until(lambda: healthy.welcomed)
    sender, silent = await enter(site, open_wire, ada), await enter(site, open_wire, grace)
    sent = await sender.post(atlas, "hello")

    assert await silent.close_code() == 4408, "at the third silence"
    assert [number for number, _ in attempts(silent)] == [1, 2, 3]
    again = await open_wire(site, grace)
    await again.hello()
    assert [m["seq"] for m in (await again.next("resumed"))["messages"]] == [1]
    await until(lambda: len(attempts(again)) == 5)
    assert [number for number, _ in attempts(again)] == [4, 5, 6, 7, 8], "and not closed a second time"

    first = next(at for f, at in zip(silent.frames, silent.heard_s, strict=True) if f["type"] == "message")
    times = [first, *(at for _, at in attempts(silent)), *(at for _, at in attempts(again))]
    waits = [b - a for a, b in itertools.pairwise(times)]
    for wait_s, bound_s in zip(waits, BOUNDS_S, strict=True):
        assert max(ACK_TIMEOUT_S, bound_s / 2) - 0.02 <= wait_s <= bound_s + LATE_S, waits

    row = await row_of(site, ada, atlas, 1, grace)
    assert (row["attempts"], row["reason"], row["state"]) == (8, "no_ack", "waiting")
    await asyncio.sleep(1.5 * CAP_S)  # there is nothing to wait for: nothing may come
    assert len(attempts(again)) == 5
    assert again.closed is None
    silent_again = await open_wire(site, grace)
    await silent_again.hello()
    await silent_again.next("resumed")
    await asyncio.sleep(1.5 * CAP_S)
    assert attempts(silent_again) == [], "a reconnect without acknowledgement starts no new attempts"
    assert (await row_of(site, ada, atlas, 1, grace))["attempts"] == 8
    assert healthy.connections == 1
    assert [m["id"] for m in healthy.logs[atlas].held] == [sent["id"]]

    await silent_again.ack(atlas, sent["epoch"], delivered=1)
    await sender.told(1, 2, 0, 2)
    await sender.post(atlas, "once more")
    await until(
        lambda: again.heard("message", seq=2, attempt=1) or silent_again.heard("message", seq=2, attempt=1)
    )


async def test_an_absent_member_costs_no_attempt_and_gets_all_on_return(
    pooled_site: Open, open_wire: Open, open_client: Open
) -> None:
    site = pooled_site(**QUICK)
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    await (await enter(site, open_wire, grace)).aclose()  # known to the store, and gone
    sender = await enter(site, open_wire, ada)
    for n in range(5):
        await sender.post(atlas, f"{n}")
    await asyncio.sleep(1.5 * CAP_S)
    row = await row_of(site, ada, atlas, 5, grace)
    assert (row["attempts"], row["state"], row["next_at"]) == (0, "waiting", None)
    returned: Client = open_client(site, grace)
    await until(lambda: atlas in returned.logs and len(returned.logs[atlas].held) == 5)
    await sender.told(5, 1, 0, 1)
    assert returned.connections == 1


async def test_a_late_ack_ends_the_attempts(pooled_site: Open, open_wire: Open) -> None:
    site = pooled_site(**QUICK)
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    sender, late = await enter(site, open_wire, ada), await enter(site, open_wire, grace)
    sent = await sender.post(atlas, "hello")
    pushed = await late.next("message", attempt=1)
    assert (pushed["seq"], pushed["body"]) == (1, "hello")
    await late.ack(atlas, sent["epoch"], delivered=1)
    await sender.told(1, 1, 0, 1)
    count = len(attempts(late))
    await asyncio.sleep(1.5 * CAP_S)
    assert len(attempts(late)) == count
    assert late.closed is None


async def test_an_ack_by_another_device_ends_the_silence_of_this_one(
    pooled_site: Open, open_wire: Open
) -> None:
    site = pooled_site(**{**QUICK, "ack_timeout_s": 0.5})
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    sender = await enter(site, open_wire, ada)
    phone, laptop = await enter(site, open_wire, grace), await enter(site, open_wire, grace)
    sent = await sender.post(atlas, "hello")
    await phone.next("message")
    await phone.ack(atlas, sent["epoch"], delivered=1)
    await asyncio.sleep(1.5)
    assert attempts(phone) == attempts(laptop) == []
    assert laptop.closed is None


async def test_ones_own_message_is_nothing_to_acknowledge(pooled_site: Open, open_wire: Open) -> None:
    site = pooled_site(**QUICK)
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    sender = await enter(site, open_wire, ada)
    for n in range(3):
        await sender.post(atlas, f"{n}")
    await asyncio.sleep(1.5 * CAP_S)
    assert attempts(sender) == []
    assert sender.closed is None
