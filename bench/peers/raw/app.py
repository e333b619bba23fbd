"""Broadcast on bare ASGI in one process: the cost of one send to each socket, without storage and checks."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
rooms: defaultdict[str, set[Send]] = defaultdict(set)


async def application(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
) -> None:
    if scope["type"] != "websocket":
        return
    room = rooms[scope["path"]]
    await receive()
    await send({"type": "websocket.accept"})
    room.add(send)
    try:
        while (event := await receive())["type"] != "websocket.disconnect":
            message = {"type": "websocket.send", "text": event["text"]}
            for member in tuple(room):
                await member(message)
    finally:
        room.discard(send)
