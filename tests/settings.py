"""Settings of the site for tests: a separate folder and store, independent of the environment."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

TEMPORARY = tempfile.mkdtemp(prefix="chat-tests-")
atexit.register(shutil.rmtree, TEMPORARY, ignore_errors=True)

for name in (
    "SITE_URL",
    "DATABASE_URL",
    "DJANGO_DEBUG",
    "STORE_MEMORY",
    "TRUSTED_PROXY_COUNT",
    "METRICS_TOKEN",
    "MESSAGING_RATE_LIMIT_SCALE",
    "MESSAGING_RECOVERY",
    "SIGN_UP",
    "PYTHONUNBUFFERED",  # an operator does not set it
    "EMAIL_URL",
):
    os.environ.pop(name, None)
os.environ.update(
    DATA_DIR=TEMPORARY,
    DJANGO_SECRET_KEY="only-for-tests",
    REDIS_URL=f"unix://{TEMPORARY}/valkey.sock",
)
# `DATABASE_URL` of the run, so that the same tests can be pointed at PostgreSQL.
if "TEST_DATABASE_URL" in os.environ:
    os.environ["DATABASE_URL"] = os.environ["TEST_DATABASE_URL"]

from chatsite.settings import *  # noqa: E402, F403
from chatsite.settings import DATABASES, STORAGES  # noqa: E402

# A file, not memory: live servers and threads share it, and it has the pragmas of a real installation.
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["TEST"] = {"NAME": str(Path(TEMPORARY) / "test.sqlite3")}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
# No test client requests a static file. Listing them all takes longer than most tests, and every client would do it.
SERVESTATIC_USE_FINDERS = False
SERVESTATIC_USE_STATIC_ROOT = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
