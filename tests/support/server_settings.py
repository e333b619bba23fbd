"""The settings of a server process under test: the site's own, with the policy numbers that the test shrinks."""

import json
import os

from chatsite.settings import *  # noqa: F403
from chatsite.settings import ASGI_APPLICATION, MESSAGING, STORAGES
from messaging.policy import Rate

asked = json.loads(os.environ.get("MESSAGING_FOR_TESTS", "{}"))
MESSAGING |= {name: Rate(*value) if isinstance(value, list) else value for name, value in asked.items()}
ASGI_APPLICATION = os.environ.get("APPLICATION_FOR_TESTS") or ASGI_APPLICATION
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES["staticfiles"] = {
    "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
}  # nothing is collected
