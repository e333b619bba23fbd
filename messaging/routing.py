"""The socket's address."""

from channels.routing import URLRouter

websocket = URLRouter([])
