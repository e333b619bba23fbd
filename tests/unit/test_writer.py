"""The queue of one socket: what is written as one text, its bounds, and how it ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from messaging import protocol
from messaging.live import writer as live_writer
from messaging.live.writer import Writer
from messaging.protocol import Close
from tests.support.sockets import Socket, until

CLOSE_BYTES = 1_000_000


def pong(n: int) -> str:
    return protocol.encode(protocol.Pong(n=n)).decode()


def open_writer(max_bytes: int = 262_144) -> tuple[Writer, Socket]:
    socket = Socket()
    return Writer(socket, max_bytes=max_bytes, close_bytes=CLOSE_BYTES), socket


class Direct:
    """A socket that is written to synchronously while it is open."""

    def __init__(self) -> None:
        self.on_text = None
        self.writable_now = True
        self.texts: list[str] = []
        self.room = 1_000  # texts until it is full
        self.buffered_bytes = 0
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def write(self, text: str) -> None:
        assert self.writable_now
        self.texts.append(text)
        self.room -= 1
        self.writable_now = self.room > 0


class TestTexts:
    async def test_a_single_frame_is_written_as_an_object(self) -> None:
        writer, socket = open_writer()
        writer.push(pong(1))
        await writer.drained()
        assert socket.sends == ['{"type":"pong","n":1}']

    async def test_frames_queued_during_a_send_are_written_as_one_array(self) -> None:
        writer, socket = open_writer()
        socket.reads.clear()
        writer.push(pong(0))
        await until(lambda: writer.sending_since_s is not None)
        for n in range(1, 4):
            writer.push(pong(n))
        socket.reads.set()
        await writer.drained()
        assert [json.loads(text) for text in socket.sends] == [
            {"type": "pong", "n": 0},
            [{"type": "pong", "n": n} for n in (1, 2, 3)],
        ]

    async def test_frames_joined_by_commas_are_written_as_an_array(self) -> None:
        writer, socket = open_writer()
        writer.push(f"{pong(1)},{pong(2)}", 2)
        await writer.drained()
        assert [frame["n"] for frame in socket.frames] == [1, 2]
        assert socket.sends[0].startswith("[")

    async def test_an_array_holds_at_most_the_bytes_of_the_contract(self) -> None:
        writer, socket = open_writer(max_bytes=2_000)
        frames = [
            json.dumps({"type": "x", "n": n, "text": "é😀" * 40}, ensure_ascii=False) for n in range(60)
        ]
        for frame in frames:
            writer.push(frame, 1)
        await writer.drained()
        assert [frame["n"] for frame in socket.frames] == list(range(60))
        assert len(socket.sends) > 5
        assert max(len(text.encode()) for text in socket.sends) <= 2_000

    async def test_a_frame_above_the_bound_is_written_alone(self) -> None:
        writer, socket = open_writer(max_bytes=50)
        frames = [pong(0), json.dumps({"type": "x", "text": "x" * 100}), pong(1)]
        for frame in frames:
            writer.push(frame)
        await writer.drained()
        assert socket.sends == frames

    async def test_two_sockets_with_the_same_frames_get_equal_arrays_and_others_their_own(self) -> None:
        writers = [open_writer() for _ in range(3)]
        for at, (writer, _) in enumerate(writers):
            for n in (1, 2):
                writer.push(pong(n if at < 2 else n + 5))
        for writer, _ in writers:
            await writer.drained()
        assert [[frame["n"] for frame in socket.frames] for _, socket in writers] == [[1, 2], [1, 2], [6, 7]]


class TestQueue:
    async def test_unsent_messages_and_the_bytes_of_all_frames_are_counted(self) -> None:
        writer, socket = open_writer()
        socket.reads.clear()
        texts = [
            pong(0),
            f"{pong(1)},{pong(2)}",
            '{"type":"x","text":"你好😀"}',
            '{"type":"x","text":"你好😀"}',
        ]
        for text, messages in zip(texts, (1, 2, 0, 0), strict=True):
            writer.push(text, messages)
        counts = writer.unsent, writer.unsent_bytes
        assert counts == (3, sum(len(text.encode()) for text in texts))
        await until(lambda: writer.sending_since_s is not None)
        assert (writer.unsent, writer.unsent_bytes) == counts, "what is being sent is unsent"
        assert writer.memory() > writer.unsent_bytes
        socket.reads.set()
        await writer.drained()
        assert (writer.unsent, writer.unsent_bytes, writer.memory()) == (0, 0, 0)

    async def test_memory_includes_the_buffer_of_the_socket(self) -> None:
        direct = Direct()
        direct.buffered_bytes = 300
        assert Writer(Socket(), max_bytes=60, close_bytes=CLOSE_BYTES, direct=direct).memory() == 300

    @pytest.mark.parametrize(
        ("max_bytes", "messages", "waits"), [(100, 2, True), (20, 9, True), (100, 9, False)]
    )
    async def test_below_waits_until_few_bytes_and_messages_are_unsent(
        self, max_bytes: int, messages: int, waits: bool
    ) -> None:
        writer, socket = open_writer()
        socket.reads.clear()
        writer.push(f"{pong(1)},{pong(2)}", 2)
        waiting = asyncio.ensure_future(writer.below(max_bytes, messages=messages))
        await until(lambda: writer.sending_since_s is not None)
        assert waiting.done() != waits
        socket.reads.set()
        await asyncio.wait_for(waiting, 3)

    async def test_a_queue_that_is_not_read_ends_the_connection(self) -> None:
        writer, socket = open_writer()
        socket.reads.clear()
        frame = pong(1)
        count = CLOSE_BYTES // len(frame)
        for _ in range(count):
            writer.push(frame)
        assert writer.closed is None
        writer.push(frame)
        assert writer.closed is Close.TOO_MUCH
        writer.push(frame)
        assert len(writer._queue) == count + 1, "nothing is queued any more"
        await writer.finish()

    async def test_a_single_frame_of_any_size_does_not_end_the_connection(self) -> None:
        writer, socket = open_writer()
        frame = json.dumps({"type": "x", "text": "x" * 2 * CLOSE_BYTES})
        writer.push(frame)
        await writer.drained()
        writer.push(pong(1))
        await writer.drained()
        assert socket.sends == [frame, pong(1)]


class TestDirect:
    async def test_an_open_socket_is_written_to_without_a_task(self) -> None:
        direct = Direct()
        socket = Socket()
        writer = Writer(socket, max_bytes=262_144, close_bytes=CLOSE_BYTES, direct=direct)
        writer.push(pong(1))
        assert writer.busy
        await asyncio.sleep(0)
        assert direct.texts == [pong(1)]
        assert not writer.busy
        assert socket.sends == []

    async def test_a_full_socket_gets_the_rest_through_asgi_in_order(self) -> None:
        direct, socket = Direct(), Socket()
        direct.room = 1
        writer = Writer(socket, max_bytes=60, close_bytes=CLOSE_BYTES, direct=direct)
        for n in range(4):
            writer.push(pong(n))
        await writer.drained()
        assert [json.loads(text) for text in direct.texts] == [[{"type": "pong", "n": n} for n in (0, 1)]]
        assert [frame["n"] for frame in socket.frames] == [2, 3]


class TestFullSocket:
    """The write that is begun without a task, and continued in one while the socket is full."""

    async def test_a_socket_that_takes_everything_needs_no_task(self) -> None:
        sends: list[Any] = []

        async def send(event: dict[str, Any]) -> None:
            sends.append(event)

        writer = Writer(send, max_bytes=262_144, close_bytes=CLOSE_BYTES)
        writer.push(pong(1))
        await asyncio.sleep(0)
        assert sends == [{"type": "websocket.send", "text": pong(1)}]
        assert writer._task is None
        assert not writer.busy

    async def test_the_task_exists_while_the_socket_is_full(self) -> None:
        writer, socket = open_writer()
        socket.reads.clear()
        writer.push(pong(1))
        await until(lambda: writer._task is not None)
        assert writer.sending_since_s is not None
        socket.reads.set()
        await writer.drained()
        assert writer._task is None
        assert writer.sending_since_s is None

    async def test_a_write_that_fails_later_ends_the_connection(self) -> None:
        full = asyncio.get_running_loop().create_future()

        async def send(event: dict[str, Any]) -> None:
            await full

        writer = Writer(send, max_bytes=262_144, close_bytes=CLOSE_BYTES)
        writer.push(pong(1))
        await until(lambda: writer._task is not None)
        full.set_exception(OSError())
        await asyncio.wait_for(asyncio.shield(writer.ended), 3)
        assert writer.closed is None
        assert not writer.busy

    async def test_finish_cancels_the_write_and_closes_it(self) -> None:
        stopped: list[str] = []

        async def send(event: dict[str, Any]) -> None:
            if event["type"] == "websocket.close":
                return
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(event["text"])

        writer = Writer(send, max_bytes=262_144, close_bytes=CLOSE_BYTES)
        writer.push(pong(1))
        await until(lambda: writer._task is not None)
        task = writer._task
        writer.close(Close.TOO_MUCH)
        await writer.finish()
        assert task is not None
        await asyncio.wait([task], timeout=3)
        assert stopped == [pong(1)]
        assert not writer.busy


class TestEnd:
    async def test_the_first_close_code_counts(self) -> None:
        writer, socket = open_writer()
        writer.close(Close.NO_SESSION)
        writer.close(Close.TOO_MUCH)
        assert writer.ended.done()
        await writer.finish()
        assert socket.close_code == Close.NO_SESSION

    async def test_a_closed_writer_writes_nothing_more(self) -> None:
        writer, socket = open_writer()
        writer.push(pong(1))
        writer.close(Close.TOO_MUCH)
        await asyncio.sleep(0)
        writer.push(pong(2))
        await writer.finish()
        assert socket.sends == []
        assert socket.close_code == Close.TOO_MUCH

    async def test_a_peer_that_does_not_read_does_not_delay_the_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live_writer, "CLOSE_TIMEOUT_S", 0.05)
        writer, socket = open_writer()
        socket.reads.clear()
        writer.push(pong(1))
        writer.close(Close.TOO_MUCH)
        await asyncio.wait_for(writer.finish(), 3)
        assert socket.close_code is None

    @pytest.mark.parametrize("reads", [True, False])
    async def test_a_socket_that_does_not_accept_the_close_code_is_aborted(
        self, monkeypatch: pytest.MonkeyPatch, reads: bool
    ) -> None:
        monkeypatch.setattr(live_writer, "CLOSE_TIMEOUT_S", 0.05)
        direct, socket = Direct(), Socket()
        if not reads:
            socket.reads.clear()
        writer = Writer(socket, max_bytes=60, close_bytes=CLOSE_BYTES, direct=direct)
        writer.close(Close.TOO_MUCH)
        await writer.finish()
        assert direct.aborted != reads

    async def test_a_peer_that_has_disconnected_ends_the_connection(self) -> None:
        async def gone(event: dict[str, Any]) -> None:
            raise OSError

        writer = Writer(gone, max_bytes=262_144, close_bytes=CLOSE_BYTES)
        writer.push(pong(1))
        await asyncio.wait_for(asyncio.shield(writer.ended), 3)
        assert writer.closed is None

    async def test_waiting_ends_with_the_connection(self) -> None:
        writer, socket = open_writer()
        socket.reads.clear()
        writer.push(pong(1), 5)
        waiting = [asyncio.ensure_future(work) for work in (writer.drained(), writer.below(1))]
        await until(lambda: writer.sending_since_s is not None)
        writer.close(Close.TOO_MUCH)
        await writer.finish()
        await asyncio.wait_for(asyncio.gather(*waiting), 3)
