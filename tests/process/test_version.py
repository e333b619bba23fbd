"""The version has one source, and is shown by the command, the health check and the staff's pages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client

from chatsite.environment import BASE_DIR

VERSION = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]["version"]


def test_the_command_prints_the_version_of_the_product() -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "version"], cwd=BASE_DIR, capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == (f"{VERSION}\n", "", 0)


def test_the_health_check_has_the_version_in_a_header() -> None:
    answer = Client().get("/healthz")
    assert answer.content == b"ok\n"
    assert answer.headers["X-Chat-Version"] == VERSION == settings.VERSION


@pytest.mark.django_db
def test_the_footer_of_the_staff_pages_shows_the_version() -> None:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    page = client.get("/admin/auth/user/").content.decode()
    footer = re.search(r'<footer id="footer">(.*?)</footer>', page, re.DOTALL)
    assert footer is not None
    assert footer[1].strip() == f"Chat administration {VERSION}"


def test_the_newest_version_of_the_changelog_is_the_version_of_the_product() -> None:
    assert re.findall(r"^## (\d\S*)", (BASE_DIR / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == VERSION
