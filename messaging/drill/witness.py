"""Ask the site, over a line without faults, what it has: each person's cursors and each room's whole log."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Origin

from .faults import Frame, frames_of, text_of
from .instance import Instance, Person
from .ledger import digest, now_ms
from .plan import DrillError

ANSWER_WITHIN_S = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """How far a person has acknowledged a room, and how far the room goes."""

    epoch: str
    delivered: int
    top: int


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A message in a room's log, or as somebody holds it.

    `sender` as the site says it, 0 where that is not asked; `after_ms`: how long after its life the site gave it out.
    """

    seq: int
    id: str
    digest: str
    sender: int = 0
    after_ms: int = 0


async def cursors(instance: Instance, person: Person) -> dict[str, Cursor]:
    """Return {room: cursor} as a new connection's `welcome` says it."""
    async with _greeted(instance, person) as (_, welcome):
        return {
            room["room"]: Cursor(room["epoch"], room["delivered"], room["top"]) for room in welcome["rooms"]
        }


async def room_log(instance: Instance, person: Person, room: str, epoch: str) -> list[Entry]:
    """Return a room's log from its beginning."""
    entries: list[Entry] = []
    since, more = 0, True
    async with _greeted(instance, person) as (answers, _):
        while more:
            await answers.say({"type": "sync", "room": room, "epoch": epoch, "since": since})
            answer = await answers.next(type="resumed", room=room, from_=since)
            entries += [
                Entry(
                    one["seq"],
                    one["id"],
                    digest(one["body"]),
                    one["from"]["id"],
                    max(0, now_ms() - one["expires_at"]),
                )
                for one in answer["messages"]
            ]
            since, more = answer["upto"], answer["more"]
    return entries


class _Answers:
    """A plain socket, read one frame at a time."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._waiting: list[Frame] = []

    async def say(self, frame: Frame) -> None:
        await self._socket.send(text_of([frame]))

    async def next(self, **fields: Any) -> Frame:
        """Return the next frame with these fields; `from_` for `from`."""
        wanted = {name.rstrip("_"): value for name, value in fields.items()}
        async with asyncio.timeout(ANSWER_WITHIN_S):
            while True:
                while self._waiting:
                    frame = self._waiting.pop(0)
                    if wanted.items() <= frame.items():
                        return frame
                self._waiting += frames_of(await self._socket.recv())


@contextlib.asynccontextmanager
async def _greeted(instance: Instance, person: Person) -> AsyncIterator[tuple[_Answers, Frame]]:
    """Connect and say hello for no room in particular: nothing is acknowledged by that."""
    try:
        async with connect(
            instance.url,
            additional_headers={"Cookie": person.cookie},
            origin=Origin(instance.origin),
            compression=None,
            max_size=None,
            open_timeout=ANSWER_WITHIN_S,
            close_timeout=1,
        ) as socket:
            answers = _Answers(socket)
            await answers.say({"type": "hello", "v": 1, "rooms": []})
            yield answers, await answers.next(type="welcome")
    except (OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, TimeoutError) as fault:
        raise DrillError(f"The site does not answer in the end: {type(fault).__name__}.") from fault
