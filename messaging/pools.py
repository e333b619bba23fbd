"""Connections to the store."""

from __future__ import annotations

from django_redis.pool import ConnectionFactory as BaseConnectionFactory


class ConnectionFactory(BaseConnectionFactory):  # type: ignore[type-arg]
    pass
