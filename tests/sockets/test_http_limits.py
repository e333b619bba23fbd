"""HTTP clients that send too much, too slowly, or without waiting for answers. A real uvicorn and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
import uvicorn

from chatsite import http_protocol
from chatsite.http_protocol import MAX_HEADER_BYTES, MAX_HEADERS, MAX_PIPELINED, Part
from chatsite.run import server
from messaging.web.endpoint import MAX_BODY_BYTES
from tests.support.raw import handshake
from tests.support.sites import Site, later, person, until

Open = Callable[..., Any]

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
WITHIN_S = 15.0


class Served:
    """A server with an application that answers with the size of the body."""

    def __init__(self) -> None:
        self.requests = 0
        self.gate = threading.Event()
        self.gate.set()
        self.listener = server.bind("127.0.0.1", 0)
        self.port: int = self.listener.getsockname()[1]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        self.requests += 1
        await asyncio.to_thread(self.gate.wait)
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body, more = body + event["body"], event["more_body"]
        text = b"%d" % len(body)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(text))],
            }
        )
        await send({"type": "http.response.body", "body": text})

    async def connect(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        return reader, writer

    async def ask(self, data: bytes) -> bytes:
        """Send bytes; return everything that is answered until the server closes."""
        reader, writer = await self.connect(data)
        async with asyncio.timeout(WITHIN_S):
            answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    application = Served()
    flags = {**server.FLAGS, "lifespan": "off", "log_config": None}
    process = uvicorn.Server(uvicorn.Config(application, **flags))
    thread = threading.Thread(target=process.run, kwargs={"sockets": [application.listener]})
    thread.start()
    await until(lambda: process.started)
    yield application
    application.gate.set()
    process.should_exit = True
    await asyncio.to_thread(thread.join)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d{3}) ", answer)]


def post(size: int, *, path: str = "/nowhere/", body: bytes | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + (b"x" * size if body is None else body)


def chunked(chunk: bytes, number: int, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n" % (len(chunk), chunk) * number + end


# Pipelined requests


async def test_a_few_pipelined_requests_are_answered_in_order(served: Served) -> None:
    requests = [post(size) for size in range(MAX_PIPELINED)]
    answer = await served.ask(b"".join(requests) + post(9).replace(b"Host", b"Connection: close\r\nHost"))
    sizes = [int(size) for size in re.findall(rb"\r\n\r\n(\d+)", answer)]
    assert sizes == [*range(MAX_PIPELINED), 9]


async def test_a_client_with_too_many_unanswered_requests_is_disconnected(served: Served) -> None:
    served.gate.clear()
    reader, _ = await served.connect(GET * 10_000)
    async with asyncio.timeout(WITHIN_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    served.gate.set()
    await served.ask(b"nonsense\r\n\r\n")
    assert served.requests == 1


async def test_pipelined_requests_of_clients_that_do_not_read_take_no_memory(
    site: Site, open_wire: Open
) -> None:
    wire = await open_wire(site, await later(person)("grace"))
    await wire.hello()
    assert site.process is not None
    process = psutil.Process(site.process.pid)
    before = process.memory_info().rss
    clients = []
    for _ in range(30):
        client = socket.create_connection(("127.0.0.1", site.port))
        client.setblocking(False)
        clients.append(client)
        client.send(GET * 5_500)  # 250 KB, one read of the server
        await wire.fence()

    def closed(client: socket.socket) -> bool:
        try:
            while client.recv(65_536):
                pass
            return True
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    await until(lambda: all(map(closed, clients)))
    assert process.memory_info().rss - before < 40_000_000, "7 MB were sent"
    for client in clients:
        client.close()
    await wire.fence()


# Bodies


async def test_a_body_of_64_kib_reaches_the_application(served: Served) -> None:
    closing = post(MAX_BODY_BYTES).replace(b"Host", b"Connection: close\r\nHost", 1)
    assert (await served.ask(closing)).endswith(b"\r\n\r\n65536")
    chunks = chunked(b"x" * 1_024, 64).replace(b"Host", b"Connection: close\r\nHost", 1)
    assert (await served.ask(chunks)).endswith(b"\r\n\r\n65536")


@pytest.mark.parametrize("sent", [0, 1_000, MAX_BODY_BYTES + 1, 400_000])
async def test_a_longer_body_is_refused_by_its_announced_length(served: Served, sent: int) -> None:
    answer = await served.ask(post(max(sent, 200_000_000), body=b"x" * sent))
    assert statuses(answer) == [413]
    assert answer.endswith(b"The request is larger than 64 KiB.")
    assert served.requests == 0


async def test_the_json_addresses_get_the_refusal_as_json(served: Served) -> None:
    answer = await served.ask(post(70_000, path="/api/rooms/", body=b""))
    assert statuses(answer) == [413]
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error == {"code": "too_large", "detail": "The request is larger than 64 KiB."}


@pytest.mark.parametrize(
    "body",
    [
        chunked(b"x" * 1_024, 65),
        chunked(b"x" * 100_000, 1),
        chunked(b"x", 2_000),
        chunked(b"x", 1, b"1;" + b"e" * 300_000),
    ],
    ids=["chunks", "one chunk", "tiny chunks", "an extension without an end"],
)
async def test_a_longer_chunked_body_is_refused_while_it_arrives(served: Served, body: bytes) -> None:
    reader, writer = await served.connect()
    for start in range(0, len(body), 10_000):
        writer.write(body[start : start + 10_000])
        await writer.drain()
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.read()
    assert statuses(answer) == [413]
    writer.close()


async def test_a_body_that_is_refused_leaves_no_trace_in_the_log_of_the_site(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    data = chunked(b"x" * 1_024, 100).replace(b"POST /", b"POST /accounts/login/")
    writer.write(data.replace(b"localhost", f"127.0.0.1:{site.port}".encode()))
    async with asyncio.timeout(WITHIN_S):
        assert statuses(await reader.read()) == [413]
    writer.close()  # the fixture checks the log


# Headers


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
        b"GET /" + b"x" * 200_000,
        chunked(b"x", 1, b"0\r\n" + b"X: y\r\n" * (MAX_HEADERS + 1)),
    ],
    ids=["many", "long", "endless", "address", "trailers"],
)
async def test_too_many_or_too_long_headers_are_refused(served: Served, head: bytes) -> None:
    reader, writer = await served.connect()
    for start in range(0, len(head), 10_000):
        writer.write(head[start : start + 10_000])
        await writer.drain()
    async with asyncio.timeout(WITHIN_S):
        assert statuses(await reader.read()) == [431]
    writer.close()


async def test_an_invalid_request_is_refused(served: Served) -> None:
    assert statuses(await served.ask(b"nonsense\r\n\r\n")) == [400]


# Time


async def test_a_connection_without_a_request_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(http_protocol.TIME_LIMITS_S, Part.HEADERS, 0.2)
    assert await served.ask(b"") == b""
    assert await served.ask(b"\r\n") == b""


@pytest.mark.parametrize("part", [Part.HEADERS, Part.BODY])
async def test_a_request_that_does_not_end_is_refused_although_bytes_arrive(
    served: Served, monkeypatch: pytest.MonkeyPatch, part: Part
) -> None:
    monkeypatch.setitem(http_protocol.TIME_LIMITS_S, part, 0.5)
    head, rest = {
        Part.HEADERS: (b"GET / HTTP/1.1\r\nX: ", b"x"),
        Part.BODY: (post(5_000, body=b""), b"x"),
    }[part]
    first = b"" if part is Part.BODY else GET  # the limit applies to each request of a connection
    reader, writer = await served.connect(first)
    if first:
        await reader.readuntil(b"\r\n\r\n0")
    writer.write(head)
    answering = asyncio.create_task(reader.read())
    async with asyncio.timeout(WITHIN_S):
        while not answering.done():
            writer.write(rest)
            await asyncio.sleep(0.05)
    assert statuses(answering.result()) == [408]
    writer.close()


async def test_a_request_that_waits_for_the_application_has_no_time_limit(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in Part:
        monkeypatch.setitem(http_protocol.TIME_LIMITS_S, part, 0.1)
    served.gate.clear()
    waiting = [asyncio.create_task(served.ask(b"")) for _ in range(3)]
    reader, writer = await served.connect(post(10))
    await asyncio.gather(*waiting)  # the limit has passed for others
    assert served.requests == 1
    served.gate.set()
    async with asyncio.timeout(WITHIN_S):
        assert statuses(await reader.readuntil(b"\r\n\r\n")) == [200]
    writer.close()


# A request and a handshake in one packet


@pytest.mark.parametrize("before", [1, 3])
async def test_answers_to_earlier_requests_come_before_that_to_the_handshake(site: Site, before: int) -> None:
    ada = await later(person)("ada")
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    request = GET.replace(b"localhost", f"127.0.0.1:{site.port}".encode())
    writer.write(request * before + handshake(site, ada))
    answer = b""
    async with asyncio.timeout(WITHIN_S):
        while b"HTTP/1.1 101 " not in answer:
            received = await reader.read(65_536)
            assert received, answer
            answer += received
    assert statuses(answer) == [200] * before + [101]
    writer.close()


async def test_data_after_a_handshake_that_waits_is_refused(served: Served, site: Site) -> None:
    served.gate.clear()
    reader, writer = await served.connect(GET + handshake(site))
    await until(lambda: served.requests == 1)
    writer.write(b"too early")
    served.gate.set()
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.read()
    assert b"too early" not in answer
    writer.close()


# Open files


async def test_the_last_files_are_kept_for_the_database_and_the_log_has_the_reason(
    new_site: Open, open_wire: Open
) -> None:
    site: Site = new_site()
    ada = await later(person)("ada")
    wire = await open_wire(site, ada)
    await wire.hello()
    assert site.process is not None
    process = psutil.Process(site.process.pid)
    limit = process.num_fds() + http_protocol.RESERVED_FILES + 20
    process.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
    idle = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(100)]
    refused = await asyncio.to_thread(site.check)
    assert refused == 503
    await wire.fence()
    for client in idle:
        client.close()
    await until(lambda: site.check() == 401)
    assert site.log.count("new connections are refused") == 1
    assert "does not answer" not in site.log
    assert process.num_fds() < limit
    site.forgive()
