"""Collect static files under DATA_DIR, when something changed since the last time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import django
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command


def collect() -> bool:
    """Collect the static files unless they are as they were; True when there was something to do."""
    note = Path(settings.STATIC_ROOT) / ".collected"
    now = _fingerprint()
    if note.exists() and note.read_text() == now:
        return False
    call_command("collectstatic", interactive=False, verbosity=0)
    note.write_text(now)
    return True


def _fingerprint() -> str:
    """Return what changes with any static file, the storage that names them and the version of Django."""
    digest = hashlib.sha256(f"{django.VERSION} {settings.STORAGES['staticfiles']['BACKEND']}".encode())
    for finder in get_finders():
        for path, storage in sorted(finder.list(None), key=lambda found: str(found[0])):
            found = Path(storage.path(path)).stat()
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
