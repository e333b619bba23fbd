"""Web sessions in the database. Their keys come from a cookie, which a client can set to any text."""

from __future__ import annotations

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    """Django's store, except that a key with a NUL counts as no key: PostgreSQL refuses to compare it, and every page failed."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(None if session_key and "\0" in session_key else session_key)
