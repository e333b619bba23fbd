"""What settings alone can tell to be wrong. What must talk to the store is asked by `manage.py doctor`, never before every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from . import policy

PUBSUB_LAYER = "channels_redis.pubsub.RedisPubSubChannelLayer"
CACHED_SESSIONS = "django.contrib.sessions.backends.cache"


@register(Tags.compatibility)
def check_settings(**_: Any) -> list[CheckMessage]:
    """Return an error for each setting with which messages would be lost or people logged out."""
    return [*_numbers(), *_channel_layer(), *_sessions(), *_aliases()]


def _numbers() -> Iterator[CheckMessage]:
    for problem in policy.problems(settings.MESSAGING):
        yield Error(problem, hint="Correct it, or leave it out to get the default.", id="messaging.E001")


def _channel_layer() -> Iterator[CheckMessage]:
    layer = settings.CHANNEL_LAYERS.get("default", {}).get("BACKEND", "none")
    if layer != PUBSUB_LAYER:
        yield Error(
            f"The channel layer is {layer}: it drops events over its capacity.",
            hint=f'Set CHANNEL_LAYERS["default"]["BACKEND"] to "{PUBSUB_LAYER}".',
            id="messaging.E002",
        )


def _sessions() -> Iterator[CheckMessage]:
    if settings.SESSION_ENGINE == CACHED_SESSIONS:
        yield Error(
            "Web sessions live in the cache: an error of Redis would look like a log-out, for good.",
            hint='Set SESSION_ENGINE to "django.contrib.sessions.backends.db".',
            id="messaging.E003",
        )


def _aliases() -> Iterator[CheckMessage]:
    for alias in ("messages", "default"):
        backend = settings.CACHES.get(alias, {}).get("BACKEND", "none")
        if backend != "django_redis.cache.RedisCache":
            yield Error(
                f'CACHES["{alias}"] is {backend}, not Redis.',
                hint=f'Set CACHES["{alias}"]["BACKEND"] to "django_redis.cache.RedisCache" and its LOCATION to a Redis URL.',
                id="messaging.E004",
            )
    places = [settings.CACHES.get(alias, {}).get("LOCATION") for alias in ("messages", "default")]
    if places[0] is not None and places[0] == places[1]:
        yield Error(
            'CACHES["messages"] and CACHES["default"] share one database: clearing the cache would delete every message.',
            hint="Give each a database number of its own.",
            id="messaging.E005",
        )
