"""An application that tells over a WebSocket how the server around it is configured."""

from __future__ import annotations

import inspect
import json
from typing import Any

from uvicorn import Config

from chatsite.websocket import EXTENSION

# Where it listens and what it runs differ by intent.
OWN = {"self", "app", "fd", "uds", "host", "port"}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer a handshake with the configuration: {argument of uvicorn's `Config`: its effective value}."""
    await receive()
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(_report(scope))})
    await send({"type": "websocket.close"})


def _report(scope: Any) -> dict[str, Any]:
    """Return the values in force; an empty report where the socket's protocol is not the site's own."""
    protocol = scope["extensions"].get(EXTENSION)
    if protocol is None:
        return {}
    config: Config = protocol.config
    names = set(inspect.signature(Config).parameters) - OWN
    values = {name: repr(getattr(config, name)) for name in names if hasattr(config, name)}
    return {
        **values,
        "http_protocol_class": config.http_protocol_class.__qualname__,
        "ws_protocol_class": type(protocol).__qualname__,
        "loop": type(protocol.loop).__module__,
    }
