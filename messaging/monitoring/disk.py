"""The free space on the disk of DATA_DIR: the embedded store, SQLite and the demo's logins are there."""

from __future__ import annotations

import shutil

from django.conf import settings


def free_bytes() -> int | None:
    """Return the free bytes for the site's user, None if DATA_DIR does not exist."""
    try:
        return shutil.disk_usage(settings.DATA_DIR).free
    except FileNotFoundError:
        return None
