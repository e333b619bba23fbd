"""System checks of the settings. `manage.py doctor` checks the store."""

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
    """Return an error for each setting that is invalid, would lose messages or would log users out."""
    return [*_numbers(), *_channel_layer(), *_sessions(), *_aliases()]


def _numbers() -> Iterator[CheckMessage]:
    for sentence in policy.problems(settings.MESSAGING):
        yield Error(sentence, hint="Correct it, or omit it to get the default.", id="messaging.E001")


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
            "Web sessions are in the cache: an error of Redis would log users out permanently.",
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
    locations = [settings.CACHES.get(alias, {}).get("LOCATION") for alias in ("messages", "default")]
    if locations[0] is not None and locations[0] == locations[1]:
        yield Error(
            'CACHES["messages"] and CACHES["default"] share one database: clearing the cache would delete every message.',
            hint="Give each its own database number.",
            id="messaging.E005",
        )
