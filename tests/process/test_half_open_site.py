"""A real server whose line to the store was half-open for longer than its pings wait: within ten seconds everything works again."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Client
from tests.support.lines import Direction, Line
from tests.support.sites import Browser, Site, later, people, room, until

Open = Callable[..., Any]

HALF_OPEN_S = 20.0
WITHIN_S = 10.0

pytestmark = pytest.mark.proof


@pytest.fixture
async def line_and_site(new_site: Open) -> AsyncIterator[tuple[Line, Site]]:
    folder = Path(tempfile.mkdtemp(prefix="chat-line-"))
    line = await Line(folder / "valkey.sock").open()
    site: Site = await later(new_site)(redis_url=line.url)
    (folder / "valkey.sock").symlink_to(site.store.socket)
    yield line, site
    site.forgive()
    await line.close()
    (folder / "valkey.sock").unlink()
    folder.rmdir()


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_everything_works_again_within_ten_seconds(
    line_and_site: tuple[Line, Site], open_client: Open, open_wire: Open, direction: Direction
) -> None:
    line, site = line_and_site
    ada, grace, bob = await later(people)("ada", "grace", "bob")
    atlas = await later(room)(ada, grace, bob)
    writer, reader = (open_client(site, who, max_backoff_s=1.0) for who in (ada, grace))
    await until(lambda: writer.welcomed and reader.welcomed)
    writer.offer(atlas, "before")
    await until(lambda: _bodies(reader, atlas) == ["before"])

    line.dropped.add(direction)
    writer.offer(atlas, "in the meantime")
    await asyncio.sleep(HALF_OPEN_S)  # the fault itself
    line.dropped.clear()
    whole_s = time.monotonic()

    writer.offer(atlas, "after")
    await until(lambda: _bodies(reader, atlas) == ["before", "in the meantime", "after"], within_s=WITHIN_S)
    wire = await open_wire(site, bob)  # a new connection is greeted, and a control event reaches it
    await wire.hello()
    await asyncio.to_thread(Browser(site, bob).post, "/accounts/logout/")
    assert await wire.close_code() == 4501
    assert time.monotonic() - whole_s < WITHIN_S
    assert writer.disagreed == reader.disagreed == []


def _bodies(client: Client, room_id: str) -> list[str]:
    return [message["body"] for message in client.logs[room_id].held]
