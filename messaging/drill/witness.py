"""Read the state of the site over a connection without faults: the cursors of every person and the log of every room."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Origin

from .instance import Instance, Person
from .ledger import digest, now_ms
from .line import Frame, frames_of, text_of
from .plan import DrillError

ANSWER_TIMEOUT_S = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """The acknowledged seq of a person in a room, and the newest seq of the room."""

    epoch: str
    delivered: int
    top: int


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A message in the log of a room or of a client.

    `sender` according to the site, 0 if not read from it; `after_ms`: the time from expiry until the site returned it.
    """

    seq: int
    id: str
    digest: str
    sender: int = 0
    after_ms: int = 0


async def cursors(instance: Instance, person: Person) -> dict[str, Cursor]:
    """Return {room: cursor} from the `welcome` of a new connection."""
    async with _greeted(instance, person) as (_, welcome):
        return {
            room["room"]: Cursor(room["epoch"], room["delivered"], room["top"]) for room in welcome["rooms"]
        }


async def room_log(instance: Instance, person: Person, room: str, epoch: str) -> list[Entry]:
    """Return the log of a room from its beginning."""
    entries: list[Entry] = []
    since, more = 0, True
    async with _greeted(instance, person) as (answers, _):
        while more:
            await answers.send({"type": "sync", "room": room, "epoch": epoch, "since": since})
            answer = await answers.next(type="resumed", room=room, from_=since)
            entries += [
                Entry(
                    message["seq"],
                    message["id"],
                    digest(message["body"]),
                    message["from"]["id"],
                    max(0, now_ms() - message["expires_at"]),
                )
                for message in answer["messages"]
            ]
            since, more = answer["upto"], answer["more"]
    return entries


class _Answers:
    """A socket that is read one frame at a time."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._waiting: list[Frame] = []

    async def send(self, frame: Frame) -> None:
        await self._socket.send(text_of([frame]))

    async def next(self, **fields: Any) -> Frame:
        """Return the next frame with these fields; `from_` for `from`."""
        wanted = {name.rstrip("_"): value for name, value in fields.items()}
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                while self._waiting:
                    frame = self._waiting.pop(0)
                    if wanted.items() <= frame.items():
                        return frame
                self._waiting += frames_of(await self._socket.recv())


@contextlib.asynccontextmanager
async def _greeted(instance: Instance, person: Person) -> AsyncIterator[tuple[_Answers, Frame]]:
    """Connect and send a `hello` without rooms, which acknowledges nothing."""
    try:
        async with connect(
            instance.url,
            additional_headers={"Cookie": person.cookie},
            origin=Origin(instance.origin),
            compression=None,
            max_size=None,
            open_timeout=ANSWER_TIMEOUT_S,
            close_timeout=1,
        ) as socket:
            answers = _Answers(socket)
            await answers.send({"type": "hello", "v": 1, "rooms": []})
            yield answers, await answers.next(type="welcome")
    except (OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, TimeoutError) as fault:
        raise DrillError(f"The site does not answer at the end: {type(fault).__name__}.") from fault
