"""The short way between a socket and the chat: the same frames in the same order, whichever way each of them goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from chatsite.websocket import framed
from tests.clients import new_id
from tests.servers import Site, later, person, room

Open = Callable[..., Any]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("letter", ["x", "消"])
def test_a_text_is_framed_as_the_standard_says(size: int, letter: str) -> None:
    text = letter * size
    for _ in range(2):
        assert framed(text) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


async def test_frames_that_wait_and_frames_that_do_not_keep_their_order(site: Site, open_wire: Open) -> None:
    """What is asked is answered in its order, though reads go by a task and messages are taken where they arrive."""
    ada = await later(person)("ada")
    atlas = await later(room)(ada)
    wire = await open_wire(site, ada)
    hello = {"type": "hello", "v": 1, "rooms": []}
    ids = [new_id() for _ in range(40)]
    await wire.send(hello)
    for number, message_id in enumerate(ids):  # none of them waits for the welcome
        await wire.send({"type": "send", "id": message_id, "room": atlas, "body": f"{number}"})
        if number % 7 == 0:
            await wire.send(
                {"type": "history", "room": atlas, "before": 2**40}, {"type": "ping", "n": number}
            )
    for message_id in ids:
        await wire.next("sent", id=message_id)
    async with asyncio.timeout(5):
        while len(wire.heard("message")) < len(ids):
            await wire.fence()
    seqs = [frame["seq"] for frame in wire.heard("sent")]
    assert seqs == sorted(seqs)
    assert [frame["n"] for frame in wire.heard("pong")] == list(range(0, 40, 7))
    assert [frame["body"] for frame in wire.heard("message")] == [str(number) for number in range(40)]


async def test_a_text_in_fragments_is_one_text(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    atlas = await later(room)(ada)
    wire = await open_wire(site, ada)
    await wire.hello()
    message_id = new_id()
    text = json.dumps(
        {"type": "send", "id": message_id, "room": atlas, "body": "消息" * 500}, ensure_ascii=False
    )
    await wire.socket.send([text[:40], text[40:700], text[700:]])
    await wire.fence()
    await wire.next("sent", id=message_id)
    await wire.fence()
    assert [frame["body"] for frame in wire.heard("message")] == ["消息" * 500]
