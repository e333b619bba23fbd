"""Start and stop one server process: start its parts; at a stop send `bye`, then let uvicorn close.

uvicorn closes every socket (1012) before it informs the application of the shutdown. This is too late for `bye`. So the handlers
of SIGTERM and SIGINT are replaced: they send the frames first, then call uvicorn's own handler.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from messaging.live import server

BYE_SPREAD_MS = 2_000  # clients reconnect at a random time within this, so that not all do at once
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
        _send_bye_before_stopping()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await server.shutdown()
        await send({"type": "lifespan.shutdown.complete"})


def _send_bye_before_stopping() -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        uvicorn_handler = signal.getsignal(number)
        if callable(uvicorn_handler) and uvicorn_handler is not signal.default_int_handler:
            loop.add_signal_handler(number, _stop, number, uvicorn_handler)


def _stop(number: int, uvicorn_handler: Handler) -> None:
    task = asyncio.ensure_future(_stop_after_bye(number, uvicorn_handler))
    _stopping.add(task)
    task.add_done_callback(_stopping.discard)


_stopping: set[asyncio.Task[None]] = set()  # the loop keeps only weak references


async def _stop_after_bye(number: int, uvicorn_handler: Handler) -> None:
    try:
        async with asyncio.timeout(BYE_DEADLINE_S):
            await server.say_bye(after_ms=BYE_SPREAD_MS)
    except TimeoutError:
        log.warning("stopping, although some clients have not read their `bye`")
    except Exception:
        log.exception("could not send `bye`")
    finally:
        uvicorn_handler(number, None)
