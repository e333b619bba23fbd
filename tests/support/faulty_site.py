"""The site with one handler that raises, as a programming error would: a `ping` of 666."""

from chatsite.asgi import application
from messaging import protocol
from messaging.live.connection import Connection
from messaging.live.ephemeral import Ephemeral

FATAL = 666

__all__ = ["FATAL", "application"]

_ping = Ephemeral.ping


def ping(self: Ephemeral, connection: Connection, frame: protocol.Ping) -> None:
    if frame.n == FATAL:
        raise ZeroDivisionError("a fault of ours")
    _ping(self, connection, frame)


Ephemeral.ping = ping  # type: ignore[method-assign]
