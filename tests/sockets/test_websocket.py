"""The short way between a socket and the chat: the same frames in the same order as through ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.frames import Frame, Opcode

from chatsite.http_protocol import HttpProtocol
from chatsite.websocket import framed
from tests.support.clients import new_id
from tests.support.sites import Site, later, person, room, until

Open = Callable[..., Any]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("letter", ["x", "消"])
def test_a_text_is_framed_as_in_the_standard(size: int, letter: str) -> None:
    text = letter * size
    for _ in range(2):
        assert framed(text) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


class Transport:
    """A socket before its handshake."""

    def __init__(self) -> None:
        self.reads, self.closing = True, False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


async def test_handshakes_begin_one_in_each_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turn, begun = 0, []

    def begin(protocol: HttpProtocol) -> None:
        begun.append((turn, protocol))
        if protocol is crowd[3]:
            raise RuntimeError("a handshake that fails")

    def crowding() -> HttpProtocol:
        protocol = HttpProtocol.__new__(HttpProtocol)
        protocol.transport, protocol.loop = Transport(), asyncio.get_running_loop()  # type: ignore[assignment]
        protocol._answering = None
        return protocol

    monkeypatch.setattr(HttpToolsProtocol, "handle_websocket_upgrade", begin)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    crowd = [crowding() for _ in range(6)]
    for protocol in crowd:
        protocol.handle_websocket_upgrade()
        assert not protocol.transport.reads  # type: ignore[attr-defined]
    crowd[1].transport.closing = True  # type: ignore[attr-defined]
    for _ in range(7):
        turn += 1
        await asyncio.sleep(0)
    assert begun == [(1, crowd[0]), (3, crowd[2]), (4, crowd[3]), (5, crowd[4]), (6, crowd[5])]
    assert not any(protocol.transport.reads for protocol in crowd), "before the answer"  # type: ignore[attr-defined]
    assert crowd[3].transport.closing, "nobody would ever notice it"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "odd", ["X-Long: " + "x" * 9_000, "Content-Length: 4\r\n\r\nbody"], ids=["long", "body"]
)
async def test_a_handshake_that_cannot_be_read_is_refused(site: Site, odd: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    request = (
        f"GET /ws/chat/ HTTP/1.1\r\nHost: localhost:{site.port}\r\nOrigin: {site.origin}\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n{odd}\r\n\r\n"
    )
    writer.write(request.encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_many_clients_at_once_are_let_in_although_some_hang_up(site: Site) -> None:
    ada = await later(person)("ada")
    request = (
        f"GET /ws/chat/ HTTP/1.1\r\nHost: localhost:{site.port}\r\nOrigin: {site.origin}\r\nCookie: {ada.cookie}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )

    async def come(number: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(request.encode())
        if number % 4 == 0:
            writer.transport.abort()
            return b""
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answer[:12]

    answers = await asyncio.gather(*(come(number) for number in range(60)))
    assert answers.count(b"HTTP/1.1 101") == 45


async def test_frames_that_wait_and_frames_that_do_not_keep_their_order(site: Site, open_wire: Open) -> None:
    """Frames are answered in their order, although reads run in tasks and messages are taken where they arrive."""
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
    asked = [
        frame["n"] for frame in wire.heard("pong") if frame["n"] < len(ids)
    ]  # a fence has its own number
    assert asked == list(range(0, 40, 7))
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
    await until(lambda: wire.heard("message") and wire.heard("sent"))
    assert [frame["body"] for frame in wire.heard("message")] == ["消息" * 500]
    assert [frame["id"] for frame in wire.heard("sent")] == [message_id]
