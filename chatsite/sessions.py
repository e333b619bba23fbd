"""Web sessions in the database, whose keys come from a cookie that anybody can write."""

from __future__ import annotations

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    """Django's, for which a key with a NUL is none: PostgreSQL refuses to compare it, so that each page was a fault."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(None if session_key and "\0" in session_key else session_key)
