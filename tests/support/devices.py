"""A server process in the test, and clients that keep docs/protocol.md, for machines that step through any order of events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from messaging.live.connection import Connection
from messaging.live.server import Server
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.presence import PRESENCE_CHANNEL

SLACK_MS = 2_000  # the machine's own time between a read and a push
# Errors that a client may get when another one was quicker.
LOST_RACES = {"not_member", "no_such_message", "forbidden", "too_late", "nobody_missed_it"}


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock can be moved forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Process:
    """A server process, and a gate on the publications that it receives."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.server = Server(store, policy)
        self.deaf = False
        self.probed = asyncio.Event()
        listening = self.server.hub._subscription
        self._hear = listening._on_message
        listening._on_message = self._gate
        listening.register(PRESENCE_CHANNEL)
        self.task = asyncio.ensure_future(listening.run())

    def _gate(self, channel: str, payload: bytes) -> None:
        if payload == b"probe":
            self.probed.set()
        elif not self.deaf or channel == PRESENCE_CHANNEL:
            self._hear(channel, payload)

    async def hear_news(self, event: dict[str, Any]) -> None:
        """Take a control event."""
        if not self.deaf:
            await self.server.control_events.handle(event)

    @property
    def busy(self) -> bool:
        server = self.server
        return bool(
            server.sender.busy
            or server.acknowledger.busy
            or server.background.tasks
            or any(connection.tasks or connection.writer.busy for connection in server.registry.connections)
        )

    async def end(self) -> None:
        for connection in list(self.server.registry.connections):
            self.server.leave(connection)
            await connection.finish()
        for task in [self.task, *self.server.presence._leaving.values(), *self.server.background.tasks]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Device:
    """A client that keeps the contract, except while it is `silent`.

    `held` is all that ever reached it in time, in order; `late` what reached it only after its end; `view` is what it would show: {seq: (body, expires_at)}; `notices`
    {notice: whether it is dismissed}. `outbox` is {id: (body, ttl in s or None, given up at, epoch ms)}.
    """

    def __init__(self, user: int, room: str, policy: Policy, now_ms: Callable[[], int]) -> None:
        self.user = user
        self.room = room
        self.policy = policy
        self.now_ms = now_ms
        self.epoch = ""
        self.last = 0
        self.rev = 0
        self.held: list[int] = []
        self.late: list[int] = []
        self.view: dict[int, tuple[str, int]] = {}
        self.notices: dict[str, bool] = {}
        self.outbox: dict[str, tuple[str, int | None, int]] = {}
        self.answers: dict[str, int] = {}
        self.silent = False
        self.process: Process | None = None
        self.connection: Connection | None = None
        self.inbox: list[dict[str, Any]] = []
        self.behind = False  # a sync is wanted
        self.asking = (
            False  # an answer that is complete is under way: one at a time, or the older view of two may win
        )

    async def receive(self, event: dict[str, Any]) -> None:
        if event["type"] != "websocket.send":
            return
        taken = json.loads(event["text"])
        frames = taken if isinstance(taken, list) else [taken]
        for frame in frames:
            texts = (
                [frame]
                if frame["type"] == "message"
                else frame.get("messages", []) + frame.get("changed", [])
            )
            for message in texts:
                assert message["expires_at"] > self.now_ms() - SLACK_MS, "an expired text was sent"
        self.inbox += frames

    def hello(self) -> dict[str, Any]:
        # To name what is held would acknowledge it. A client that names nothing is told of no changes, so it shows nothing older.
        named = self.epoch and not self.silent
        if not named:
            self.view.clear()
        self.asking = True
        rooms = [self._place()] if named else []
        return {"type": "hello", "v": 1, "rooms": rooms}

    def _place(self) -> dict[str, Any]:
        return {
            "room": self.room,
            "epoch": self.epoch,
            "since": self.last,
            "rev": self.rev,
            "late": self.late[-500:],
        }

    def ack(self) -> dict[str, Any]:
        row = {"room": self.room, "epoch": self.epoch, "delivered": self.last, "late": self.late[-500:]}
        return {"type": "ack", "rooms": [row]}

    def sends(self) -> list[dict[str, Any]]:
        """Return a `send` for each that waits; one older than its own life is not repeated."""
        now_ms = self.now_ms()
        self.outbox = {id_: given for id_, given in self.outbox.items() if given[2] > now_ms}
        return [self.send_of(id_) for id_ in self.outbox]

    def send_of(self, id_: str) -> dict[str, Any]:
        body, ttl_s, _ = self.outbox[id_]
        frame = {"type": "send", "id": id_, "room": self.room, "body": body}
        return frame if ttl_s is None else frame | {"ttl": ttl_s}

    def gone(self) -> None:
        self.process = self.connection = None
        self.inbox.clear()
        self.behind = self.asking = False

    def take(self, frame: dict[str, Any]) -> None:
        handler: Callable[[dict[str, Any]], None] | None = getattr(self, f"_on_{frame['type']}", None)
        if handler is not None:
            handler(frame)

    def _sync(self) -> None:
        self.behind = True

    def syncs(self) -> list[dict[str, Any]]:
        """Return the `sync` that is due, if one is."""
        if not self.behind or self.asking:
            return []
        self.behind, self.asking = False, True
        return [{"type": "sync"} | self._place()]

    def _drop_room(self) -> None:
        self.epoch, self.last, self.rev = "", 0, 0
        self.view.clear()

    def _on_room(self, frame: dict[str, Any]) -> None:
        if frame.get("removed"):
            self._drop_room()

    def _on_resumed(self, frame: dict[str, Any]) -> None:
        if "changed" in frame:
            self.asking = False
        if not frame["ok"]:
            assert frame["why"] == "not_member", frame
            self._drop_room()
            return
        if not self.epoch:
            self.epoch, self.last = frame["epoch"], frame["from"]
        if frame["from"] > self.last:
            self._sync()
            return
        for message in frame["messages"]:
            self._hold(message)
        for message in frame.get("changed", []):
            if message["seq"] in self.view:
                self.view[message["seq"]] = message["body"], message["expires_at"]
        for seq, _ in frame["gone"]:
            self.view.pop(seq, None)
        if "changed" in frame:
            self.rev = max(self.rev, frame["rev"])
        self.last = max(self.last, frame["upto"])
        if frame["more"]:
            self._sync()

    def _on_message(self, frame: dict[str, Any]) -> None:
        assert 1 <= frame.get("attempt", 1) <= self.policy.attempts_max
        if frame["epoch"] != self.epoch:
            self._begin_again(frame)
        elif frame["seq"] <= self.last or frame.get("after", frame["seq"] - 1) <= self.last:
            self._hold(frame)
        else:
            self._sync()

    def _begin_again(self, frame: dict[str, Any]) -> None:
        """Sync from 0 in a room whose cache was dropped."""
        self._drop_room()
        self.epoch = frame["epoch"]
        self._sync()

    def _hold(self, message: dict[str, Any]) -> None:
        if message["seq"] <= self.last:
            return
        if message["expires_at"] > self.now_ms():
            self.held.append(message["seq"])
            self.view[message["seq"]] = message["body"], message["expires_at"]
        else:
            self.late.append(message["seq"])
        self.last = message["seq"]
        self._accepted(message)

    def _on_edited(self, frame: dict[str, Any]) -> None:
        shown = self.view.get(frame["seq"])
        if self._next_rev(frame) and shown is not None:
            self.view[frame["seq"]] = frame.get("body", shown[0]), frame.get("expires_at", shown[1])

    def _on_deleted(self, frame: dict[str, Any]) -> None:
        if self._next_rev(frame):
            self.view.pop(frame["seq"], None)

    def _next_rev(self, frame: dict[str, Any]) -> bool:
        if not self.epoch or frame["rev"] <= self.rev:
            return False
        if frame["rev"] > self.rev + 1:
            self._sync()
            return False
        self.rev = frame["rev"]
        return True

    def _on_expired(self, frame: dict[str, Any]) -> None:
        for seq in frame["seqs"]:
            self.view.pop(seq, None)

    def _on_notice(self, frame: dict[str, Any]) -> None:
        self.notices[frame["notice"]] = frame["dismissed"]

    def _on_sent(self, frame: dict[str, Any]) -> None:
        self._accepted(frame)

    def _accepted(self, frame: dict[str, Any]) -> None:
        self.outbox.pop(frame["id"], None)
        assert self.answers.setdefault(frame["id"], frame["seq"]) == frame["seq"], "accepted twice"

    def _on_position(self, frame: dict[str, Any]) -> None:
        if frame["epoch"] != self.epoch:
            self._begin_again(frame)
        elif frame["top"] > self.last or frame["rev"] > self.rev:
            self._sync()

    def _on_error(self, frame: dict[str, Any]) -> None:
        assert frame["code"] in LOST_RACES, frame
        self.outbox.pop(frame.get("id", ""), None)
