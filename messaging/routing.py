"""The URL of the WebSocket. A handshake at any other URL is refused with 403."""

from channels.routing import URLRouter
from channels.security.websocket import WebsocketDenier
from django.urls import path, re_path

from .consumers import ChatConsumer

websocket = URLRouter([path("ws/chat/", ChatConsumer.as_asgi()), re_path("", WebsocketDenier.as_asgi())])
