"""The site with one handler that raises, as a programming error would: a `ping` of 666."""

from chatsite.asgi import application
from messaging import protocol
from messaging.live.connection import Connection
from messaging.live.delivery import Delivery

FATAL = 666

__all__ = ["FATAL", "application"]

_ping = Delivery.ping


def ping(self: Delivery, connection: Connection, frame: protocol.Ping) -> None:
    if frame.n == FATAL:
        raise ZeroDivisionError("a fault of ours")
    _ping(self, connection, frame)


Delivery.ping = ping  # type: ignore[method-assign]
