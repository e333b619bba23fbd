"""What every test stands on: a real store on a socket of its own, empty at the start of each test that asks for it."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from django.conf import settings

from chatsite import embedded
from messaging import pools
from messaging.policy import Policy
from messaging.store import Store
from tests.messages import members_of

START_DEADLINE_S = 20.0


@pytest.fixture(scope="session")
def store_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """Run a store at the address in the settings; `everysec`, because no test here pulls a plug."""
    server = embedded.find_server()
    assert server is not None, "no valkey-server: install the requirements"
    folder = tmp_path_factory.mktemp("store")
    socket = Path(urlsplit(settings.STORE_URL).path)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            embedded.command(server, folder=folder, socket=socket, appendfsync="everysec"),
            stdout=log,
            stderr=log,
        )
        try:
            ready = embedded.wait_until_ready(settings.STORE_URL, deadline_s=START_DEADLINE_S)
            assert ready, (folder / "log").read_text()
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def redis_url(store_process: subprocess.Popen[bytes]) -> str:
    """Return the URL of an empty store. Its scripts stay loaded, as between two requests."""
    client = redis.Redis.from_url(settings.STORE_URL)
    with client:
        client.flushall()
    return str(settings.STORE_URL)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """Return an empty store in which every room that is asked for has the three members of `tests.messages`."""
    yield Store(pools.async_client(), Policy(), members_of=members_of)
    await pools.close()
