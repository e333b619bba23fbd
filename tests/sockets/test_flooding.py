"""Clients that send as much as they can: each is closed, its work is done in small parts, and the others get their answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, Opcode

from chatsite.websocket import MAX_BATCH, MAX_FRAGMENTS, DirectProtocol
from messaging.policy import Policy
from tests.support.clients import Wire, new_id
from tests.support.raw import close_code, frame, frames_until_the_end, handshake, upgrade
from tests.support.sites import Site, later, people, person, room, until

Open = Callable[..., Any]

pytestmark = pytest.mark.xdist_group("flooding")  # they share sites

PER_S, BURST = 50, 200
MOST = 2 * BURST  # with what is added while the test runs
FLOOD = 20 * BURST
EMPTY_ACK = json.dumps({"type": "ack", "rooms": []}).encode()
FLOODS = {
    "pings": frame(PING, b"x" * 125) * FLOOD,
    "pongs": frame(PONG) * FLOOD,
    "empty fragments": frame(TEXT, fin=False) + frame(CONT, fin=False) * FLOOD,
    "short fragments": frame(TEXT, fin=False) + frame(CONT, b" ", fin=False) * FLOOD,
    "texts": frame(TEXT, EMPTY_ACK) * FLOOD,
    "long texts": frame(TEXT, EMPTY_ACK + b" " * 60_000) * (BURST // 5),  # each counts as eight
}


class Bystander:
    """Somebody who asks all the time. `answers` is the number of their answers."""

    answers = 0

    async def ask(self, wire: Wire) -> None:
        while True:
            await wire.fence()
            self.answers += 1
            await asyncio.sleep(0.11)  # `ping_rate`

    async def next_answers(self, number: int) -> None:
        wanted = self.answers + number
        await until(lambda: self.answers >= wanted)


@asynccontextmanager
async def bystander(site: Site, open_wire: Open) -> AsyncIterator[Bystander]:
    """Connect somebody whose questions must be answered until the end."""
    wire = await open_wire(site, await later(person)("grace"))
    await wire.hello()
    grace = Bystander()
    asking = asyncio.create_task(grace.ask(wire))
    try:
        yield grace
        await grace.next_answers(2)
    finally:
        asking.cancel()


@pytest.mark.parametrize("flood", list(FLOODS))
async def test_a_client_that_sends_too_many_frames_is_closed_with_4429(
    pooled_site: Open, open_wire: Open, flood: str
) -> None:
    site = pooled_site(frame_rate=[PER_S, BURST])
    ada = await later(person)("ada")
    async with bystander(site, open_wire):
        reader, writer = await upgrade(site, ada)
        writer.write(frame(TEXT, b'{"type":"hello","v":1,"rooms":[]}') + FLOODS[flood])
        frames = await frames_until_the_end(reader)
    assert (frames[-1][0], close_code(frames[-1][1])) == (CLOSE, 4429)
    assert len([opcode for opcode, _ in frames if opcode is PONG]) <= MOST
    writer.close()


@pytest.mark.parametrize("flood", list(FLOODS))
async def test_a_client_without_a_login_is_cut_off_and_gets_no_pongs(
    pooled_site: Open, open_wire: Open, flood: str
) -> None:
    site = pooled_site(frame_rate=[PER_S, BURST])
    async with bystander(site, open_wire):
        reader, writer = await upgrade(site, None)
        assert (await reader.readexactly(4))[2:] == (4501).to_bytes(2, "big")
        writer.write(FLOODS[flood])
        assert await frames_until_the_end(reader) == []
    writer.close()


async def test_a_client_that_keeps_the_contract_is_never_closed_for_its_frames(
    site: Site, open_wire: Open
) -> None:
    """A client returns with a large outbox, and checks many rooms at the same time."""
    ada = await later(person)("ada")
    atlas = await later(room)(ada)
    wire = await open_wire(site, ada)
    await wire.hello()
    epoch = (await wire.next("resumed"))["epoch"]
    ids = [new_id() for _ in range(300)]
    for message_id in ids:
        await wire.send({"type": "send", "id": message_id, "room": atlas, "body": "消息" * 100})
    for _ in range(500):
        await wire.send({"type": "sync", "room": atlas, "epoch": epoch, "since": 2**40})
        await wire.ack(atlas, epoch, delivered=1)
    await wire.send(*[{"type": "sync", "room": atlas, "epoch": epoch, "since": 2**40}] * 100)
    await wire.socket.ping()
    await until(lambda: len(wire.heard("sent")) == 300 and len(wire.heard("resumed")) == 601, within_s=30)
    assert not wire.heard("error")
    assert {sent["id"] for sent in wire.heard("sent")} == set(ids)


def test_the_rate_of_frames_has_room_for_all_other_rates_with_the_longest_texts() -> None:
    policy = Policy()
    longest = 1 + 12 * policy.body_max / 8_192  # each character as two escapes
    ack_per_s = 4 * (1 + policy.frame_max / 8_192)
    hints = policy.rooms_in_hello_max / policy.typing_interval_s
    per_s = (
        longest * (policy.send_rate.per_s + policy.change_rate.per_s)
        + policy.history_rate.per_s
        + policy.ping_rate.per_s
        + ack_per_s
        + hints
    )
    burst = (
        longest * (policy.send_rate.burst + policy.change_rate.burst)
        + policy.history_rate.burst
        + policy.ping_rate.burst
        + 2 * policy.rooms_in_hello_max  # a `sync` and a hint for each
        + ack_per_s
    )
    assert per_s < policy.frame_rate.per_s
    assert burst < policy.frame_rate.burst


async def test_a_client_that_does_not_read_is_not_read(pooled_site: Open, open_wire: Open) -> None:
    """The pongs for a client that does not read them would fill the memory."""
    site = pooled_site(frame_rate=[1e6, 10**8])
    async with bystander(site, open_wire) as grace:
        reader, writer = await upgrade(site, await later(person)("ada"))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        pings = frame(PING, b"x" * 125) * 2_000
        sent = 0
        while not writer.transport.get_write_buffer_size():
            writer.write(pings)
            sent += 2_000
            assert sent < 150_000, "20 MB of pongs wait for somebody who reads nothing"
            await grace.next_answers(1)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        writer.write(frame(CLOSE, (1000).to_bytes(2, "big")))
        frames = await frames_until_the_end(reader)
    assert [opcode for opcode, _ in frames] == [PONG] * sent + [CLOSE]
    writer.close()


async def test_a_full_client_is_heard_once_and_again_when_it_reads(
    pooled_site: Open, open_wire: Open
) -> None:
    site = pooled_site(unsent_bytes_max=8_000_000, unsent_bytes_to_close=9_000_000, rate_limit_scale=100.0)
    members = await later(people)("ada", "grace", "alan")
    atlas = await later(room)(*members)
    ada, grace, alan = [await open_wire(site, member) for member in members]
    for wire in (ada, grace):
        await wire.hello()
        await wire.next("resumed")
    grace.stop_reading()
    for _ in range(100):  # 4 MB: more than the kernel's buffers hold, so that some stay in the server
        await ada.send(
            *({"type": "send", "id": new_id(), "room": atlas, "body": "x" * 4_000} for _ in range(10))
        )
    await until(lambda: len(ada.heard("sent")) == 1_000, within_s=60)
    epoch = ada.heard("sent")[0]["epoch"]
    await alan.hello({"room": atlas, "epoch": epoch, "since": 1_000})
    await alan.next("resumed")
    await grace.send({"type": "send", "id": new_id(), "room": atlas, "body": "one"})
    await alan.next("message", body="one")
    await grace.send({"type": "send", "id": new_id(), "room": atlas, "body": "two"})
    await ada.fence()
    await alan.fence()
    assert not alan.heard("message", body="two")
    grace.read_on()
    await alan.next("message", body="two")


async def test_bytes_before_the_answer_to_the_handshake_are_refused_or_read_after_it(site: Site) -> None:
    ada = await later(person)("ada")
    for together in (True, False):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        invalid = b"\x00" * 10
        writer.write(handshake(site, ada) + (invalid if together else b""))
        await writer.drain()
        if not together:
            writer.write(invalid)
        async with asyncio.timeout(5):
            status = (await reader.readuntil(b"\r\n\r\n"))[9:12]
        if status == b"101":
            assert not together
            [(opcode, payload)] = await frames_until_the_end(reader)
            assert (opcode, close_code(payload)) == (CLOSE, 1002)
        else:
            assert status == b"400"
        writer.close()


# One turn of the loop, without a kernel between


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.reads = True
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def close(self) -> None:
        self.closing = True

    abort = close


class Application:
    """Accepts the socket, and receives its events while `receives` is set."""

    def __init__(self) -> None:
        self.receives = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        event: dict[str, Any] = {"type": ""}
        while event["type"] != "websocket.disconnect":
            await self.receives.wait()
            event = await receive()


async def open_protocol(application: Application) -> tuple[DirectProtocol, Transport, list[str]]:
    """Return an open socket, its transport and the texts that it hands over at once."""
    config = Config(application, ws_per_message_deflate=False, ws_max_size=65_536, log_config=None)
    config.load()
    protocol, transport = DirectProtocol(config, ServerState(), {}), Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]
    request = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    protocol.data_received(request)
    await until(lambda: protocol.handshake_complete)
    transport.written = b""
    texts: list[str] = []

    def on_text(text: str) -> bool:
        texts.append(text)
        return True

    protocol.on_text = on_text
    return protocol, transport, texts


async def open_receiving() -> tuple[DirectProtocol, Transport, list[str]]:
    application = Application()
    application.receives.set()
    opened = await open_protocol(application)
    await until(lambda: opened[0]._app_waits)
    return opened


@pytest.mark.parametrize("opcode", [PING, TEXT, CONT])
async def test_a_few_frames_are_handled_when_they_arrive_and_the_others_in_later_turns(
    opcode: Opcode,
) -> None:
    protocol, transport, texts = await open_receiving()
    handled = [0]
    handle_events = protocol.handle_events

    def count() -> None:
        handled.append(len(protocol.conn.events))
        handle_events()

    protocol.handle_events = count  # type: ignore[method-assign]
    number = 20 * MAX_BATCH + 7
    if opcode is CONT:
        protocol.data_received(frame(TEXT, fin=False))
    data = b"".join(frame(opcode, b"%d" % n, fin=opcode is not CONT) for n in range(number))
    protocol.data_received(data + frame(opcode, b"cut off")[:-1])
    assert max(handled) == MAX_BATCH
    assert sum(handled) <= MAX_BATCH + 1
    assert not transport.reads
    await until(lambda: transport.reads)
    assert max(handled) == MAX_BATCH
    protocol.data_received(frame(opcode, b"cut off")[-1:] if opcode is not TEXT else b"")
    if opcode is TEXT:
        assert texts == [str(n) for n in range(number)]
    protocol.connection_lost(None)


async def test_sockets_take_turns() -> None:
    protocols = [await open_receiving() for _ in range(3)]
    for protocol, _, _ in protocols:
        protocol.data_received(frame(TEXT, b"{}") * 40 * MAX_BATCH)
    await until(lambda: any(len(texts) > 10 * MAX_BATCH for _, _, texts in protocols))
    numbers = [len(texts) for _, _, texts in protocols]
    assert max(numbers) - min(numbers) <= MAX_BATCH
    for protocol, _, _ in protocols:
        protocol.connection_lost(None)


async def test_frames_that_the_application_has_not_received_stop_the_parser() -> None:
    application = Application()
    protocol, transport, _ = await open_protocol(application)
    protocol.data_received(frame(BINARY, b"x") * 10 * MAX_BATCH)
    for _ in range(30):
        await asyncio.sleep(0)
    assert protocol.queue.qsize() == MAX_BATCH
    application.receives.set()
    await until(lambda: transport.reads)
    protocol.connection_lost(None)


async def test_data_after_a_close_is_dropped_and_the_answer_to_it_is_found() -> None:
    application = Application()
    protocol, transport, _ = await open_protocol(application)
    protocol.data_received(frame(BINARY, b"x") * 10 * MAX_BATCH)
    await protocol.send({"type": "websocket.close", "code": 4501})
    transport.written = b""
    for _ in range(5):
        await until(lambda: transport.reads)
        protocol.data_received(frame(PING, b"x") * 10 * MAX_BATCH)
        assert not transport.reads
    await until(lambda: transport.reads)
    assert transport.written == b""
    assert not transport.closing
    protocol.data_received(frame(CLOSE, (4501).to_bytes(2, "big")))
    assert transport.closing
    application.receives.set()
    protocol.connection_lost(None)


async def test_an_unfinished_text_has_few_fragments_in_memory() -> None:
    protocol, _, texts = await open_receiving()
    protocol.data_received(frame(TEXT, b"<", fin=False))
    for _ in range(100):
        protocol.data_received(frame(CONT, b"x", fin=False) * 10 + frame(CONT, fin=False) * 10)
        assert len(protocol.frames) <= MAX_FRAGMENTS
    protocol.data_received(frame(CONT, b">"))
    assert texts == ["<" + "x" * 1_000 + ">"]
    protocol.connection_lost(None)
