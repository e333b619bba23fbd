"""A server whose PostgreSQL accepts connections and never answers, like a frozen server or one behind a broken line."""

from __future__ import annotations

import http.client
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatsite.concurrency import MAX_REQUESTS
from chatsite.environment import POSTGRES_PATIENCE
from tests.support.sites import Site, shake_hands

pytestmark = pytest.mark.xdist_group("silent")  # they share a site

GIVEN_UP_S = POSTGRES_PATIENCE["connect_timeout"] + 1.5  # on a busy machine
COOKIE = ("Cookie", "sessionid=abcdefghijklmnopqrstuvwxyz012345")


@pytest.fixture(scope="module")
def site(django_db_setup: None) -> Iterator[Site]:
    """Return a site with a silent database."""
    folder = Path(tempfile.mkdtemp(prefix="chat-site-"))
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as silent:
        url = f"postgres://ada:secret@127.0.0.1:{silent.getsockname()[1]}/chat"
        site = Site(folder, database_url=url).start()
        yield site
        site.end()
    shutil.rmtree(folder)


def get(site: Site, path: str) -> tuple[int, float]:
    """Return the status of a page and the seconds that it took."""
    started_s = time.monotonic()
    asked = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    asked.request("GET", path, headers=dict([COOKIE]))
    status = asked.getresponse().status
    asked.close()
    return status, time.monotonic() - started_s


@pytest.mark.parametrize("path", ["/", "/admin/", "/readyz", "/ws/chat/check/"])
def test_a_page_is_given_up_after_three_seconds_with_a_503(site: Site, path: str) -> None:
    status, took_s = get(site, path)
    assert status == 503
    assert took_s < GIVEN_UP_S


def test_a_handshake_is_given_up_after_three_seconds_with_a_503(site: Site) -> None:
    started_s = time.monotonic()
    assert shake_hands(site, [COOKIE, ("Origin", site.origin)]) == 503
    assert time.monotonic() - started_s < GIVEN_UP_S


def test_many_pages_wait_in_turns_and_the_health_check_does_not_wait(site: Site) -> None:
    with ThreadPoolExecutor(2 * MAX_REQUESTS) as pool:
        pages = [pool.submit(get, site, "/") for _ in range(2 * MAX_REQUESTS)]
        checks = [get(site, "/healthz") for _ in range(10)]
        assert all(status == 200 and took_s < 1.5 for status, took_s in checks)
        answers = [page.result() for page in pages]
    assert {status for status, _ in answers} == {503}
    assert max(took_s for _, took_s in answers) < 2 * GIVEN_UP_S
