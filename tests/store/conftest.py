"""Fixtures of the tests that use a store without a running site."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from messaging.policy import Policy
from messaging.store import Store, connections
from tests.support.messages import members_of
from tests.support.people import person
from tests.support.servers import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="store-") as folder:  # the path of a socket must be short
        here = Server(Path(folder))
        here.start()
        try:
            yield here
        finally:
            here.kill()


@pytest.fixture
async def own_store(server: Server) -> AsyncIterator[Store]:
    client = connections.ConnectionFactory({}).async_client(server.url)
    yield Store(client, Policy(), members_of=members_of)
    await connections.close()


@pytest.fixture
async def ada(verbs: None) -> User:
    return await person("ada")


@pytest.fixture
async def grace(verbs: None) -> User:
    return await person("grace")
