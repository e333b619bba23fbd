"""What the staff's front page says before anything else: whether the jobs run."""

from __future__ import annotations

from typing import Any

from django import template

from messaging import health, jobs
from messaging.errors import Unavailable

register = template.Library()


@register.inclusion_tag("admin/_worker.html")
def worker_banner() -> dict[str, Any]:
    """Say when no job has beaten for too long; `store_away` when that cannot be known."""
    try:
        age_s = jobs.heartbeat_age_s()
    except Unavailable:
        return {"store_away": True}
    return {"never": age_s is None, "silent_s": int(age_s) if age_s and age_s > health.HEARTBEAT_S else None}
