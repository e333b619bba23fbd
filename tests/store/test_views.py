"""The HTTP side: pages, the check of a handshake, health, and rooms and people as JSON."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from http import HTTPStatus
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import AsyncClient

from messaging import policy as policies
from messaging.bridge import in_db_thread
from messaging.expiry import reports
from messaging.models import Membership, Room
from messaging.policy import Rate
from messaging.rooms import actions as rooms
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.members import Members
from messaging.store.records import AckRow, Append
from tests.support.expired_records import NOW, expired, missed
from tests.support.people import in_store, person, room_of, rows_of

pytestmark = pytest.mark.usefixtures("verbs")
ORIGIN = settings.SITE_ORIGINS[0]


@pytest.fixture
async def client(ada: User) -> AsyncClient:
    """Return ada's browser."""
    return await browser_of(ada)


async def browser_of(user: User) -> AsyncClient:
    browser = AsyncClient()
    await browser.aforce_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return browser


async def ask(client: AsyncClient, method: str, path: str, data: Any = None) -> tuple[int, Any]:
    """Return the status and the decoded JSON of an answer."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    answer = await client.generic(method, path, body, content_type="application/json")
    return answer.status_code, json.loads(answer.content) if answer.content else None


async def refusal(client: AsyncClient, method: str, path: str, data: Any = None) -> tuple[int, str]:
    """Return status and code of an error answer, which also has a sentence."""
    status, answer = await ask(client, method, path, data)
    assert answer["error"]["detail"]
    return status, answer["error"]["code"]


async def database_away(*_: object, **__: object) -> None:
    raise OperationalError("the database is away")


# ── Pages ──


@pytest.mark.parametrize("path", ["/", "/r/abc/", "/r/abc/7/"])
async def test_anonymous_user_is_sent_to_the_login_and_back(verbs: None, path: str) -> None:
    answer = await AsyncClient().get(path)
    assert (answer.status_code, answer["Location"]) == (302, f"/accounts/login/?next={path}")


async def test_the_page_has_the_data_that_its_script_needs(client: AsyncClient, ada: User) -> None:
    answer = await client.get("/r/abc/7/", headers={"Accept-Language": "zh-hans"})

    assert answer.context["boot"] == {
        "user": {"id": ada.pk, "name": "ada"},
        "room": "abc",
        "seq": 7,
        "language": "zh-hans",
        "dead_letter_retention_s": 604_800,
    }
    assert b'id="boot"' in answer.content
    assert "csrftoken" in answer.cookies
    assert "no-store" in answer["Cache-Control"]


async def test_the_page_without_a_room_is_the_whole_chat(client: AsyncClient) -> None:
    answer = await client.get("/")
    assert (answer.context["boot"]["room"], answer.context["boot"]["seq"]) == (None, None)


@pytest.mark.parametrize(
    "path",
    [f"/r/{'a' * 33}/", "/r/a%00b/", "/r/a b/", "/r/abc/-1/", f"/r/abc/{2**53}/", f"/r/abc/{'9' * 30}/"],
)
async def test_invalid_room_or_seq_is_404(client: AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == HTTPStatus.NOT_FOUND


async def test_a_name_with_markup_stays_text_in_the_page(verbs: None) -> None:
    client = await browser_of(await person("<script>alert(1)</script>"))
    content = (await client.get("/")).content
    assert b"<script>alert" not in content


# ── Check of a handshake ──


@pytest.mark.parametrize("origin", [None, *settings.SITE_ORIGINS])
async def test_the_check_lets_a_session_in_from_the_sites_pages_and_without_an_origin(
    client: AsyncClient, origin: str | None
) -> None:
    headers = {"Origin": origin} if origin else {}
    answer = await client.get("/ws/chat/check/", headers=headers)
    assert answer.status_code == HTTPStatus.NO_CONTENT
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", ORIGIN.replace("http:", "https:"), f"{ORIGIN}0", f"{ORIGIN}/", ""],
)
async def test_check_refuses_a_foreign_origin_with_and_without_a_session(
    client: AsyncClient, origin: str
) -> None:
    for browser in (client, AsyncClient()):
        answer = await browser.get("/ws/chat/check/", headers={"Origin": origin})
        assert answer.status_code == HTTPStatus.FORBIDDEN


async def test_check_is_401_without_a_session(verbs: None) -> None:
    assert (await AsyncClient().get("/ws/chat/check/")).status_code == HTTPStatus.UNAUTHORIZED


async def test_check_is_401_for_a_deactivated_user(client: AsyncClient, ada: User) -> None:
    await User.objects.filter(pk=ada.pk).aupdate(is_active=False)
    assert (await client.get("/ws/chat/check/")).status_code == HTTPStatus.UNAUTHORIZED


async def test_check_is_503_while_the_session_cannot_be_read(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.contrib.auth.middleware.auser", database_away)
    assert (await client.get("/ws/chat/check/")).status_code == HTTPStatus.SERVICE_UNAVAILABLE


async def test_check_does_not_use_the_store(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messaging.store._stores", None)
    assert (await client.get("/ws/chat/check/")).status_code == HTTPStatus.NO_CONTENT


# ── Health ──


async def test_healthz_uses_neither_database_nor_store(monkeypatch: pytest.MonkeyPatch, verbs: None) -> None:
    monkeypatch.setattr("messaging.store._stores", None)
    assert (await AsyncClient().get("/healthz")).content == b"ok\n"


async def test_readyz_is_200_when_database_and_store_answer(verbs: None) -> None:
    assert await ask(AsyncClient(), "GET", "/readyz") == (200, {"database": True, "store": True})


async def test_readyz_names_the_part_that_does_not_answer(
    verbs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise OperationalError

    monkeypatch.setattr("messaging.web.probes._ask_database", away)
    assert await ask(AsyncClient(), "GET", "/readyz") == (503, {"database": False, "store": True})


# ── Every address of the API ──

ADDRESSES = [
    ("GET", "/api/rooms/public/"),
    ("POST", "/api/rooms/"),
    ("GET", "/api/rooms/abc/"),
    ("PATCH", "/api/rooms/abc/"),
    ("POST", "/api/rooms/abc/join/"),
    ("POST", "/api/rooms/abc/leave/"),
    ("POST", "/api/rooms/leave/"),
    ("GET", "/api/rooms/abc/members/"),
    ("POST", "/api/rooms/abc/members/"),
    ("DELETE", "/api/rooms/abc/members/7/"),
    ("POST", "/api/direct/"),
    ("GET", "/api/people/"),
    ("GET", "/api/rooms/abc/messages/7/recipients/"),
    ("GET", "/api/rooms/abc/lifetimes/"),
    ("POST", "/api/rooms/abc/shorten/"),
    ("GET", "/api/notices/"),
    ("GET", "/api/notices/abc/missing/"),
]
TAKING_A_BODY = [
    ("POST", "/api/rooms/"),
    ("PATCH", "/api/rooms/abc/"),
    ("POST", "/api/rooms/leave/"),
    ("POST", "/api/direct/"),
    ("POST", "/api/rooms/abc/shorten/"),
]


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
async def test_anonymous_user_gets_401(verbs: None, method: str, path: str) -> None:
    assert await refusal(AsyncClient(), method, path, {}) == (401, "not_logged_in")


@pytest.mark.parametrize(("method", "path"), [pair for pair in ADDRESSES if pair[0] != "GET"])
async def test_writing_needs_the_csrf_token(verbs: None, ada: User, method: str, path: str) -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    await client.aforce_login(ada, backend="django.contrib.auth.backends.ModelBackend")
    assert await refusal(client, method, path, {}) == (403, "forbidden")


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
async def test_another_method_is_refused_with_those_that_are_taken(
    client: AsyncClient, method: str, path: str
) -> None:
    answer = await client.put(path)
    assert answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    assert method in answer["Allow"]


BAD_BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "null": b"null",
    "not UTF-8": b'{"name": "\xff"}',
    "a lone surrogate": b'{"name": "\\ud800"}',
    "a number for a name": b'{"name": 7}',
    "NaN": b'{"name": "a", "kind": "public", "ttl": NaN}',
    "100,000 brackets": b"[" * 60_000,
    "brackets in an unknown field": b'{"z": '
    + b"[" * 30_000
    + b"]" * 30_000
    + b', "name": "a", "kind": "public"}',
}


@pytest.mark.parametrize(("method", "path"), TAKING_A_BODY)
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_invalid_body_is_400(client: AsyncClient, method: str, path: str, body: bytes) -> None:
    assert await refusal(client, method, path, body) == (400, "bad_request")


@pytest.mark.parametrize(("method", "path"), TAKING_A_BODY)
async def test_a_body_over_64_kib_is_413_and_one_below_is_read(
    client: AsyncClient, method: str, path: str
) -> None:
    assert await refusal(client, method, path, b" " * 65_537) == (413, "too_large")
    assert await refusal(client, method, path, b" " * 65_536) == (400, "bad_request")


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "nonsense"]
)
async def test_a_form_is_no_json(client: AsyncClient, content_type: str) -> None:
    answer = await client.generic("POST", "/api/rooms/", b"--x\r\n\r\nname=a\r\n", content_type=content_type)
    assert answer.status_code == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
async def test_an_unavailable_database_is_503(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr("django.contrib.auth.middleware.auser", database_away)
    assert await refusal(client, method, path, {}) == (503, "unavailable")


async def test_an_unavailable_store_is_503(
    client: AsyncClient, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(grace, kind="public")

    async def away(*_: object) -> None:
        raise rooms.Unavailable()

    monkeypatch.setattr(Members, "join", away)
    assert await refusal(client, "POST", f"/api/rooms/{room.id}/join/") == (503, "unavailable")


# ── Rooms ──


async def test_a_room_is_created_with_the_given_fields(client: AsyncClient, grace: User) -> None:
    wanted = {
        "name": "Atlas",
        "kind": "private",
        "topic": "launch",
        "ttl": 60,
        "ttl_max": 600,
        "members": ["grace"],
    }
    status, made = await ask(client, "POST", "/api/rooms/", wanted)

    assert status == HTTPStatus.CREATED
    assert await ask(client, "GET", f"/api/rooms/{made['room']}/") == (
        200,
        {
            "room": made["room"],
            "name": "Atlas",
            "kind": "private",
            "topic": "launch",
            "ttl": 60,
            "ttl_max": 600,
            "tracked": True,
            "role": "owner",
            "members_total": 2,
        },
    )


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"name": "a"}, 400, "bad_request"),
        ({"name": "a", "kind": "direct"}, 400, "bad_request"),
        ({"name": "a", "kind": "public", "ttl": 1.5}, 400, "bad_request"),
        ({"name": "a", "kind": "public", "ttl": True}, 400, "bad_request"),
        ({"name": "a", "kind": "public", "ttl": "60"}, 400, "bad_request"),
        ({"name": "a", "kind": "public", "ttl": 0}, 400, "bad_ttl"),
        ({"name": "a", "kind": "public", "ttl": 9}, 400, "bad_ttl"),
        ({"name": "a", "kind": "public", "ttl": 10**12}, 400, "bad_ttl"),
        ({"name": "a", "kind": "public", "ttl": 10**30}, 400, "bad_ttl"),
        ({"name": "a", "kind": "public", "ttl_max": 28 * 86_400 + 1}, 400, "bad_ttl"),
        ({"name": " ", "kind": "public"}, 400, "bad_name"),
        ({"name": "a" * 81, "kind": "public"}, 400, "bad_name"),
        ({"name": "a\u202eb", "kind": "public"}, 400, "bad_name"),
        ({"name": "a\0b", "kind": "public"}, 400, "bad_name"),
        ({"name": "a", "kind": "public", "topic": "x" * 201}, 400, "bad_name"),
        ({"name": "a", "kind": "public", "members": "grace"}, 400, "bad_request"),
        ({"name": "a", "kind": "public", "members": ["nobody"]}, 404, "no_such_user"),
        ({"name": "a", "kind": "public", "members": ["x"] * 501}, 400, "bad_request"),
    ],
)
async def test_invalid_room_is_refused_with_a_code(
    client: AsyncClient, wanted: dict[str, Any], status: int, code: str
) -> None:
    assert await refusal(client, "POST", "/api/rooms/", wanted) == (status, code)
    assert not await Room.objects.aexists()


async def test_markup_in_names_is_kept_as_text(client: AsyncClient) -> None:
    _, made = await ask(
        client, "POST", "/api/rooms/", {"name": "<img src=x onerror=alert(1)>", "kind": "public"}
    )
    _, shown = await ask(client, "GET", f"/api/rooms/{made['room']}/")
    assert shown["name"] == "<img src=x onerror=alert(1)>"


async def test_public_rooms_are_listed_with_their_members_and_the_users_membership(
    client: AsyncClient, ada: User, grace: User
) -> None:
    other = await room_of(grace, kind="public", name="Reading")
    mine = await room_of(ada, grace, kind="public", name="lobby", topic="All")
    await room_of(ada, kind="private", name="Secret")

    _, listed = await ask(client, "GET", "/api/rooms/public/")
    _, found = await ask(client, "GET", "/api/rooms/public/?q=READ%00")

    reading = {"room": other.id, "name": "Reading", "topic": "", "members": 1, "joined": False}
    assert listed["rooms"] == [
        {"room": mine.id, "name": "lobby", "topic": "All", "members": 2, "joined": True},
        reading,
    ]
    assert found["rooms"] == [reading]


async def test_at_most_a_hundred_public_rooms_are_listed(client: AsyncClient) -> None:
    await Room.objects.abulk_create([Room(name=f"Room {number}", partition=0) for number in range(101)])
    _, listed = await ask(client, "GET", "/api/rooms/public/")
    assert len(listed["rooms"]) == 100


async def test_a_room_is_changed_in_part(client: AsyncClient, ada: User) -> None:
    room = await room_of(ada, topic="before")
    status, shown = await ask(client, "PATCH", f"/api/rooms/{room.id}/", {"ttl": 60})
    assert (status, shown["ttl"], shown["topic"]) == (200, 60, "before")


async def test_plain_member_cannot_change_a_room(client: AsyncClient, ada: User, grace: User) -> None:
    room = await room_of(grace, ada)
    assert await refusal(client, "PATCH", f"/api/rooms/{room.id}/", {"name": "mine"}) == (403, "forbidden")


async def test_lifetime_changes_are_listed_with_their_user_oldest_first(
    client: AsyncClient, ada: User, grace: User
) -> None:
    room = await room_of(ada, grace)
    for ttl in (60, 600):
        await ask(client, "PATCH", f"/api/rooms/{room.id}/", {"ttl": ttl})
    await ask(client, "PATCH", f"/api/rooms/{room.id}/", {"ttl": 600, "topic": "the same lifetime"})

    status, answer = await ask(await browser_of(grace), "GET", f"/api/rooms/{room.id}/lifetimes/")

    assert status == HTTPStatus.OK
    by = {"id": ada.pk, "name": "ada"}
    assert [{**change, "at": 0} for change in answer["lifetimes"]] == [
        {"at": 0, "by": by, "from": 3600, "to": 60},
        {"at": 0, "by": by, "from": 60, "to": 600},
    ]
    first, second = (change["at"] for change in answer["lifetimes"])
    assert 0 <= await open_store().now_ms() - second < 60_000
    assert first <= second


async def test_existing_messages_are_shortened_after_a_count(
    client: AsyncClient, ada: User, grace: User
) -> None:
    room = await room_of(ada, grace)
    await send(room, grace)
    path = f"/api/rooms/{room.id}/shorten/"

    counted = await ask(client, "POST", path, {"ttl": 30})
    done = await ask(client, "POST", path, {"ttl": 30, "dry_run": False})
    again = await ask(client, "POST", path, {"ttl": 30, "dry_run": False})

    assert counted == done == (200, {"looked": 1, "shortened": 1, "ended": 0})
    assert again == (200, {"looked": 1, "shortened": 0, "ended": 0})


@pytest.mark.parametrize("ttl", [9, 0, -1, 28 * 86_400 + 1, 10**12])
async def test_a_lifetime_outside_the_bounds_is_refused_with_them(
    client: AsyncClient, ada: User, ttl: int
) -> None:
    room = await room_of(ada)
    for method, path in (("POST", f"/api/rooms/{room.id}/shorten/"), ("PATCH", f"/api/rooms/{room.id}/")):
        status, answer = await ask(client, method, path, {"ttl": ttl})
        assert (status, answer["error"]["code"]) == (400, "bad_ttl")
        assert "10 and 2419200" in answer["error"]["detail"]


@pytest.mark.parametrize("ttl", [b"1e999", b"NaN", b'"60"', b"60.5", b"true", b"null", b"[]"])
async def test_a_lifetime_that_is_no_whole_number_is_refused(
    client: AsyncClient, ada: User, ttl: bytes
) -> None:
    room = await room_of(ada)
    body = b'{"ttl": ' + ttl + b"}"
    assert await refusal(client, "POST", f"/api/rooms/{room.id}/shorten/", body) == (400, "bad_request")


async def test_plain_member_sees_the_lifetimes_but_cannot_shorten(
    client: AsyncClient, ada: User, grace: User
) -> None:
    room = await room_of(grace, ada)
    assert await refusal(client, "POST", f"/api/rooms/{room.id}/shorten/", {"ttl": 60}) == (403, "forbidden")
    assert await ask(client, "GET", f"/api/rooms/{room.id}/lifetimes/") == (200, {"lifetimes": []})


async def test_a_room_of_others_looks_like_an_unknown_room(client: AsyncClient, grace: User) -> None:
    room = await room_of(grace)
    for room_id in (room.id, "none"):
        for method, path in (
            ("GET", ""),
            ("PATCH", ""),
            ("GET", "members/"),
            ("POST", "join/"),
            ("POST", "leave/"),
            ("GET", "lifetimes/"),
            ("POST", "shorten/"),
        ):
            answer = await refusal(client, method, f"/api/rooms/{room_id}/{path}", {"ttl": 60})
            assert answer == (404, "not_member")


async def test_joining_and_leaving_a_public_room(client: AsyncClient, ada: User, grace: User) -> None:
    room = await room_of(grace, kind="public")

    assert await ask(client, "POST", f"/api/rooms/{room.id}/join/") == (200, {"room": room.id})
    assert await in_store(room, ada)
    assert await ask(client, "POST", f"/api/rooms/{room.id}/leave/") == (204, None)

    assert await rows_of(room) == {"grace": "owner"}
    assert await refusal(client, "POST", f"/api/rooms/{room.id}/leave/") == (404, "not_member")


# ── Members and people ──


async def test_a_member_is_added_once_and_removed(client: AsyncClient, ada: User, grace: User) -> None:
    room = await room_of(ada)
    path = f"/api/rooms/{room.id}/members/"

    assert await ask(client, "POST", path, {"name": "grace"}) == (201, {"user": grace.pk})
    assert await ask(client, "POST", path, {"name": "grace"}) == (200, {"user": grace.pk})
    assert await ask(client, "GET", path) == (
        200,
        {
            "members": [
                {"user": ada.pk, "name": "ada", "role": "owner"},
                {"user": grace.pk, "name": "grace", "role": "member"},
            ],
            "total": 2,
        },
    )
    assert await ask(client, "DELETE", f"{path}{grace.pk}/") == (204, None)
    assert await refusal(client, "DELETE", f"{path}{grace.pk}/") == (404, "no_such_user")
    assert await refusal(client, "POST", path, {"name": "nobody"}) == (404, "no_such_user")


async def test_a_removed_member_reads_nothing_any_more(client: AsyncClient, ada: User, grace: User) -> None:
    room = await room_of(ada, grace)
    graces = await browser_of(grace)
    await ask(client, "DELETE", f"/api/rooms/{room.id}/members/{grace.pk}/")
    assert await refusal(graces, "GET", f"/api/rooms/{room.id}/") == (404, "not_member")


async def test_members_come_in_pages_of_200(client: AsyncClient, ada: User) -> None:
    room = await room_of(ada)
    users = await User.objects.abulk_create([User(username=f"user{number}") for number in range(200)])
    await Membership.objects.abulk_create([Membership(room=room, user=user) for user in users])

    _, first = await ask(client, "GET", f"/api/rooms/{room.id}/members/")
    _, second = await ask(
        client, "GET", f"/api/rooms/{room.id}/members/?after={first['members'][-1]['user']}"
    )

    assert (len(first["members"]), len(second["members"]), first["total"]) == (200, 1, 201)


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30, "\u0661"])
async def test_page_of_members_begins_after_a_user_id(client: AsyncClient, ada: User, after: str) -> None:
    room = await room_of(ada)
    assert await refusal(client, "GET", f"/api/rooms/{room.id}/members/?after={after}") == (
        400,
        "bad_request",
    )


async def test_a_direct_room_is_opened_by_name(client: AsyncClient, grace: User) -> None:
    status, opened = await ask(client, "POST", "/api/direct/", {"name": "grace"})
    assert status == 200
    assert (await ask(client, "GET", f"/api/rooms/{opened['room']}/"))[1]["name"] == "grace"
    assert await refusal(client, "POST", f"/api/rooms/{opened['room']}/leave/") == (409, "conflict")
    assert await refusal(client, "POST", "/api/direct/", {"name": "ada"}) == (409, "conflict")
    assert await refusal(client, "POST", "/api/direct/", {"name": "gr\0ace"}) == (404, "no_such_user")


async def test_people_are_found_by_the_beginning_of_a_name_among_members_of_shared_rooms(
    client: AsyncClient, ada: User, grace: User
) -> None:
    await room_of(ada, grace)
    stranger = await person("graham")
    await person("greta", is_active=False)

    async def found(text: str) -> list[str]:
        _, answer = await ask(client, "GET", f"/api/people/?q={text}")
        return [one["name"] for one in answer["people"]]

    assert await found("gr") == ["grace"]
    assert await found("") == ["grace"]
    assert await found("Graham") == ["graham"]
    assert await found("ad") == []
    assert await found("gr%25") == []
    _, answer = await ask(client, "GET", "/api/people/?q=graham")
    assert answer["people"] == [{"user": stranger.pk, "name": "graham"}]


# ── Recipients of a message ──


async def send(
    room: Room, sender: User, *, id_: str = "0b0ff2a6-6a0e-4d3e-9d56-000000000001", only: tuple[int, ...] = ()
) -> int:
    message = Append(
        room=key_of(room),
        user=sender.pk,
        name=sender.username,
        id=id_,
        body="hello",
        ttl_ms=60_000,
        only=only,
    )
    [accepted] = await open_store().log.append([message])
    return accepted.seq  # type: ignore[union-attr]


async def test_the_sender_sees_who_holds_a_message_and_who_does_not(
    client: AsyncClient, ada: User, grace: User
) -> None:
    bob = await person("bob")
    room = await room_of(grace, ada, bob)
    seq = await send(room, ada)
    [place] = await open_store().log.positions([key_of(room)])
    assert place is not None
    await open_store().cursors.acknowledge([AckRow(key_of(room), place.epoch, bob.pk, seq, None)])

    status, answer = await ask(client, "GET", f"/api/rooms/{room.id}/messages/{seq}/recipients/")

    assert status == HTTPStatus.OK
    assert {key: answer[key] for key in ("seq", "total", "delivered", "read")} == {
        "seq": seq,
        "total": 2,
        "delivered": 1,
        "read": 0,
    }
    waiting, holding = answer["recipients"]
    assert (waiting["user"], waiting["name"], waiting["state"]) == (grace.pk, "grace", "waiting")
    assert (waiting["attempts"], waiting["next_at"], waiting["reason"]) == (0, None, "offline")
    assert (holding["user"], holding["name"], holding["state"]) == (bob.pk, "bob", "delivered")


async def test_only_users_without_any_connection_are_offline(
    client: AsyncClient, ada: User, grace: User
) -> None:
    bob, eve = await person("bob"), await person("eve")
    room = await room_of(ada, grace, bob, eve)
    seq = await send(room, ada)
    [place] = await open_store().log.positions([key_of(room)])
    assert place is not None
    await open_store().presence.report("elsewhere", [grace.pk], 60)
    await open_store().cursors.reject(key_of(room), bob.pk, place.epoch, seq)
    for attempt in range(policies.current().attempts_max):
        await open_store().retries.record_attempt(key_of(room), eve.pk, attempt, 5.0)

    _, answer = await ask(client, "GET", f"/api/rooms/{room.id}/messages/{seq}/recipients/")

    assert {row["name"]: row["reason"] for row in answer["recipients"]} == {
        "grace": None,
        "bob": "client_rejected",
        "eve": "no_ack",
    }
    await open_store().presence.report("elsewhere", [], 60)
    _, answer = await ask(client, "GET", f"/api/rooms/{room.id}/messages/{seq}/recipients/")
    assert {row["reason"] for row in answer["recipients"]} == {"offline", "client_rejected", "no_ack"}


async def test_moderators_see_recipients_and_plain_members_see_no_such_message(
    client: AsyncClient, ada: User, grace: User
) -> None:
    bob = await person("bob")
    room = await room_of(grace, ada, bob)
    path = f"/api/rooms/{room.id}/messages/{await send(room, ada)}/recipients/"

    assert (await ask(await browser_of(grace), "GET", path))[0] == HTTPStatus.OK
    assert await refusal(await browser_of(bob), "GET", path) == (404, "no_such_message")
    assert await refusal(await browser_of(await person("eve")), "GET", path) == (404, "not_member")


async def test_moderator_of_a_private_room_sees_recipients_of_messages_since_they_joined(
    client: AsyncClient, ada: User, grace: User
) -> None:
    for kind, status in (("private", HTTPStatus.NOT_FOUND), ("public", HTTPStatus.OK)):
        room = await room_of(grace, kind=kind)
        before = await send(room, grace)
        await rooms.add_member(grace.pk, room.id, "ada")
        await Membership.objects.filter(room=room, user=ada).aupdate(role="moderator")
        after = await send(room, grace, id_="0b0ff2a6-6a0e-4d3e-9d56-000000000002")
        path = f"/api/rooms/{room.id}/messages/%d/recipients/"

        assert (await ask(client, "GET", path % before))[0] == status
        assert (await ask(client, "GET", path % after))[0] == HTTPStatus.OK
        assert (await ask(await browser_of(grace), "GET", path % before))[0] == HTTPStatus.OK


async def test_moderator_sees_no_recipients_of_a_message_for_others(
    client: AsyncClient, ada: User, grace: User
) -> None:
    bob = await person("bob")
    room = await room_of(ada, grace, bob)
    seq = await send(room, grace, only=(bob.pk,))
    path = f"/api/rooms/{room.id}/messages/{seq}/recipients/"
    assert await refusal(client, "GET", path) == (404, "no_such_message")
    assert (await ask(await browser_of(grace), "GET", path))[0] == HTTPStatus.OK


@pytest.mark.parametrize("seq", [0, 2, 2**53 - 1])
async def test_a_seq_that_is_no_message_has_no_recipients(client: AsyncClient, ada: User, seq: int) -> None:
    room = await room_of(ada)
    await send(room, ada)
    path = f"/api/rooms/{room.id}/messages/{seq}/recipients/"
    assert await refusal(client, "GET", path) == (404, "no_such_message")


# ── Notices ──


async def test_a_sender_reads_every_notice_and_every_name(
    client: AsyncClient, ada: User, grace: User
) -> None:
    room = await Room.objects.acreate(name="Atlas")
    records = [expired(room, ada, missed(grace), seq, expires_at=NOW + seq) for seq in (1, 2, 3)]
    await in_db_thread(reports.record, records, NOW)

    _, first = await ask(client, "GET", "/api/notices/?limit=2")
    _, second = await ask(client, "GET", f"/api/notices/?limit=2&before={first['next']}")
    [oldest] = second["notices"]
    assert [row["data"]["seq"] for row in [*first["notices"], oldest]] == [3, 2, 1]
    assert second["next"] is None
    path = f"/api/notices/{oldest['notice']}/missing/"
    person_missing = {"user": grace.pk, "name": "grace", "reason": "offline", "attempts": 0}
    assert await ask(client, "GET", path) == (200, {"missing": [person_missing], "total": 1})
    assert await ask(client, "GET", f"{path}?after={grace.pk}") == (200, {"missing": [], "total": 1})

    other = await browser_of(grace)
    assert await ask(other, "GET", "/api/notices/") == (200, {"notices": [], "next": None})
    assert await refusal(other, "GET", path) == (404, "no_such_message")
    assert await refusal(client, "GET", "/api/notices/nothing/missing/") == (404, "no_such_message")
    assert await refusal(client, "GET", "/api/notices/?before=yesterday") == (400, "bad_request")
    assert await refusal(client, "GET", "/api/notices/?limit=-1") == (400, "bad_request")


# ── Limits ──


async def test_every_change_takes_a_token_and_without_one_it_is_429(
    client: AsyncClient, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada)
    writes = [(method, path.replace("abc", room.id)) for method, path in ADDRESSES if method != "GET"]
    limited = dataclasses.replace(policies.current(), write_rate=Rate(0.001, len(writes)))
    monkeypatch.setattr(policies, "current", lambda: limited)
    for method, path in writes:
        assert (await ask(client, method, path, {}))[0] != HTTPStatus.TOO_MANY_REQUESTS
    for method, path in writes:
        assert await refusal(client, method, path, {}) == (429, "rate_limited")
    answer = await client.post("/api/rooms/leave/", {"rooms": []}, content_type="application/json")
    assert 0 < int(answer["Retry-After"]) <= 1_000
    for method, path in ADDRESSES:
        if method == "GET":
            assert (await client.get(path)).status_code != HTTPStatus.TOO_MANY_REQUESTS
    other = await browser_of(grace)
    assert (await ask(other, "POST", "/api/rooms/leave/", {"rooms": []}))[0] == HTTPStatus.OK


async def test_maker_of_too_many_memberships_gets_429_and_room_stays_unmade(
    client: AsyncClient, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = dataclasses.replace(policies.current(), membership_rate=Rate(0.001, 3))
    monkeypatch.setattr(policies, "current", lambda: limited)
    new_room = {"name": "Atlas", "kind": "private", "members": ["grace"]}
    assert (await ask(client, "POST", "/api/rooms/", new_room))[0] == HTTPStatus.CREATED
    answer = await client.post("/api/rooms/", new_room, content_type="application/json")
    assert answer.status_code == HTTPStatus.TOO_MANY_REQUESTS
    assert int(answer["Retry-After"]) == pytest.approx(1_000, abs=60)
    assert await Room.objects.acount() == 1


async def test_refused_person_is_409_and_a_removed_one_403(
    client: AsyncClient, ada: User, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada, grace, kind="public")
    await rooms.remove_member(ada.pk, room.id, grace.pk)
    path = f"/api/rooms/{room.id}/join/"
    assert await refusal(await browser_of(grace), "POST", path) == (403, "removed")
    limited = dataclasses.replace(policies.current(), rooms_by_others_max=1, rooms_max=1)
    monkeypatch.setattr(policies, "current", lambda: limited)
    await room_of(grace, ada)
    path = f"/api/rooms/{room.id}/members/"
    assert await refusal(client, "POST", path, {"name": "grace"}) == (409, "not_addable")
    new_room = {"name": "Atlas", "kind": "private"}
    assert await refusal(client, "POST", "/api/rooms/", new_room) == (409, "too_many_rooms")


async def test_several_rooms_are_left_in_one_request(client: AsyncClient, ada: User, grace: User) -> None:
    left = [(await room_of(grace, ada)).id for _ in range(2)]
    direct = (await rooms.open_direct(grace.pk, "ada")).id
    answer = await ask(client, "POST", "/api/rooms/leave/", {"rooms": [*left, direct, "none"]})
    assert (answer[0], sorted(answer[1]["left"])) == (200, sorted(left))
    for invalid in (["x"] * 501, ["a\0b"], ["a/b"], [7]):
        path = "/api/rooms/leave/"
        assert await refusal(client, "POST", path, {"rooms": invalid}) == (400, "bad_request")


# ── Invalid input ──


async def test_no_invalid_input_leaves_a_traceback(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [
        "/api/rooms/%00/",
        "/api/rooms/..%2f/",
        "/api/people/?q=%ff%00%ed%a0%80",
        "/api/rooms/public/?q=%",
    ]
    with caplog.at_level(logging.ERROR):
        answers = await asyncio.gather(*(client.get(path) for path in paths))
    assert max(answer.status_code for answer in answers) < 500
    assert not caplog.records
