"""Authentication, beginning and end of sockets: real handshakes with a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, SESSION_KEY, get_user, get_user_model
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.utils import timezone

from chatsite.sessions import SessionStore
from messaging.live import directory
from messaging.live.greeting import MAX_GREETINGS
from messaging.models import Notice, Room
from tests.support import expired_records
from tests.support.clients import Wire
from tests.support.sites import Browser, Person, Site, later, people, person, room, shake_hands

Open = Callable[..., Any]

RECHECK_S = 0.3


async def test_a_handshake_at_another_address_is_refused_with_403(site: Site) -> None:
    ada = await later(person)("ada")
    for path in ("/ws/", "/ws/chat", "/nowhere/"):
        assert (
            await asyncio.to_thread(
                shake_hands, site, [("Origin", site.origin), ("Cookie", ada.cookie)], path=path
            )
            == 403
        )


async def status(site: Site, who: Person | None, *origin: str) -> int:
    headers = [("Origin", value) for value in origin] + ([("Cookie", who.cookie)] if who else [])
    return await asyncio.to_thread(shake_hands, site, headers)


async def check(site: Site, who: Person | None, origin: str = "") -> int:
    return await asyncio.to_thread(site.check, cookie=who.cookie if who else "", origin=origin)


async def test_a_foreign_null_or_missing_origin_is_refused_with_403(site: Site) -> None:
    ada = await later(person)("ada")
    for origin in (
        "http://evil.example",
        "null",
        "",
        site.origin + ".evil.example",
        site.origin.upper(),
        site.origin + "/",
    ):
        assert await status(site, ada, origin) == 403, origin
        assert await check(site, ada, origin or "null") == 403
    assert await status(site, ada) == 403
    assert await status(site, ada, site.origin) == 101
    assert await status(site, ada, f"http://localhost:{site.port}") == 101


async def test_two_origins_are_refused(site: Site) -> None:
    ada = await later(person)("ada")
    assert await status(site, ada, site.origin, "http://evil.example") in (400, 403)


async def test_without_a_session_the_socket_is_accepted_and_closed_with_4501(
    site: Site, open_wire: Open
) -> None:
    stranger = Person(0, "stranger", "sessionid=nonsense")
    for who in (
        None,
        stranger,
        Person(0, "odd", 'sessionid="; \\x; ='),
        Person(0, "nul", 'sessionid="aaaaaaaa\\000b"'),
        Person(0, "long", "sessionid=" + "x" * 4_000),
    ):
        wire = await open_wire(site, who)
        assert await wire.close_code() == 4501
        assert wire.frames == []
        assert await check(site, who) == 401


def test_a_session_key_with_a_nul_which_postgresql_refuses_is_none() -> None:
    assert SessionStore("a" * 32).session_key == "a" * 32
    assert SessionStore("a" * 32 + "\0").session_key is None


async def test_invalid_cookie_of_another_site_on_this_host_does_not_hide_the_session(
    site: Site, open_wire: Open
) -> None:
    ada = await later(person)("ada")
    odd = Person(ada.id, ada.name, f'theme={{"dark":1}}; a[b]=c d; bare; {ada.cookie}')
    assert await check(site, odd) == 204
    await (await open_wire(site, odd)).hello()


async def test_the_check_returns_the_reason_why_a_handshake_would_fail(site: Site) -> None:
    ada = await later(person)("ada")
    assert await check(site, ada) == 204
    assert await check(site, ada, site.origin) == 204
    assert await check(site, ada, "http://evil.example") == 403
    assert await check(site, None) == 401


async def test_a_deactivated_user_has_no_session(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    await later(get_user_model().objects.filter(pk=ada.id).update)(is_active=False)
    assert await (await open_wire(site, ada)).close_code() == 4501


async def test_session_that_is_expired_or_of_another_password_or_backend_is_none(
    site: Site, open_wire: Open
) -> None:
    over, changed, elsewhere, well = [
        await later(person)(name) for name in ("ada", "grace", "alan", "edsger")
    ]
    keys = {who.name: who.cookie.partition("=")[2] for who in (over, changed, elsewhere, well)}
    yesterday = timezone.now() - timedelta(days=1)
    await later(Session.objects.filter(session_key=keys["ada"]).update)(expire_date=yesterday)
    await later(get_user_model().objects.filter(pk=changed.id).update)(password="another")

    def log_in_by(backend: str) -> None:
        session = SessionStore(keys["alan"])
        session[BACKEND_SESSION_KEY] = backend
        session.save()

    await later(log_in_by)("django.contrib.auth.backends.RemoteUserBackend")
    for who in (over, changed, elsewhere):
        assert await (await open_wire(site, who)).close_code() == 4501, who.name
    await (await open_wire(site, well)).hello()


@pytest.mark.django_db
def test_sessions_are_judged_together_as_django_judges_each(settings: Any) -> None:
    people = [person(name) for name in ("ada", "grace", "alan")]
    keys = [who.cookie.partition("=")[2] for who in people]
    for odd in ("9" * 30, "abc", "", "-1"):
        session = SessionStore()
        session[SESSION_KEY] = odd
        session.save()
        assert directory._visitors([session.session_key]) == {session.session_key: None}
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another" * 8
    get_user_model().objects.filter(pk=people[1].id).update(password="another")
    found = directory._visitors([*keys, "nonsense", ""])

    def djangos(key: str) -> int | None:
        request = HttpRequest()
        request.session = SessionStore(key)
        return get_user(request).pk

    assert {key: who and who.user for key, who in found.items()} == {key: djangos(key) for key in found}
    assert [found[key] and found[key].name for key in keys] == ["ada", None, "alan"]  # type: ignore[union-attr]


async def test_a_hello_of_another_version_closes_with_4504(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    for version in (0, 2, -1, 10**30):
        wire = await open_wire(site, ada)
        await wire.send({"type": "hello", "v": version, "rooms": []})
        assert await wire.close_code() == 4504
        assert wire.frames == []


async def test_a_hello_of_another_version_may_have_other_fields(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    wire = await open_wire(site, ada)
    await wire.send({"type": "hello", "v": 2, "logs": {"atlas": 7}})
    assert await wire.close_code() == 4504


async def test_the_first_frame_must_be_hello(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    wire = await open_wire(site, ada)
    await wire.send({"type": "ping", "n": 1})
    error = await wire.next("error")
    assert (error["code"], error["of"]) == ("bad_frame", "ping")
    await wire.hello()
    assert not wire.heard("pong")


async def test_a_second_hello_is_a_bad_frame(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    wire = await open_wire(site, ada)
    await wire.hello()
    await wire.send({"type": "hello", "v": 1, "rooms": []})
    error = await wire.next("error")
    assert (error["code"], error["of"]) == ("bad_frame", "hello")
    await wire.fence()
    assert len(wire.heard("welcome")) == 1


async def test_without_hello_in_time_the_socket_is_closed_with_4402(new_site: Open, open_wire: Open) -> None:
    site = new_site(hello_timeout_s=0.5)
    ada = await later(person)("ada")
    silent = await open_wire(site, ada)
    greeted = await open_wire(site, ada)
    await greeted.hello()
    assert await silent.close_code() == 4402
    await greeted.fence()


async def test_time_that_a_hello_waits_in_the_server_does_not_count(new_site: Open, open_wire: Open) -> None:
    site = new_site(hello_timeout_s=0.5)
    ada, grace, alan = await later(people)("ada", "grace", "alan")
    await later(room)(ada, grace)

    async def come(who: Person) -> Wire:
        wire: Wire = await open_wire(site, who)
        await wire.send({"type": "hello", "v": 1, "rooms": []})
        return wire

    site.store.freeze()
    wires = [await come(who) for who in [ada, grace] * (MAX_GREETINGS // 2 + 3)]
    silent = await open_wire(site, alan)
    assert await silent.close_code() == 4402
    site.store.thaw()
    for wire in wires:
        await wire.next("welcome")


async def test_the_twenty_first_connection_of_a_user_is_closed_with_4429(site: Site, open_wire: Open) -> None:
    ada, grace = await later(people)("ada", "grace")
    wires = [await open_wire(site, ada) for _ in range(20)]
    for wire in wires:
        await wire.hello()
    assert await (await open_wire(site, ada)).close_code() == 4429
    await (await open_wire(site, grace)).hello()
    await wires[0].aclose()
    await wires[1].fence()
    await (await open_wire(site, ada)).hello()


async def test_a_session_that_cannot_be_checked_is_503_and_messages_still_flow(
    new_site: Open, open_wire: Open
) -> None:
    site = new_site(recheck_interval_s=RECHECK_S)
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    wires = [await open_wire(site, who) for who in (ada, grace)]
    for wire in wires:
        await wire.hello()
        await wire.next("resumed")
    site.take_database_away()
    try:
        assert await status(site, ada, site.origin) == 503
        assert await check(site, ada) == 503
        sent = await wires[0].post(atlas, "still here")
        await wires[1].next("message", body="still here")
        await wires[1].ack(atlas, sent["epoch"], delivered=1)
        await wires[0].told(1, 1, 0, 1)
        await asyncio.sleep(
            2 * RECHECK_S
        )  # the look at sessions and memberships finds no answer, which is not a no
        await wires[1].post(atlas, "so am I")
        await wires[0].next("message", body="so am I")
    finally:
        site.bring_database_back()
    assert await check(site, ada) == 204
    await (await open_wire(site, ada)).hello()


async def test_pages_say_that_the_database_does_not_answer(new_site: Open) -> None:
    site = new_site()
    ada = await later(person)("ada")

    def page(path: str, language: str) -> tuple[int, str | None, str]:
        asked = Request(site.origin + path, headers={"Cookie": ada.cookie, "Accept-Language": language})
        try:
            answer: Any = urlopen(asked, timeout=10)
        except HTTPError as refusal:
            answer = refusal
        return answer.status, answer.headers["Retry-After"], answer.read().decode()

    assert (await asyncio.to_thread(page, "/", "en"))[0] == 200
    site.take_database_away()
    for path, language, words in (
        ("/", "en", "The chat is not available right now"),
        ("/", "zh-hans", "聊天暂时无法使用"),
        ("/admin/", "en", "Accepted messages are safe."),
    ):
        status, retry_after, text = await asyncio.to_thread(page, path, language)
        assert (status, retry_after) == (503, "5"), path
        assert words in text
    site.bring_database_back()
    assert (await asyncio.to_thread(page, "/", "en"))[0] == 200


async def test_a_hello_that_meets_an_absent_database_is_closed_with_1013(
    new_site: Open, open_wire: Open
) -> None:
    site = new_site()
    ada = await later(person)("ada")
    await later(room)(ada)
    wire = await open_wire(site, ada)
    await asyncio.to_thread(site.check)
    site.take_database_away()
    try:
        await wire.send({"type": "hello", "v": 1, "rooms": []})
        assert await wire.close_code() == 1013
    finally:
        site.bring_database_back()


# A session that ends while it is connected


async def connected(site: Site, open_wire: Open, *names: str) -> list[tuple[Person, Wire]]:
    members = await later(people)(*names)
    await later(room)(*members)
    wires = [await open_wire(site, member) for member in members]
    for wire in wires:
        await wire.hello()
        await wire.next("resumed")
    return list(zip(members, wires, strict=True))


async def test_logging_out_closes_that_sessions_sockets_with_4501(site: Site, open_wire: Open) -> None:
    (ada, ada_wire), (_, grace_wire) = await connected(site, open_wire, "ada", "grace")
    second = await open_wire(site, ada)
    await second.hello()
    await asyncio.to_thread(Browser(site, ada).post, "/accounts/logout/")
    assert await ada_wire.close_code() == 4501
    assert await second.close_code() == 4501
    await grace_wire.fence()


async def test_a_new_password_closes_the_other_sessions_sockets_with_4501(
    site: Site, open_wire: Open
) -> None:
    (ada, ada_wire), (_, grace_wire) = await connected(site, open_wire, "ada", "grace")
    new = "a longer wish for 2026"
    fields = {"oldpassword": "password of ada", "password1": new, "password2": new}
    await asyncio.to_thread(Browser(site, ada).post, "/accounts/password/change/", **fields)
    user = await later(get_user_model().objects.get)(pk=ada.id)
    assert await later(user.check_password)(new)
    assert await ada_wire.close_code() == 4501
    await grace_wire.fence()


async def test_a_control_event_ends_a_deactivated_user_at_once(site: Site, open_wire: Open) -> None:
    (ada, ada_wire), (_, grace_wire) = await connected(site, open_wire, "ada", "grace")
    await later(get_user_model().objects.filter(pk=ada.id).update)(is_active=False)
    await site.announce("user_ended", user=ada.id)
    assert await ada_wire.close_code() == 4501
    await grace_wire.fence()


def _deactivate(who: Person) -> None:
    get_user_model().objects.filter(pk=who.id).update(is_active=False)


def _log_out(who: Person) -> None:
    Session.objects.filter(session_key=who.cookie.partition("=")[2]).delete()


def _change_password(who: Person) -> None:
    get_user_model().objects.filter(pk=who.id).update(password="another hash")


@pytest.mark.xdist_group("recheck")
@pytest.mark.parametrize("end", [_deactivate, _log_out, _change_password])
async def test_an_end_that_nobody_announced_is_found_at_the_next_look(
    pooled_site: Open, open_wire: Open, end: Callable[[Person], None]
) -> None:
    site = pooled_site(recheck_interval_s=RECHECK_S)
    (ada, ada_wire), (_, grace_wire) = await connected(site, open_wire, "ada", "grace")
    await later(end)(ada)
    assert await ada_wire.close_code() == 4501
    await grace_wire.fence()
    assert await check(site, ada) == 401


@pytest.mark.xdist_group("recheck")
async def test_a_notice_that_nobody_announced_is_sent_once_at_the_next_check(
    pooled_site: Open, open_wire: Open
) -> None:
    site = pooled_site(recheck_interval_s=RECHECK_S)
    ada, grace = await later(people)("ada", "grace")
    room_id = await later(room)(ada, grace)
    wires = [await open_wire(site, ada) for _ in range(2)]
    for wire in wires:
        await wire.hello()
        await wire.next("resumed")

    def report() -> str:
        row, now_ms = Room.objects.get(pk=room_id), round(time.time() * 1000)
        [sender, absent] = User.objects.filter(pk__in=[ada.id, grace.id]).order_by("pk")
        letter = expired_records.letter(row, sender, absent, now_ms=now_ms, expires_at=now_ms - 5_000)
        return str(Notice.objects.get(dead_letter=letter).pk)

    notice = await later(report)()
    for wire in wires:
        assert (await wire.next("notice"))["notice"] == notice
    await later(Notice.objects.filter(pk=notice).update)(dismissed_at=timezone.now())
    for wire in wires:
        assert (await wire.next("notice"))["dismissed"]
    another = await later(report)()
    for wire in wires:
        assert (await wire.next("notice"))["notice"] == another
        assert [frame["notice"] for frame in wire.heard("notice")] == [notice, notice, another]


async def test_staff_may_close_a_users_sockets_and_they_may_come_back(site: Site, open_wire: Open) -> None:
    (ada, ada_wire), _ = await connected(site, open_wire, "ada", "grace")
    await site.announce("close_user", user=ada.id)
    assert await ada_wire.close_code() == 1012
    await (await open_wire(site, ada)).hello()
