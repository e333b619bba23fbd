"""The site as one ASGI application: its pages, the chat's sockets, and the start and stop of the server process."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
pages = get_asgi_application()  # before anything that needs Django's apps

from channels.routing import ProtocolTypeRouter  # noqa: E402

from chatsite.lifespan import Lifespan  # noqa: E402
from messaging.routing import websocket  # noqa: E402

application = ProtocolTypeRouter({"http": pages, "websocket": websocket, "lifespan": Lifespan()})
