"""Collect the static files in DATA_DIR, if any has changed since the last time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import django
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command


def collect() -> bool:
    """Collect the static files if any has changed. Return whether they were collected."""
    note = Path(settings.STATIC_ROOT) / ".collected"
    fingerprint = _fingerprint()
    if note.exists() and note.read_text() == fingerprint:
        return False
    call_command("collectstatic", interactive=False, verbosity=0)
    note.write_text(fingerprint)
    return True


def _fingerprint() -> str:
    """Return a digest of all static files, their storage and the version of Django."""
    digest = hashlib.sha256(f"{django.VERSION} {settings.STORAGES['staticfiles']['BACKEND']}".encode())
    for finder in get_finders():
        for path, storage in sorted(finder.list(None), key=lambda entry: str(entry[0])):
            status = Path(storage.path(path)).stat()
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
