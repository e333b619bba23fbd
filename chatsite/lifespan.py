"""The life of one server process: start its parts; at a stop send `bye`, then let uvicorn close.

uvicorn closes every socket (1012) before it tells the application of the shutdown, too late for `bye`. So its handler of
SIGTERM and SIGINT is replaced: first the frames are sent, then uvicorn's own handler runs.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from messaging.live import server

BYE_SPREAD_MS = 2_000  # clients reconnect at a random time within this, not all at once
BYE_DEADLINE_S = 1.0

log = logging.getLogger(__name__)
Handler = Callable[[int, FrameType | None], object]


class Lifespan:
    """ASGI's `lifespan` protocol for one process."""

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        try:
            await server.startup()
        except Exception as error:
            log.exception("the server cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        _say_bye_before_stopping()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await server.shutdown()
        await send({"type": "lifespan.shutdown.complete"})


def _say_bye_before_stopping() -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        uvicorns_handler = signal.getsignal(number)
        if callable(uvicorns_handler) and uvicorns_handler is not signal.default_int_handler:
            loop.add_signal_handler(number, _stop, number, uvicorns_handler)


def _stop(number: int, uvicorns_handler: Handler) -> None:
    task = asyncio.ensure_future(_stop_after_bye(number, uvicorns_handler))
    _stopping.add(task)
    task.add_done_callback(_stopping.discard)


_stopping: set[asyncio.Task[None]] = set()  # the loop keeps only weak references


async def _stop_after_bye(number: int, uvicorns_handler: Handler) -> None:
    try:
        async with asyncio.timeout(BYE_DEADLINE_S):
            await server.say_bye(after_ms=BYE_SPREAD_MS)
    except TimeoutError:
        log.warning("stopping, although some clients do not read their `bye`")
    except Exception:
        log.exception("could not send `bye`")
    finally:
        uvicorns_handler(number, None)
