"""Open sockets while the store loses messages: their rooms are read again, with the period in doubt, and lost messages are accepted again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from messaging import losses
from tests.support.conversation import Talk

Meet = Callable[..., Any]


async def test_members_are_told_which_period_is_in_doubt(meet: Meet) -> None:
    room: Talk = await meet("ada", "grace")
    sent = await room.here("ada").post(room.id, "lost")
    await losses.mark()
    await room.store.client.flushall()
    await losses.check()
    for name in ("ada", "grace"):
        wire = room.here(name)
        position = await wire.next("position", room=room.id)
        assert position["epoch"] != room.epoch
        sync = {"type": "sync", "room": room.id, "epoch": position["epoch"], "since": 0}
        resumed = await room.ask(wire, "resumed", sync)
        assert resumed["doubt"][0] == 0
        assert resumed["doubt"][1] >= sent["sent_at"]
        assert resumed["messages"] == []
    again = await room.arrive("grace")  # who is up to date, and names no room
    assert again.heard("resumed")[-1]["doubt"] == resumed["doubt"]
