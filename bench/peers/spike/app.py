"""The hot path of this project's design alone: one script accepts a batch, one subscription for each room, one write for all waiting frames.

There are no sessions, memberships, limits, acknowledgements, receipts and retries; the difference from the product is their
cost. STORE_URL is the address of the store. The path is /ws/chat/ROOM/USER.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

PREFIX = "chat:{0}:"
CHANNEL = f"{PREFIX}room:"
BATCH = 100
LIFETIME_MS = 3_600_000
SCRIPT = (Path(__file__).parent / "append.lua").read_text()

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Frame(msgspec.Struct):
    type: str
    id: str
    body: str


read = msgspec.json.Decoder(Frame).decode


class Member:
    """A socket: messages that arrive during a write are sent together as one array."""

    def __init__(self, send: Send, room: str, user: str) -> None:
        self.room, self.user = room, user
        self._send = send
        self._waiting: list[str] = []
        self._writing: asyncio.Task[None] | None = None

    def feed(self, text: str) -> None:
        self._waiting.append(text)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            text, self._waiting = f"[{','.join(self._waiting)}]", []
            await self._send({"type": "websocket.send", "text": text})
        self._writing = None


class Hub:
    """The rooms of this process: receives each message once."""

    async def start(self) -> None:
        self.rooms: defaultdict[str, set[Member]] = defaultdict(set)
        self.store = Redis.from_url(os.environ["STORE_URL"], protocol=2)
        self.script = await self.store.script_load(SCRIPT)
        self._subscription = self.store.pubsub()
        await self._subscription.subscribe("started")
        self._listening = asyncio.create_task(self._listen())
        self._queue: list[tuple[Member, Frame]] = []
        self._committing: asyncio.Task[None] | None = None

    async def join(self, member: Member) -> None:
        members = self.rooms[member.room]
        members.add(member)
        if len(members) == 1:
            await self._subscription.subscribe(CHANNEL + member.room)

    def accept(self, member: Member, frame: Frame) -> None:
        self._queue.append((member, frame))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())

    async def _commit(self) -> None:
        """Send the waiting frames to the store; frames that arrive during a call are sent with the next one."""
        while self._queue:
            batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
            arguments: list[Any] = []
            for member, frame in batch:
                arguments += (
                    member.room,
                    member.user,
                    f"user-{member.user}",
                    frame.id,
                    frame.body,
                    LIFETIME_MS,
                )
            answers = await self.store.evalsha(self.script, 1, PREFIX, *arguments)
            for (member, frame), answer in zip(batch, answers, strict=True):
                seq, sent_at, expires_at = answer.decode().split("|")
                member.feed(
                    f'{{"type":"sent","id":"{frame.id}","room":"{member.room}","epoch":"e1","seq":{seq},'
                    f'"sent_at":{sent_at},"expires_at":{expires_at},"duplicate":false}}'
                )
        self._committing = None

    async def _listen(self) -> None:
        while True:
            kind, channel, data = await self._subscription.parse_response(block=True)
            if kind == b"message":
                text = data.decode()
                for member in self.rooms[channel.decode().removeprefix(CHANNEL)]:
                    member.feed(text)


hub = Hub()


async def application(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await hub.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await _talk(scope["path"], receive, send)


async def _talk(path: str, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    room, user = path.removeprefix("/ws/chat/").split("/")
    await receive()
    await send({"type": "websocket.accept"})
    member = Member(send, room, user)
    try:
        await hub.join(member)
        member.feed('{"type":"joined"}')
        while (event := await receive())["type"] != "websocket.disconnect":
            hub.accept(member, read(event["text"]))
    finally:
        hub.rooms[room].discard(member)
