"""The job `clear_sessions`: delete web sessions that have expired, and those of deleted users, which still have their names.

A user is only a value in the data of a session, so the job reads all sessions. Sockets were informed when the user was deleted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.utils import timezone

from messaging import policy as policies

ROW_BATCH = 500


def clear_sessions() -> int:
    """Delete ended sessions, within the deadline of a job; return their number. The schedule calls this."""
    deadline_mono_s = time.monotonic() + policies.current().job_deadline_s
    model = import_module(settings.SESSION_ENGINE).SessionStore.get_model_class()
    count, last_key = 0, ""
    while time.monotonic() < deadline_mono_s:
        batch = list(model.objects.filter(session_key__gt=last_key).order_by("session_key")[:ROW_BATCH])
        if not batch:
            break
        last_key = batch[-1].session_key
        ended = _ended(batch)
        rows = model.objects.filter(session_key__in=ended)
        rows._raw_delete(
            rows.db
        )  # without signals: these sessions have no open sockets, and each signal is a control event
        count += len(ended)
    return count


def _ended(sessions: Sequence[Any]) -> list[str]:
    """Return the keys of the sessions that have expired or whose user does not exist."""
    now = timezone.now()
    expired = [session.session_key for session in sessions if session.expire_date <= now]
    users = {
        session.session_key: session.get_decoded().get(SESSION_KEY)
        for session in sessions
        if session.expire_date > now
    }
    logged_in = {user for user in users.values() if user is not None}
    rows = get_user_model().objects.filter(pk__in=logged_in).values_list("pk", flat=True)
    deleted = logged_in - {str(pk) for pk in rows}
    return expired + [key for key, user in users.items() if user in deleted]
