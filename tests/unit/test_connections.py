"""Calls over kept connections: many concurrent calls, lost connections, cancelled calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from messaging.store import connections


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    yield connections.async_client()
    await connections.close()


async def test_more_calls_than_connections_wait_their_turn(client: redis.asyncio.Redis) -> None:
    pipelines = connections.PipelinePool(client)
    calls = (pipelines.call([("SET", f"key{n}", n), ("GET", f"key{n}")]) for n in range(300))
    answers = await asyncio.gather(*calls)
    assert [int(answer[1]) for answer in answers] == list(range(300))
    assert await client.ping()  # the pool has connections left for others


async def test_an_empty_call_is_answered_at_once(client: redis.asyncio.Redis) -> None:
    assert await connections.PipelinePool(client).call([]) == []


async def test_a_refusal_stands_in_its_place(client: redis.asyncio.Redis) -> None:
    answers = await connections.PipelinePool(client).call(
        [("SET", "key", "text"), ("INCR", "key"), ("GET", "key")]
    )
    assert answers[0] == b"OK"
    assert isinstance(answers[1], ResponseError)
    assert answers[2] == b"text"


async def test_a_call_that_is_given_up_leaves_no_answer_to_the_next(client: redis.asyncio.Redis) -> None:
    pipelines = connections.PipelinePool(client)
    await pipelines.call([("PING",)])
    waiting = asyncio.ensure_future(pipelines.call([("BLPOP", "nothing", 1), ("ECHO", "late")]))
    await until_blocked(client)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await pipelines.call([("ECHO", "mine")]) == [b"mine"]


async def test_after_a_lost_connection_the_next_call_makes_a_new_one(client: redis.asyncio.Redis) -> None:
    pipelines = connections.PipelinePool(client)
    await asyncio.gather(*(pipelines.call([("PING",)]) for _ in range(3)))
    await client.client_kill_filter(_type="normal", skipme=True)
    assert await until_answered(pipelines, ("ECHO", "again")) == [b"again"]
    assert await client.ping()  # a lost connection does not keep its place in the pool
    for _ in range(connections.MAX_CONNECTIONS):
        await client.client_kill_filter(_type="normal", skipme=True)
        assert await until_answered(pipelines, ("ECHO", "again")) == [b"again"]


async def test_an_invalid_answer_ends_the_connection_and_the_call(client: redis.asyncio.Redis) -> None:
    async with await asyncio.start_server(talk_nonsense, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool = redis.asyncio.BlockingConnectionPool(host="127.0.0.1", port=port, protocol=2, driver_info=None)
        with pytest.raises(redis.exceptions.ConnectionError):
            await connections.PipelinePool(redis.asyncio.Redis(connection_pool=pool)).call([("PING",)])


async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"nonsense\r\n")
    await reader.read()  # the other side closes it
    writer.close()
    await writer.wait_closed()


async def until_answered(pipelines: connections.PipelinePool, command: tuple[str, ...]) -> list[object]:
    """Repeat a call while the loss of a connection is not noticed yet."""
    async with asyncio.timeout(5):
        while True:
            try:
                return await pipelines.call([command])
            except (redis.exceptions.ConnectionError, OSError):
                continue


async def until_blocked(client: redis.asyncio.Redis) -> None:
    async with asyncio.timeout(5):
        while int((await client.info("clients"))["blocked_clients"]) == 0:
            await asyncio.sleep(0.01)
