"""Everything a client may get wrong, over a real socket: one `error`, an open socket, and no traceback on the server.

The fixture of the site fails a test whose server logged an error.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import faulty_site
from tests.support.clients import Frame, Wire, new_id
from tests.support.sites import Site, later, people, person, room

Open = Callable[..., Any]

ID = "0b8f6c1e-52b2-4d62-9a60-6f2f6d1f0a11"
RLO, ZWSP = "\u202e", "\u200b"

ERROR_FIELDS = {"type", "code", "detail", "retryable", "of"}


async def alone(site: Site, open_wire: Open) -> tuple[str, Wire]:
    ada = await later(person)("ada")
    atlas = await later(room)(ada)
    wire = await open_wire(site, ada)
    await wire.hello()
    await wire.next("resumed")
    return atlas, wire


async def refused(wire: Wire, text: str | bytes, code: str = "bad_frame") -> Frame:
    """Say something wrong; return the one `error` that answers it. The socket must still answer.

    The frames after the error are still to be read.
    """
    before = len(wire.heard("error"))
    await wire.say(text)
    await wire.next("error")
    after_error = wire.seen
    await wire.fence()
    wire.seen = after_error
    errors = wire.heard("error")[before:]
    assert len(errors) == 1, (text[:80], errors)
    assert errors[0].keys() >= ERROR_FIELDS
    assert (errors[0]["code"], errors[0]["retryable"]) == (code, False), (text[:80], errors[0])
    assert errors[0]["detail"]
    return errors[0]


async def chatty(wire: Wire, atlas: str, text: str) -> None:
    """Prove that the connection still does its work."""
    await wire.post(atlas, text)
    await wire.next("message", body=text)


NOT_FRAMES = [
    "",
    "hello",
    "{",
    "nul",
    "null",
    "3",
    '"send"',
    "[1]",
    "[[]]",
    "{}",
    '{"type":null}',
    '{"type":7}',
    '{"type":["send"]}',
    '{"type":"ping"}',
    '{"type":"ping","n":{}}',
    "\ufeff{}",
    "[" * 60_000,
    '{"type":"ping","n":' + "[" * 30_000 + "]" * 30_000 + "}",
    '{"a":' * 10_000,
]


@pytest.mark.parametrize("text", NOT_FRAMES, ids=lambda text: repr(text[:24]))
async def test_an_invalid_frame_gets_one_error_and_the_socket_stays(
    site: Site, open_wire: Open, text: str
) -> None:
    atlas, wire = await alone(site, open_wire)
    await refused(wire, text)
    await chatty(wire, atlas, "still here")


async def test_bytes_are_no_frame(site: Site, open_wire: Open) -> None:
    atlas, wire = await alone(site, open_wire)
    await refused(wire, b'{"type":"ping","n":1}')
    await chatty(wire, atlas, "still here")


async def test_text_that_is_not_utf_8_ends_in_1007_and_nothing_else(site: Site, open_wire: Open) -> None:
    _, wire = await alone(site, open_wire)
    await wire.socket.send(b"\xff\xfe{", text=True)
    assert await wire.close_code() == 1007
    site.forgive()  # uvicorn's own word about it


async def test_unknown_type_is_answered_and_does_not_count_as_a_bad_frame(
    site: Site, open_wire: Open
) -> None:
    atlas, wire = await alone(site, open_wire)
    for kind in ("nope", "welcome", "message", "", "Send", "x" * 64):
        for _ in range(3):
            error = await refused(wire, json.dumps({"type": kind}), "unknown_type")
            assert error["of"] == kind
    await chatty(wire, atlas, "still here")


async def test_an_array_of_a_hundred_and_one_frames_is_refused_whole(site: Site, open_wire: Open) -> None:
    atlas, wire = await alone(site, open_wire)
    frames = [{"type": "send", "id": new_id(), "room": atlas, "body": "no"} for _ in range(101)]
    await refused(wire, json.dumps(frames))
    await chatty(wire, atlas, "the first")
    assert [frame["seq"] for frame in wire.heard("message")] == [1]


async def test_a_bad_frame_in_an_array_does_not_affect_the_others(site: Site, open_wire: Open) -> None:
    atlas, wire = await alone(site, open_wire)
    good = [{"type": "send", "id": new_id(), "room": atlas, "body": body} for body in ("a", "b")]
    error = await refused(wire, json.dumps([good[0], {"type": "ping", "n": -1}, good[1]]))
    assert error["of"] == "ping"
    await wire.next("message", body="b")
    assert [frame["body"] for frame in wire.heard("message")] == ["a", "b"]


async def test_an_empty_array_is_nothing(site: Site, open_wire: Open) -> None:
    _, wire = await alone(site, open_wire)
    await wire.say("[]")
    await wire.fence()
    assert not wire.heard("error")


@pytest.mark.parametrize("size", [65_536, 65_537])
async def test_more_than_64_kib_closes_with_1009(site: Site, open_wire: Open, size: int) -> None:
    _, wire = await alone(site, open_wire)
    text = '{"type":"ping","n":7,"pad":"' + "x" * (size - 30) + '"}'
    assert len(text) == size
    await wire.say(text)
    if size <= 65_536:
        await wire.next("pong", n=7)
    else:
        assert await wire.close_code() == 1009


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"body": ""}, "body_empty"),
        ({"body": " \n\t\u2003"}, "body_empty"),
        ({"body": "x" * 4_001}, "body_too_long"),
        ({"body": "a\0b"}, "bad_frame"),
        ({"body": 7}, "bad_frame"),
        ({"body": None}, "bad_frame"),
        ({"ttl": 0}, "bad_ttl"),
        ({"ttl": 9}, "bad_ttl"),
        ({"ttl": 10**12}, "bad_ttl"),
        ({"ttl": -5}, "bad_frame"),
        ({"ttl": 60.0}, "bad_frame"),
        ({"ttl": "60"}, "bad_frame"),
        ({"ttl": True}, "bad_frame"),
        ({"reply_to": 99}, "no_such_message"),
        ({"reply_to": 0}, "no_such_message"),
        ({"reply_to": -1}, "bad_frame"),
        ({"reply_to": 10**30}, "bad_frame"),
        ({"room": "no-such-room"}, "not_member"),
        ({"room": "x" * 200}, "not_member"),
        ({"room": 'a"b\n{0}:c'}, "not_member"),
        ({"room": 5}, "bad_frame"),
        ({"id": ID.upper()}, "bad_frame"),
        ({"id": ID + "\n"}, "bad_frame"),
        ({"id": "\n" + ID}, "bad_frame"),
        ({"id": ID.replace("-", "")}, "bad_frame"),
        ({"id": "{" + ID + "}"}, "bad_frame"),
        ({"id": ""}, "bad_frame"),
        ({"id": None}, "bad_frame"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_send_that_cannot_be_is_answered_with_its_id_and_room(
    site: Site, open_wire: Open, changes: Frame, code: str
) -> None:
    atlas, wire = await alone(site, open_wire)
    frame = {"type": "send", "id": ID, "room": atlas, "body": "hello", **changes}
    error = await refused(wire, json.dumps(frame), code)
    assert error["of"] == "send"
    for name in ("id", "room"):
        if isinstance(frame[name], str) and len(frame[name]) <= 64:
            assert error[name] == frame[name]
    await chatty(wire, atlas, "still here")
    assert [frame["seq"] for frame in wire.heard("message")] == [1]


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"send","id":"%s","room":"%s","body":"a\\ud800b"}',
        '{"type":"send","id":"%s","room":"%s","body":"a\\udc00"}',
        '{"type":"send","id":"%s","room":"%s","body":"hi","ttl":NaN}',
        '{"type":"send","id":"%s","room":"%s","body":"hi","ttl":Infinity}',
        '{"type":"send","id":"%s","room":"%s","body":"hi","ttl":123456789012345678901234567890}',
        '{"type":"send","id":"%s","room":"%s","body":"hi","ttl":1e1}',
    ],
)
async def test_an_error_for_invalid_json_still_names_the_message(
    site: Site, open_wire: Open, text: str
) -> None:
    atlas, wire = await alone(site, open_wire)
    error = await refused(wire, text % (ID, atlas))
    assert (error["of"], error["id"], error["room"]) == ("send", ID, atlas)
    await chatty(wire, atlas, "still here")


# Nine: the tenth bad frame in a minute closes.
WRONG_NUMBERS = ["-1", "1.0", "1e2", "true", '"1"', "NaN", "9007199254740992", "1" * 30, "[1]"]


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"ping","n":%s}',
        '{"type":"sync","room":"r","epoch":"e","since":%s}',
        '{"type":"sync","room":"r","epoch":"e","since":0,"rev":%s}',
        '{"type":"sync","room":"r","epoch":"e","since":0,"limit":%s}',
        '{"type":"history","room":"r","before":%s}',
        '{"type":"ack","rooms":[{"room":"r","epoch":"e","delivered":%s}]}',
        '{"type":"ack","rooms":[{"room":"r","epoch":"e","read":%s}]}',
        '{"type":"edit","room":"r","seq":%s,"body":"x"}',
        '{"type":"delete","room":"r","seq":%s}',
        '{"type":"extend","room":"r","seq":%s,"ttl":60}',
        '{"type":"extend","room":"r","seq":1,"ttl":%s}',
        '{"type":"resend","room":"r","seq":%s,"id":"0b8f6c1e-52b2-4d62-9a60-6f2f6d1f0a11"}',
        '{"type":"resend","room":"r","seq":1,"id":"0b8f6c1e-52b2-4d62-9a60-6f2f6d1f0a11","ttl":%s}',
        '{"type":"reject","room":"r","epoch":"e","seq":%s,"reason":"x"}',
    ],
)
async def test_a_number_is_a_whole_one_from_0_to_2_53(site: Site, open_wire: Open, frame: str) -> None:
    _, wire = await alone(site, open_wire)
    for number in WRONG_NUMBERS:
        await refused(wire, frame % number)


async def test_a_limit_below_one_is_refused_and_one_above_the_most_is_cut(
    site: Site, open_wire: Open
) -> None:
    atlas, wire = await alone(site, open_wire)
    epoch = (await wire.post(atlas, "hello"))["epoch"]
    for kind, held in (("sync", {"epoch": epoch, "since": 0}), ("history", {"before": 9})):
        await refused(wire, json.dumps({"type": kind, "room": atlas, "limit": 0, **held}))
        await wire.send({"type": kind, "room": atlas, "limit": 2**53 - 1, **held})
        answer = await wire.next("resumed" if kind == "sync" else kind)
        assert len(answer["messages"]) == 1


async def test_a_hello_with_five_hundred_and_one_rooms_is_a_bad_frame(site: Site, open_wire: Open) -> None:
    ada = await later(person)("ada")
    wire = await open_wire(site, ada)
    rooms = [{"room": f"room{n}", "epoch": "e", "since": 0} for n in range(501)]
    await wire.send({"type": "hello", "v": 1, "rooms": rooms})
    assert (await wire.next("error"))["code"] == "bad_frame"
    await wire.hello(*rooms[:500])
    await wire.fence()
    assert len(wire.heard("resumed", ok=False, why="not_member", epoch=None)) == 500


async def test_ten_bad_frames_in_a_minute_close_with_4400(site: Site, open_wire: Open) -> None:
    _, wire = await alone(site, open_wire)
    for _ in range(9):
        await refused(wire, "{")
    await wire.say("{")
    assert await wire.close_code() == 4400
    assert len(wire.heard("error")) == 10


ODD_TEXTS = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "javascript:alert(1) [x](javascript:alert(1)) data:text/html,<b>",
    '"},{"type":"bye"}]\n"M x\n1 0 1 -',
    f"{RLO}evil{ZWSP}\u2066\u0085\u2028\u2029\x7f\x01",
    "&lt;b&gt; %00 \\u0000 \\ / '",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 e\u0301 \ufffe \U0010ffff",
]


async def test_markup_and_links_are_text_and_return_unchanged(site: Site, open_wire: Open) -> None:
    atlas, wire = await alone(site, open_wire)
    for body in ODD_TEXTS:
        await chatty(wire, atlas, body)
    await wire.send({"type": "history", "room": atlas, "before": 99})
    history = (await wire.next("history"))["messages"]
    assert [frame["body"] for frame in history] == [frame["body"] for frame in wire.heard("message")]


async def test_text_of_an_edit_returns_unchanged(site: Site, open_wire: Open) -> None:
    atlas, wire = await alone(site, open_wire)
    epoch = (await wire.post(atlas, "hello"))["epoch"]
    for rev, body in enumerate([*ODD_TEXTS, "\U0001d4b3" * 4_000], 1):
        await wire.send({"type": "edit", "room": atlas, "seq": 1, "body": body})
        assert (await wire.next("edited", rev=rev))["body"] == body
        await wire.send({"type": "sync", "room": atlas, "epoch": epoch, "since": 1, "rev": rev - 1})
        [message] = (await wire.next("resumed"))["changed"]
        assert message["body"] == body


async def test_names_cannot_break_a_frame(site: Site, open_wire: Open) -> None:
    names = [RLO + '"},{"x":"\n1 2 3 -\n', "\U0001f600 \\", "<b>ada</b>"]
    members = await later(people)(*names)
    atlas = await later(room)(*members, name=f'{RLO}"\n</script>')
    wires = []
    for member in members:
        wire = await open_wire(site, member)
        welcome = await wire.hello()
        assert welcome["user"]["name"] == member.name
        wires.append(wire)
    for wire, member in zip(wires, members, strict=True):
        await wire.next("resumed")
        await wire.post(atlas, member.name)
    for wire in wires:
        for member in members:
            assert (await wire.next("message"))["from"] == {"id": member.id, "name": member.name}


async def test_a_room_of_ones_own_cannot_reach_into_anothers_keys(site: Site, open_wire: Open) -> None:
    ada, grace = await later(people)("ada", "grace")
    mine = await later(room)(ada)
    theirs = await later(room)(grace, kind="private")
    wire = await open_wire(site, ada)
    await wire.hello()
    await wire.next("resumed")
    for room_id in (theirs, f"{theirs}:live", f"{mine}:live", f"{mine}\n{theirs}"):
        frame = {"type": "send", "id": new_id(), "room": room_id, "body": "hello"}
        await refused(wire, json.dumps(frame), "not_member")
        await refused(wire, json.dumps({"type": "history", "room": room_id, "before": 9}), "not_member")
        await refused(wire, json.dumps({"type": "typing", "room": room_id}), "not_member")
    await chatty(wire, mine, "still here")


# Changes

LIFETIME = [  # what no lifetime is in a room whose own most is 600
    ({"ttl": 0}, "bad_ttl"),
    ({"ttl": 9}, "bad_ttl"),
    ({"ttl": 601}, "bad_ttl"),
    ({"ttl": 28 * 86_400 + 1}, "bad_ttl"),
    ({"ttl": 2**53 - 1}, "bad_ttl"),
    ({"ttl": -60}, "bad_frame"),
    ({"ttl": 60.0}, "bad_frame"),
    ({"ttl": "60"}, "bad_frame"),
    ({"ttl": True}, "bad_frame"),
    ({"ttl": float("nan")}, "bad_frame"),
    ({"ttl": float("inf")}, "bad_frame"),
    ({"ttl": 10**30}, "bad_frame"),
]
NOWHERE = [
    ({"seq": 0}, "no_such_message"),
    ({"seq": 2}, "no_such_message"),
    ({"seq": 2**53 - 1}, "no_such_message"),
    ({"epoch": "another"}, "no_such_message"),
    ({"room": "no-such-room"}, "not_member"),
    ({"room": 'a"b\n{0}:c'}, "not_member"),
    ({"seq": 2**63}, "bad_frame"),
    ({"seq": "1"}, "bad_frame"),
    ({"seq": -1}, "bad_frame"),
    ({"seq": None}, "bad_frame"),
    ({"room": None}, "bad_frame"),
    ({"epoch": 7}, "bad_frame"),
]
NO_CHANGES = {
    "edit": [
        [
            ({"body": ""}, "body_empty"),
            ({"body": " \n\t\u2003"}, "body_empty"),
            ({"body": "x" * 4_001}, "body_too_long"),
            ({"body": "a\0b"}, "bad_frame"),
            ({"body": "a\ud800b"}, "bad_frame"),
            ({"body": 7}, "bad_frame"),
            ({"body": None}, "bad_frame"),
        ],
        NOWHERE,
    ],
    "delete": [NOWHERE],
    "extend": [LIFETIME, NOWHERE],
    "resend": [
        [
            ({"seq": 1}, "nobody_missed_it"),
            ({"seq": 1, "epoch": "a\0b"}, "no_such_message"),
            ({"id": ID.upper()}, "bad_frame"),
            ({"id": ID + "\n"}, "bad_frame"),
            ({"id": ""}, "bad_frame"),
            ({"id": None}, "bad_frame"),
            ({"id": 7}, "bad_frame"),
        ],
        LIFETIME,
        NOWHERE,
    ],
    "dismiss": [
        [
            ({"notice": "none"}, "no_such_message"),
            ({"notice": "a\0b"}, "no_such_message"),
            ({"notice": None}, "bad_frame"),
            ({"notice": 7}, "bad_frame"),
            ({"notice": ["x"]}, "bad_frame"),
        ]
    ],
}
NEEDED = {
    "edit": {"room", "seq", "body"},
    "delete": {"room", "seq"},
    "extend": {"room", "seq", "ttl"},
    "resend": {"room", "seq", "id"},
    "dismiss": {"notice"},
}


def change(kind: str, room_id: str) -> Frame:
    """Return a frame with all that its kind needs."""
    fields = {"room": room_id, "seq": 1, "body": "changed", "ttl": 60, "id": ID, "notice": "none"}
    return {"type": kind, **{name: fields[name] for name in NEEDED[kind]}}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(kind, part) for kind, parts in NO_CHANGES.items() for part in parts],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[0][0]),
)
async def test_an_invalid_change_is_refused_with_its_reason_and_changes_nothing(
    site: Site, open_wire: Open, kind: str, wrong: list[tuple[Frame, str]]
) -> None:
    ada = await later(person)("ada")
    atlas = await later(room)(ada, ttl_s=60, ttl_max_s=600)
    wire = await open_wire(site, ada)
    await wire.hello()
    sent = await wire.post(atlas, "as it was")
    for fields, code in wrong:
        frame = change(kind, atlas) | fields
        error = await refused(wire, json.dumps(frame), code)
        assert error["of"] == kind
        assert error["detail"].endswith(".")
        assert (code != "bad_ttl") or ("10" in error["detail"] and "600" in error["detail"])
        for name in {"room", "seq", "id"} & (frame.keys() - fields.keys()):
            assert error[name] == frame[name], error
    again = await open_wire(site, ada)
    [entry] = (await again.hello())["rooms"]
    assert (entry["top"], entry["rev"]) == (1, 0)
    await again.send({"type": "history", "room": atlas, "before": 9})
    [message] = (await again.next("history"))["messages"]
    assert (message["body"], message["expires_at"]) == ("as it was", sent["expires_at"])


@pytest.mark.parametrize("kind", NEEDED)
async def test_a_change_needs_its_fields_and_takes_no_notice_of_others(
    site: Site, open_wire: Open, kind: str
) -> None:
    atlas, wire = await alone(site, open_wire)
    await wire.post(atlas, "hello")
    whole = change(kind, atlas)
    for name in NEEDED[kind]:
        error = await refused(wire, json.dumps({key: whole[key] for key in whole if key != name}))
        assert (error["of"], f"`{name}`" in error["detail"]) == (kind, True), error
    await wire.send({**whole, "mood": {"deep": [1]}, "user": 1, "from": 7, "rev": 99})
    answer = {"edit": "edited", "extend": "edited", "delete": "deleted"}.get(kind, "error")
    told = await wire.next(answer)
    assert "mood" not in told
    assert told.get("code", "none") in ("none", "nobody_missed_it", "no_such_message")


# Rates


async def test_sends_past_the_burst_are_refused_and_none_is_lost(new_site: Open, open_wire: Open) -> None:
    site = new_site(send_rate=[5.0, 10])
    atlas, wire = await alone(site, open_wire)
    ids = [new_id() for _ in range(12)]
    await wire.send(*({"type": "send", "id": item, "room": atlas, "body": item} for item in ids))
    error = await wire.next("error")
    assert (error["code"], error["retryable"], error["id"], error["room"]) == (
        "rate_limited",
        True,
        ids[10],
        atlas,
    )
    assert 0 < error["retry_after_ms"] <= 200
    await wire.next("error", id=ids[11])
    epoch = wire.heard("sent")[0]["epoch"] if wire.heard("sent") else (await wire.next("sent"))["epoch"]
    for _ in range(50):
        await wire.ack(atlas, epoch, delivered=1)
        await wire.send({"type": "sync", "room": atlas, "epoch": epoch, "since": 0})
    await wire.fence()
    assert len(wire.heard("error")) == 2


async def test_the_floor_of_the_contract_holds(site: Site, open_wire: Open) -> None:
    atlas, wire = await alone(site, open_wire)
    for _ in range(3):
        await wire.send(
            *({"type": "send", "id": new_id(), "room": atlas, "body": "hello"} for _ in range(100))
        )
    await wire.next("message", seq=300)
    assert not wire.heard("error")


async def test_a_flood_is_closed_with_4429(new_site: Open, open_wire: Open) -> None:
    site = new_site(ping_rate=[0.001, 1])
    _, wire = await alone(site, open_wire)
    for _ in range(11):
        await wire.send(*({"type": "ping", "n": 1} for _ in range(100)))
    assert await wire.close_code() == 4429


# A fault of ours


async def test_a_handler_that_raises_closes_with_1011_and_leaves_nobody_behind(
    new_site: Open, open_wire: Open
) -> None:
    site = new_site(application="tests.support.faulty_site.application", connections_per_user_max=1)
    ada, grace = await later(people)("ada", "grace")
    await later(room)(ada, grace)
    watching = await open_wire(site, grace)
    await watching.hello()
    for _ in range(2):  # with one connection a user, a member left in the hub would refuse the second
        wire = await open_wire(site, ada)
        await wire.hello()
        await wire.send({"type": "ping", "n": faulty_site.FATAL})
        assert await wire.close_code() == 1011
    went = await watching.next("presence", user=ada.id, online=False)
    assert went
    assert sum("a handler failed" in line for line in site.faults()) == 2
    site.forgive()


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary",
        "multipart/form-data",
        "multipart/form-data; boundary=\xe9",
        "application/x-www-form-urlencoded; charset=utf-16",
    ],
)
@pytest.mark.parametrize(
    "path", ["/nowhere/", "/%ff/", "/accounts/login/", "/api/rooms/", "/admin/", "/i18n/setlang/"]
)
def test_an_unreadable_body_is_no_server_error(site: Site, content_type: str, path: str) -> None:
    asked = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    # With this cookie, Django looks for the token in the body.
    headers = {"Content-Type": content_type.encode("latin-1"), "Cookie": f"csrftoken={'a' * 32}"}
    try:
        asked.request("POST", path, body=b"a=b", headers=headers)
        answer = asked.getresponse()
        text = answer.read().decode()
    finally:
        asked.close()
    assert answer.status in (400, 401, 403, 404)
    assert "<h1>" in text or path == "/api/rooms/"
