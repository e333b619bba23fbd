"""The faults, one at a time: each injects one kind of failure into a cluster under load."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
import urllib.error
from typing import Any

from messaging.drill.ledger import now_ms
from messaging.drill.plan import Plan
from tests.support.clients import Wire
from tests.support.lines import BOTH, Direction, Line
from tests.support.sites import Browser

from .cluster import Part, eventually
from .load import LONG_S
from .run import Run, Scenario

# ── The store ──


async def store_killed(run: Run) -> None:
    for _ in range(3):
        await run.pause(1.5, 3.0)
        async with run.fault():
            await run.cluster.restart_store(down_s=1.5)


async def store_stopped(run: Run) -> None:
    await run.pause(2.0, 4.0)
    async with run.fault():
        run.cluster.store.freeze()
        await asyncio.sleep(10.0)
        run.cluster.store.thaw()


async def _half_open(run: Run, direction: Direction, seconds: float = 20.0) -> None:
    await run.pause(2.0, 4.0)
    lines = [part.line for part in (*run.cluster.servers, run.cluster.jobs)]
    async with run.fault():
        for line in lines:
            line.dropped.add(direction)
        await asyncio.sleep(seconds)
        for line in lines:
            line.dropped.clear()


async def store_half_open_up(run: Run) -> None:
    await _half_open(run, "requests")


async def store_half_open_down(run: Run) -> None:
    await _half_open(run, "replies")


async def replies_dropped(run: Run) -> None:
    await run.pause(1.0, 2.0)
    lines = [part.line for part in (*run.cluster.servers, run.cluster.jobs)]
    async with run.fault():
        for share, seconds in ((0.05, 6.0), (0.4, 6.0), (0.15, 8.0)):
            for line in lines:
                line.lost_replies = share
            await asyncio.sleep(seconds)
        for line in lines:
            line.lost_replies = 0.0


async def store_line_slow(run: Run) -> None:
    await run.pause(1.0, 2.0)
    lines = [part.line for part in (*run.cluster.servers, run.cluster.jobs)]
    async with run.fault():
        for line in lines:
            line.slices = (200, 0.02)
        await asyncio.sleep(12.0)
        for line in lines:
            line.slices = None


async def publications_lost(run: Run) -> None:
    """Kill all subscriptions while the last messages are sent. Nothing is sent afterwards that would show a gap."""
    await run.pause(7.0, 8.0)
    async with run.fault():
        ends_s = time.monotonic() + 5.0
        while time.monotonic() < ends_s:
            await run.cluster.disturb("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.1)


async def scripts_flushed(run: Run) -> None:
    async with run.fault():
        for _ in range(60):
            await run.cluster.disturb("SCRIPT", "FLUSH")
            await asyncio.sleep(0.2)


async def connections_killed(run: Run) -> None:
    async with run.fault():
        for _ in range(12):
            for kind in ("pubsub", "normal"):
                await run.cluster.disturb("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(1.0)


async def store_full(run: Run) -> None:
    """Fill the store, and leave it full until all that has expired in the meantime is told."""
    await run.pause(10.0, 11.0)
    run.load.paused = True
    async with run.fault():
        info = await run.cluster.command("INFO", "memory")
        used = int(info["used_memory"])
        await run.cluster.command("CONFIG", "SET", "maxmemory", used - 256 * 1024)
        for _ in range(20):
            run.load.say(LONG_S)  # refused with `backlog_full`, and accepted afterwards
        board = run.load.board

        def expired_untold() -> list[str]:
            return [
                message_id
                for message_id, known in board.messages.items()
                if known.expires_at < now_ms() and board.users - known.explained
            ]

        last_ms = board.last_end()
        await eventually(lambda: now_ms() > last_ms and not expired_untold(), within_s=170.0)
        for message_id in expired_untold():
            run.verdict.add("untold", f"{message_id} while the store was full")
        await run.cluster.command("CONFIG", "SET", "maxmemory", 0)
    run.load.paused = False


async def store_emptied(run: Run) -> None:
    await run.pause(6.0, 8.0)
    async with run.fault():
        await run.cluster.command("FLUSHALL")


async def store_put_back(run: Run) -> None:
    """Put the store back to a copy that is some seconds old."""
    await run.pause(3.0, 4.0)
    await run.cluster.command("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)
    copy = run.cluster.folder / "copy"
    shutil.copytree(run.cluster.store_files, copy)
    await run.pause(6.0, 8.0)
    async with run.fault():
        await asyncio.to_thread(run.cluster.store.kill)
        shutil.rmtree(run.cluster.store_files)
        shutil.copytree(copy, run.cluster.store_files)
        run.cluster.store.start()
        await asyncio.to_thread(run.cluster.store.wait_until_ready)


async def store_log_cut(run: Run) -> None:
    """Cut the end of the store's log, as a disk does that reported a write too early."""
    for _ in range(3):
        await run.pause(3.0, 4.0)
        async with run.fault():
            await asyncio.to_thread(run.cluster.store.kill)
            newest = max(run.cluster.store_files.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
            size = newest.stat().st_size
            os.truncate(newest, size - min(size, run.rng.randint(1_000, 4_000)))
            run.cluster.store.start()
            await asyncio.to_thread(run.cluster.store.wait_until_ready)


# ── The worker ──


async def worker_killed(run: Run) -> None:
    for _ in range(3):
        await run.pause(3.0, 6.0)
        async with run.fault():
            await asyncio.to_thread(run.cluster.kill_worker)
            await asyncio.sleep(1.0)
            run.cluster.start_worker()


async def _until_due(run: Run) -> None:
    """Wait until ended messages are due all the time. Only the job that reports them runs: others would wait for the database first."""
    run.cluster.ticked = ("process_expired",)
    messages = run.load.board.messages
    assert await eventually(
        lambda: any(known.expires_at < now_ms() - 6_000 for known in messages.values()), within_s=60.0
    )


async def worker_killed_in_claim(run: Run) -> None:
    """Kill the worker while it has claimed ended messages and waits for the database."""
    await _until_due(run)
    async with run.fault():
        locked = asyncio.create_task(run.cluster.lock_database(16.0))
        await asyncio.sleep(12.0)
        await asyncio.to_thread(run.cluster.kill_worker)
        await locked
        run.cluster.start_worker()


async def sentinel_killed(run: Run) -> None:
    run.cluster.ticked = ()
    async with run.fault():
        killed = await eventually(run.cluster.kill_sentinel, within_s=30.0)
    if not killed:
        run.verdict.failure = "there was no sentinel to kill"


async def schedules_deleted(run: Run) -> None:
    run.cluster.ticked = ()
    await run.pause(1.0, 2.0)
    async with run.fault():
        await run.cluster.sql("DELETE FROM django_q_schedule")


# ── Server processes ──


async def server_killed(run: Run) -> None:
    for _ in range(3):
        await run.pause(2.0, 4.0)
        async with run.fault():
            await run.cluster.servers[0].restart_server()


async def server_stopped(run: Run) -> None:
    """Stop one of two processes for longer than the lives of most messages."""
    await run.pause(2.0, 4.0)
    async with run.fault():
        run.cluster.servers[1].signal(signal.SIGSTOP)
        await asyncio.sleep(30.0)
        run.cluster.servers[1].signal(signal.SIGCONT)


# ── The database ──


async def database_locked(run: Run) -> None:
    await _until_due(run)
    async with run.fault():
        await run.cluster.lock_database(25.0)


async def database_away_at_notice(run: Run) -> None:
    """Take the database away from the server while the worker, which has it, reports the missed messages."""
    await run.pause(7.0, 8.0)
    async with run.fault():
        run.cluster.servers[0].take_database_away()
        await eventually(lambda: now_ms() > run.load.board.last_end() + 10_000, within_s=40.0)
        run.cluster.servers[0].bring_database_back()


# ── The channel layer ──


async def layer_killed_at_notice(run: Run) -> None:
    """Kill all subscriptions all the time while the worker announces notices."""
    await run.pause(9.0, 10.0)
    async with run.fault():
        ends_s = time.monotonic() + 20.0
        while time.monotonic() < ends_s:
            await run.cluster.disturb("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.4)


async def layer_half_open(run: Run) -> None:
    """Let all connections of the server to the store become half-open for ever. New ones work."""
    await run.pause(5.0, 6.0)
    async with run.fault():
        run.cluster.servers[0].line.forget()


# ── The clients' lines ──


async def lines_cut(run: Run) -> None:
    async with run.fault():
        for _ in range(6):
            await run.pause(1.5, 2.5)
            for part in run.cluster.servers:
                part.door.cut()


async def lines_silent(run: Run) -> None:
    """Let the clients' lines pass nothing, in both directions, for longer than a ping."""
    await run.pause(2.0, 4.0)
    async with run.fault():
        for part in run.cluster.servers:
            part.door.held = True
        await asyncio.sleep(25.0)
        for part in run.cluster.servers:
            part.door.held = False


async def lines_half_open(run: Run) -> None:
    """Throw away all that clients send, then all that they should receive. A connection that lost bytes ends: TCP never skips any."""
    await run.pause(1.0, 2.0)
    async with run.fault():
        for direction in BOTH:
            for part in run.cluster.servers:
                part.door.dropped.add(direction)
            await asyncio.sleep(9.0)
            for part in run.cluster.servers:
                part.door.dropped.clear()
                part.door.cut()


async def lines_sliced(run: Run) -> None:
    async with run.fault():
        for part in run.cluster.servers:
            part.door.slices = (7, 0.002)
        await asyncio.sleep(12.0)
        for part in run.cluster.servers:
            part.door.slices = None


async def frames_lost(_: Run) -> None:
    """Lose, double and delay single frames in the clients: `Scenario.frames`."""


async def slow_reader(run: Run) -> None:
    """Let two clients read nothing for longer than the lives of the messages that are sent to them."""
    part = run.cluster.servers[0]
    for client, seconds in zip(run.load.writers[-2:], (13.0, 18.0), strict=True):
        slow = await Line(part.port).open()
        client._url, opened_s = f"ws://127.0.0.1:{slow.port}/ws/chat/", client._opened_s
        client.reload()
        assert await eventually(
            lambda client=client, opened_s=opened_s: client.welcomed and client._opened_s > opened_s,
            within_s=20.0,
        )
        async with run.fault():
            slow.held = True
            await asyncio.sleep(seconds)
            slow.held = False


# ── Rules that are checked with separate users, while the others chat ──


async def _wire(part: Part, run: Run, name: str) -> Wire:
    person = run.cluster.rows.actors[name]
    wire = await Wire.open(part.url, cookie=person.cookie, origin=part.origin)
    await wire.hello()
    return wire


async def _call(part: Part, run: Run, actor: str, method: str, path: str, **fields: Any) -> int:
    """Use the HTTP interface as an actor; return the status."""

    def call() -> int:
        try:
            return Browser(part, run.cluster.rows.actors[actor]).call(method, path, **fields)
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(call)


async def _missing(wire: Wire, message_id: str, *, within_s: float = 60.0) -> list[str] | None:
    """Return the names in the notice about a message, None if no notice comes."""

    def notices() -> list[Any]:
        return [frame["data"] for frame in wire.heard("notice") if frame["data"].get("id") == message_id]

    if not await eventually(notices, within_s=within_s):
        return None
    return [missing["name"] for missing in notices()[0]["missing"]]


async def member_added_store_down(run: Run) -> None:
    """Add a member while the store is down. Afterwards every message to the room reaches them, names them, or they are no member."""
    part, stage = run.cluster.servers[0], run.cluster.rows.stage
    zoe = await _wire(part, run, "zoe")
    newcomer = run.cluster.rows.clients[-1].name
    await run.pause(1.0, 2.0)
    async with run.fault():
        await asyncio.to_thread(run.cluster.store.kill)
        status = await _call(part, run, "zoe", "POST", f"/api/rooms/{stage}/members/", name=newcomer)
        run.cluster.store.start()
        await asyncio.to_thread(run.cluster.store.wait_until_ready)

    def members() -> list[str]:
        data = Browser(part, run.cluster.rows.actors["zoe"]).get(f"/api/rooms/{stage}/members/")
        return [member["name"] for member in data["members"]]

    is_member = newcomer in await asyncio.to_thread(members)
    if zoe.closed is not None:
        zoe = await _wire(part, run, "zoe")
    await eventually(lambda: bool(run.load.writers[0].welcomed), within_s=20.0)
    sent = await zoe.post(stage, "to the members", ttl=10)
    names = await _missing(zoe, sent["id"])
    if names is None or is_member != (newcomer in names):
        run.verdict.add("untold", f"status {status}, member: {is_member}, named: {names}")
    await zoe.aclose()


async def leave_right_after_ack(run: Run) -> None:
    """Acknowledge a message, then leave the room within 0.3 s: the member holds it, so nobody may name them."""
    part, stage = run.cluster.servers[0], run.cluster.rows.stage
    zoe = await _wire(part, run, "zoe")
    sent = []
    for _ in range(25):
        status = await _call(part, run, "yuri", "POST", f"/api/rooms/{stage}/join/")
        assert status in (200, 201, 204), status
        yuri = await _wire(part, run, "yuri")
        message = await zoe.post(stage, "please hold", ttl=10)
        received = await yuri.next("message", id=message["id"])
        await yuri.ack(stage, received["epoch"], delivered=received["seq"], late=[])
        await run.pause(0.0, 0.2)
        assert await _call(part, run, "yuri", "POST", f"/api/rooms/{stage}/leave/") in (200, 204)
        await yuri.aclose()
        sent.append(message["id"])
    for message_id in sent:
        names = await _missing(zoe, message_id)
        if names is None:
            run.verdict.add("untold", f"no notice about {message_id}")
        elif "yuri" in names:
            run.verdict.add("falsely told", f"yuri is named for {message_id}")
    await zoe.aclose()


async def resends_racing(run: Run) -> None:
    """Send missed messages again from three connections at once: each has one answer, and the recipients get it once."""
    part, stage = run.cluster.servers[0], run.cluster.rows.stage
    wires = [await _wire(part, run, "zoe") for _ in range(3)]
    missed = [await wires[0].post(stage, f"missed {number}", ttl=10) for number in range(20)]
    for message in missed:
        if await _missing(wires[0], message["id"]) is None:
            run.verdict.add("untold", f"no notice about {message['id']}")
    xenia = await _wire(part, run, "xenia")
    for message in missed:
        frame = {
            "type": "resend",
            "room": stage,
            "epoch": message["epoch"],
            "seq": message["seq"],
            "ttl": 600,
        }
        ids = [f"{number:08x}-0000-4000-8000-{message['seq']:012x}" for number in range(3)]
        await asyncio.gather(*(wire.send(frame | {"id": id_}) for wire, id_ in zip(wires, ids, strict=True)))
        answers = [await wire.next("sent", id=id_) for wire, id_ in zip(wires, ids, strict=True)]
        if (
            len({answer["seq"] for answer in answers}) != 1
            or sum(not answer["duplicate"] for answer in answers) != 1
        ):
            run.verdict.add(
                "twice", f"{message['seq']} sent again as {[answer['seq'] for answer in answers]}"
            )
        await xenia.next("message", resends=message["seq"])
    await xenia.fence()
    count = len(xenia.heard("message"))
    if count != len(missed):
        run.verdict.add("twice", f"{count} messages arrived, {len(missed)} were sent again")
    for wire in (*wires, xenia):
        await wire.aclose()


FAULTS = [
    Scenario(
        name="store_killed", injected="store killed three times, 1.5 s down", inject=store_killed, quick=True
    ),
    Scenario(name="store_stopped", injected="store stopped (SIGSTOP) for 10 s", inject=store_stopped),
    Scenario(
        name="store_half_open_up",
        injected="for 20 s the store gets no requests; connections stay open",
        inject=store_half_open_up,
    ),
    Scenario(
        name="store_half_open_down",
        injected="for 20 s the store's answers and publications are lost; requests arrive",
        inject=store_half_open_down,
    ),
    Scenario(
        name="replies_dropped",
        injected="5 %, 40 %, then 15 % of the store's replies are lost with their connections, for 20 s",
        inject=replies_dropped,
        quick=True,
    ),
    Scenario(
        name="store_line_slow",
        injected="line to the store: at most 200 bytes at once, up to 20 ms apart, for 12 s",
        inject=store_line_slow,
    ),
    Scenario(name="scripts_flushed", injected="SCRIPT FLUSH every 0.2 s for 12 s", inject=scripts_flushed),
    Scenario(
        name="connections_killed",
        injected="CLIENT KILL of all connections every second for 12 s",
        inject=connections_killed,
    ),
    Scenario(
        name="publications_lost",
        injected="CLIENT KILL of all subscriptions every 0.1 s while the last messages are sent",
        inject=publications_lost,
        seconds=10.0,
        share=0.0,
        calm=True,
        repair_s=20.0,
    ),
    Scenario(
        name="worker_killed_in_claim",
        injected="worker killed while it has claimed ended messages and waits for the database",
        inject=worker_killed_in_claim,
        seconds=20.0,
    ),
    Scenario(name="worker_killed", injected="worker and its jobs killed three times", inject=worker_killed),
    Scenario(name="server_killed", injected="server killed three times", inject=server_killed, quick=True),
    Scenario(
        name="server_stopped",
        injected="one of two servers stopped (SIGSTOP) for 30 s, lives of 10 to 20 s",
        inject=server_stopped,
        seconds=32.0,
        servers=2,
        lives=(10, 20),
        share=0.8,
    ),
    Scenario(
        name="database_locked",
        injected="database locked for 25 s while ended messages are due; its users wait 20 s",
        inject=database_locked,
        seconds=20.0,
    ),
    Scenario(name="lines_cut", injected="all clients cut off six times", inject=lines_cut),
    Scenario(name="lines_silent", injected="the clients' lines pass nothing for 25 s", inject=lines_silent),
    Scenario(
        name="lines_half_open",
        injected="for 9 s each: all that clients send is lost, all that they receive; then the lines are cut",
        inject=lines_half_open,
    ),
    Scenario(
        name="lines_sliced",
        injected="the clients' lines pass at most 7 bytes at once for 12 s",
        inject=lines_sliced,
    ),
]

OTHERS = [
    Scenario(
        name="frames_lost",
        injected="10 % of the frames lost, 5 % doubled, some late, in both directions",
        inject=frames_lost,
        frames=Plan(loss=0.1, duplicate=0.05, reorder=True),
        share=0.0,  # a lost notice is repeated only at the next connect
        patience_s=150.0,
    ),
    Scenario(
        name="slow_reader",
        injected="two clients read nothing for 13 and 18 s; messages live 10 s",
        inject=slow_reader,
        seconds=34.0,
        lives=(10, 10),
        share=1.0,
    ),
    Scenario(
        name="store_full",
        injected="store full (maxmemory) until all that expires in it is told",
        inject=store_full,
        seconds=12.0,
        calm=True,
    ),
    Scenario(
        name="sentinel_killed",
        injected="process that guards the jobs killed; jobs by their schedules only",
        inject=sentinel_killed,
        patience_s=170.0,
    ),
    Scenario(
        name="schedules_deleted",
        injected="all schedules deleted; jobs by their schedules only",
        inject=schedules_deleted,
        patience_s=170.0,
    ),
    Scenario(
        name="database_away_at_notice",
        injected="the server's database away while the worker reports; senders stay connected",
        inject=database_away_at_notice,
        seconds=8.0,
        lives=(10, 11),
        calm=True,
        quick=True,
    ),
    Scenario(
        name="layer_killed_at_notice",
        injected="CLIENT KILL of all subscriptions every 0.4 s while the worker reports; senders stay connected",
        inject=layer_killed_at_notice,
        seconds=10.0,
        calm=True,
    ),
    Scenario(
        name="layer_half_open",
        injected="the server's connections to the store forgotten by a firewall; senders stay connected",
        inject=layer_half_open,
        calm=True,
    ),
    Scenario(
        name="store_emptied",
        injected="FLUSHALL under load",
        inject=store_emptied,
        loses=True,
        share=0.0,
        patience_s=90.0,
        quick=True,
    ),
    Scenario(
        name="store_put_back",
        injected="store put back to a copy 6 to 8 s old",
        inject=store_put_back,
        loses=True,
        share=0.0,
        patience_s=90.0,
    ),
    Scenario(
        name="store_log_cut",
        injected="store killed and the last 1 to 4 KB of its log cut off, three times",
        inject=store_log_cut,
        loses=True,
        share=0.0,
        patience_s=90.0,
    ),
    Scenario(
        name="member_added_store_down",
        injected="member added while the store is down",
        inject=member_added_store_down,
    ),
    Scenario(
        name="leave_right_after_ack",
        injected="25 times: a member leaves within 0.2 s after an acknowledgement",
        inject=leave_right_after_ack,
    ),
    Scenario(
        name="resends_racing",
        injected="20 missed messages sent again from three connections at once",
        inject=resends_racing,
    ),
]

SCENARIOS = {scenario.name: scenario for scenario in (*FAULTS, *OTHERS)}


def pair(first: Scenario, second: Scenario) -> Scenario:
    """Return a scenario with two faults at once."""

    async def inject(run: Run) -> None:
        await asyncio.gather(first.inject(run), second.inject(run))

    return Scenario(
        name=f"{first.name}+{second.name}",
        injected="both at once",
        inject=inject,
        seconds=max(first.seconds, second.seconds),
        servers=max(first.servers, second.servers),
        lives=(10, 20),
        patience_s=90.0,
    )


def named(name: str) -> Scenario:
    """Return a scenario; for `A+B` both at once."""
    first, _, second = name.partition("+")
    return pair(SCENARIOS[first], SCENARIOS[second]) if second else SCENARIOS[name]
