"""A socket without a client library: it sends any bytes, in any number, and reads only when the test reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from websockets.frames import Frame, Opcode

from tests.support.sites import Person, Site

WITHIN_S = 20.0
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def handshake(site: Site, who: Person | None = None, *more: str) -> bytes:
    """Return the request of a handshake, with more header lines."""
    lines = [
        "GET /ws/chat/ HTTP/1.1",
        f"Host: 127.0.0.1:{site.port}",
        f"Origin: {site.origin}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        *([f"Cookie: {who.cookie}"] if who else []),
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def upgrade(site: Site, who: Person | None) -> Pair:
    """Return the two sides of a WebSocket after its handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(handshake(site, who))
    async with asyncio.timeout(WITHIN_S):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


def frame(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a frame as a client sends it."""
    return Frame(opcode, payload, fin).serialize(mask=True)


async def frames_until_the_end(reader: asyncio.StreamReader) -> Sequence[tuple[Opcode, bytes]]:
    """Return the frames that the server sends until it ends the connection, (opcode, payload) of each."""
    frames = []
    async with asyncio.timeout(WITHIN_S):
        try:
            while True:
                head = await reader.readexactly(2)
                size = head[1]
                if size == 126:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                elif size == 127:
                    size = int.from_bytes(await reader.readexactly(8), "big")
                frames.append((Opcode(head[0] & 15), await reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return frames


def close_code(payload: bytes) -> int:
    """Return the code in a close frame."""
    return int.from_bytes(payload[:2], "big")
