"""The system checks: each refuses what would lose messages, by its id."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings

CACHES: dict[str, Any] = settings.CACHES


def ids() -> list[str | None]:
    return [message.id for message in run_checks() if (message.id or "").startswith("messaging.")]


def test_default_site_has_no_errors() -> None:
    assert ids() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"MESSAGING": {"ttl_default_s": -1}}, "messaging.E001"),
        ({"MESSAGING": {"no_such_number": 1}}, "messaging.E001"),
        ({"MESSAGING": {"ttl_min_s": 7200}}, "messaging.E001"),
        (
            {"CHANNEL_LAYERS": {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}},
            "messaging.E002",
        ),
        ({"CHANNEL_LAYERS": {}}, "messaging.E002"),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cache"}, "messaging.E003"),
        ({"CACHES": {"default": CACHES["default"]}}, "messaging.E004"),
        ({"CACHES": {**CACHES, "messages": CACHES["default"]}}, "messaging.E005"),
    ],
)
def test_a_setting_that_would_lose_messages_is_an_error_with_an_id(
    changed: dict[str, Any], expected: str
) -> None:
    with override_settings(**changed):
        assert expected in ids()
