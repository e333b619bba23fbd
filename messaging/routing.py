"""The URL of the WebSocket."""

from channels.routing import URLRouter
from django.urls import path

from .consumers import ChatConsumer

websocket = URLRouter([path("ws/chat/", ChatConsumer.as_asgi())])
