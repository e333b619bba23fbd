"""Frames from clients: valid ones are parsed, all others become one `error`, never an exception."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from messaging import protocol
from messaging.errors import BadFrame, BodyEmpty, BodyTooLong, MessagingError, Unavailable, UnknownType
from messaging.protocol import Close, Refused

ID = "0b8f6c1e-52b2-4d62-9a60-6f2f6d1f0a11"
BODY_MAX = 4_000
SEND = {"type": "send", "id": ID, "room": "r", "body": "hello"}
HELLO = {"type": "hello", "v": 1, "rooms": []}
SYNC = {"type": "sync", "room": "r", "epoch": "e", "since": 0}
ACK = {"type": "ack", "rooms": [{"room": "r", "epoch": "e", "delivered": 1}]}
HISTORY = {"type": "history", "room": "r", "before": 9}
SEQ_MOST = 2**53 - 1
EDIT = {"type": "edit", "room": "r", "seq": 3, "body": "hello"}
DELETE = {"type": "delete", "room": "r", "seq": 3}
EXTEND = {"type": "extend", "room": "r", "seq": 3, "ttl": 60}
RESEND = {"type": "resend", "room": "r", "seq": 3, "id": ID}
REJECT = {"type": "reject", "room": "r", "epoch": "e", "seq": 3, "reason": "unreadable"}
DISMISS = {"type": "dismiss", "notice": "n"}
CHANGES = [EDIT, DELETE, EXTEND, RESEND, REJECT, DISMISS]
EACH_CHANGE = pytest.mark.parametrize("frame", CHANGES, ids=lambda frame: frame["type"])


def parse(text: str) -> list[Any]:
    return list(protocol.parse(text, frames_max=100, body_max=BODY_MAX))


def parse_one(frame: dict[str, Any] | str) -> Any:
    [parsed] = parse(frame if isinstance(frame, str) else json.dumps(frame))
    return parsed


def refusal(frame: dict[str, Any] | str, error: type[MessagingError] = BadFrame) -> Refused:
    """Parse an invalid text that is refused with `error`; check that the answer can be encoded."""
    parsed = parse_one(frame)
    assert isinstance(parsed, Refused), parsed
    assert type(parsed.error) is error
    answer = json.loads(protocol.encode(protocol.error_frame(parsed)))
    assert answer["type"] == "error"
    assert answer["code"] == error.code
    assert answer["detail"]
    return parsed


class TestFrames:
    def test_hello_is_parsed(self) -> None:
        room = {"room": "r", "epoch": "e", "since": 7, "rev": 2}
        parsed = parse_one({"type": "hello", "v": 1, "rooms": [room]})
        assert parsed == protocol.Hello(v=1, rooms=[protocol.Since("r", "e", 7, 2)])

    def test_send_is_parsed(self) -> None:
        parsed = parse_one({**SEND, "ttl": 60, "reply_to": 3})
        assert parsed == protocol.Send(id=ID, room="r", body="hello", ttl=60, reply_to=3)

    def test_ack_of_several_rooms_is_parsed(self) -> None:
        rooms = [{"room": "r", "epoch": "e", "delivered": 1}, {"room": "s", "epoch": "f", "read": 2}]
        parsed = parse_one({"type": "ack", "rooms": rooms})
        assert parsed.rooms == [protocol.RoomAck("r", "e", 1, None), protocol.RoomAck("s", "f", None, 2)]

    @pytest.mark.parametrize(
        ("frame", "parsed"),
        [
            (EDIT, protocol.Edit(room="r", seq=3, body="hello")),
            ({**EDIT, "epoch": "e"}, protocol.Edit(room="r", seq=3, body="hello", epoch="e")),
            (DELETE, protocol.Delete(room="r", seq=3)),
            ({**DELETE, "epoch": "e"}, protocol.Delete(room="r", seq=3, epoch="e")),
            (EXTEND, protocol.Extend(room="r", seq=3, ttl=60)),
            ({**EXTEND, "epoch": "e"}, protocol.Extend(room="r", seq=3, ttl=60, epoch="e")),
            (RESEND, protocol.Resend(room="r", seq=3, id=ID)),
            (
                {**RESEND, "epoch": "e", "ttl": 60},
                protocol.Resend(room="r", seq=3, id=ID, epoch="e", ttl=60),
            ),
            (REJECT, protocol.Reject(room="r", epoch="e", seq=3, reason="unreadable")),
            (DISMISS, protocol.Dismiss(notice="n")),
        ],
        ids=lambda value: value["type"] if isinstance(value, dict) else "",
    )
    def test_changes_are_parsed(self, frame: dict[str, Any], parsed: Any) -> None:
        assert parse_one(frame) == parsed
        assert parse_one({**frame, "mood": 1, "rev": 2}) == parsed

    @pytest.mark.parametrize("frame", [EDIT, DELETE, EXTEND, RESEND], ids=lambda frame: frame["type"])
    def test_an_epoch_of_null_is_the_present_one(self, frame: dict[str, Any]) -> None:
        assert parse_one({**frame, "epoch": None}) == parse_one(frame)

    def test_array_is_its_frames_in_order(self) -> None:
        assert parse(json.dumps([{"type": "ping", "n": n} for n in range(3)])) == [
            protocol.Ping(n=0),
            protocol.Ping(n=1),
            protocol.Ping(n=2),
        ]

    def test_empty_array_is_no_frame(self) -> None:
        assert parse("[]") == []

    def test_array_of_a_hundred_is_taken(self) -> None:
        assert len(parse(json.dumps([{"type": "ping", "n": 1}] * 100))) == 100

    def test_unknown_fields_are_ignored(self) -> None:
        assert parse_one({**SEND, "mood": {"deep": [1, 2]}}) == parse_one(SEND)

    def test_null_stands_for_an_absent_optional_field(self) -> None:
        assert parse_one({**SEND, "ttl": None, "reply_to": None}) == parse_one(SEND)

    def test_unknown_version_is_parsed_for_delivery_to_close(self) -> None:
        assert parse_one({**HELLO, "v": 2}).v == 2

    @pytest.mark.parametrize(
        "body", ["<script>alert(1)</script>", "javascript:alert(1)", "\u202eevil", "a\nb\tc", "𝒳"]
    )
    def test_text_stays_text(self, body: str) -> None:
        assert parse_one({**SEND, "body": body}).body == body

    def test_body_of_the_most_code_points_is_taken(self) -> None:
        assert len(parse_one({**SEND, "body": "𝒳" * BODY_MAX}).body) == BODY_MAX

    @pytest.mark.parametrize("seq", [0, SEQ_MOST])
    def test_the_ends_of_what_json_carries_exactly_are_taken(self, seq: int) -> None:
        assert parse_one({**SYNC, "since": seq}).since == seq


NOT_JSON = [
    "",
    " ",
    "hello",
    "{",
    '{"type":"ping","n":1',
    '{"type":"ping","n":1}}',
    "\ud800",
    '"\ud800"',
    "\0",
    "NaN",
    "[" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '{"type":' * 100_000,
    '{"type":"send","body":' + "[" * 100_000 + "]" * 100_000 + "}",
    "9" * 5_000,
]
WRONG_SHAPE = [
    "null",
    "true",
    "1",
    '"ping"',
    "{}",
    '{"type":null}',
    '{"type":1}',
    '{"type":["ping"]}',
    '{"n":1}',
]
BAD_COUNTS = [
    "-1",
    "1.5",
    "1.0",
    "1e3",
    "true",
    '"1"',
    "NaN",
    "Infinity",
    str(2**53),
    "9" * 30,
    "[1]",
    "{}",
    "-0.0",
]


class TestBadInput:
    @pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: repr(text[:20]))
    def test_invalid_json_is_refused(self, text: str) -> None:
        refusal(text)

    @pytest.mark.parametrize("text", WRONG_SHAPE)
    def test_json_of_the_wrong_shape_is_refused(self, text: str) -> None:
        refusal(text)

    @pytest.mark.parametrize("text", WRONG_SHAPE)
    def test_invalid_frame_does_not_affect_its_neighbours(self, text: str) -> None:
        before, bad, after = parse(f'[{{"type":"ping","n":1}},{text},{{"type":"ping","n":2}}]')
        assert (before, after) == (protocol.Ping(n=1), protocol.Ping(n=2))
        assert isinstance(bad, Refused)

    def test_array_of_101_frames_is_refused_whole(self) -> None:
        refusal(json.dumps([{"type": "ping", "n": 1}] * 101))

    def test_array_in_an_array_is_refused(self) -> None:
        refusal("[[]]")

    def test_unknown_type_is_named_with_the_fields_of_the_frame(self) -> None:
        refused = refusal({"type": "dance", "id": ID, "room": "r", "seq": 4}, UnknownType)
        assert (refused.of, refused.id, refused.room, refused.seq) == ("dance", ID, "r", 4)

    @pytest.mark.parametrize("number", [*BAD_COUNTS, "null"])
    def test_invalid_seq_is_refused(self, number: str) -> None:
        refusal(f'{{"type":"sync","room":"r","epoch":"e","since":{number}}}')

    @pytest.mark.parametrize("number", BAD_COUNTS)
    @pytest.mark.parametrize(
        "frame",
        [
            '{"type":"send","id":"%(id)s","room":"r","body":"x","ttl":%(n)s}',
            '{"type":"send","id":"%(id)s","room":"r","body":"x","reply_to":%(n)s}',
            '{"type":"ack","rooms":[{"room":"r","epoch":"e","delivered":%(n)s}]}',
            '{"type":"ack","rooms":[{"room":"r","epoch":"e","read":%(n)s}]}',
            '{"type":"hello","v":1,"rooms":[{"room":"r","epoch":"e","since":%(n)s}]}',
            '{"type":"hello","v":1,"rooms":[{"room":"r","epoch":"e","since":1,"rev":%(n)s}]}',
            '{"type":"sync","room":"r","epoch":"e","since":1,"rev":%(n)s}',
            '{"type":"sync","room":"r","epoch":"e","since":1,"limit":%(n)s}',
            '{"type":"history","room":"r","before":%(n)s}',
            '{"type":"history","room":"r","before":1,"limit":%(n)s}',
            '{"type":"ping","n":%(n)s}',
            '{"type":"edit","room":"r","seq":%(n)s,"body":"x"}',
            '{"type":"delete","room":"r","seq":%(n)s}',
            '{"type":"extend","room":"r","seq":%(n)s,"ttl":60}',
            '{"type":"extend","room":"r","seq":1,"ttl":%(n)s}',
            '{"type":"resend","room":"r","seq":%(n)s,"id":"%(id)s"}',
            '{"type":"resend","room":"r","seq":1,"id":"%(id)s","ttl":%(n)s}',
            '{"type":"reject","room":"r","epoch":"e","seq":%(n)s,"reason":"x"}',
        ],
    )
    def test_invalid_number_in_any_field_is_refused(self, frame: str, number: str) -> None:
        refusal(frame % {"id": ID, "n": number})

    @pytest.mark.parametrize("frame", [SYNC, HISTORY], ids=["sync", "history"])
    def test_limit_below_one_is_refused(self, frame: dict[str, Any]) -> None:
        refusal({**frame, "limit": 0})

    @pytest.mark.parametrize("version", ['"1"', "null", "1.0", "true", "{}"])
    def test_version_that_is_no_integer_is_refused(self, version: str) -> None:
        refusal(f'{{"type":"hello","v":{version},"rooms":[]}}')

    @pytest.mark.parametrize(
        "id_",
        [
            ID.upper(),
            ID[:-1],
            ID + "0",
            ID + "\n",
            "\n" + ID,
            ID.replace("-", ""),
            "{" + ID + "}",
            ID.replace("0b", "0g"),
            "",
            "0" * 36,
            1,
            None,
            [ID],
        ],
        ids=repr,
    )
    def test_id_that_is_no_lower_case_uuid_is_refused(self, id_: Any) -> None:
        refusal({**SEND, "id": id_})
        refusal({**RESEND, "id": id_})

    @EACH_CHANGE
    @pytest.mark.parametrize("value", [7, None, True, ["x"], {}], ids=repr)
    def test_invalid_text_of_a_change_is_refused(self, frame: dict[str, Any], value: Any) -> None:
        for name in {"room", "body", "reason", "notice"} & frame.keys():
            refused = refusal({**frame, name: value})
            assert (refused.of, refused.seq) == (frame["type"], frame.get("seq"))

    @pytest.mark.parametrize(
        "frame", [SEND, HELLO, SYNC, ACK, HISTORY, *CHANGES], ids=lambda frame: frame["type"]
    )
    def test_missing_field_is_refused(self, frame: dict[str, Any]) -> None:
        for field in frame.keys() - {"type"}:
            refused = refusal({name: value for name, value in frame.items() if name != field})
            assert refused.of == frame["type"]

    def test_hello_with_501_rooms_is_refused(self) -> None:
        refusal({**HELLO, "rooms": [{"room": "r", "epoch": "e", "since": 0}] * 501})

    def test_hello_with_500_rooms_is_taken(self) -> None:
        assert (
            len(parse_one({**HELLO, "rooms": [{"room": "r", "epoch": "e", "since": 0}] * 500}).rooms) == 500
        )


class TestBadBody:
    @pytest.mark.parametrize("body", ["", " ", "\n\t", "\u2003\u3000"])
    def test_invisible_body_is_empty(self, body: str) -> None:
        refused = refusal({**SEND, "body": body}, BodyEmpty)
        assert (refused.of, refused.id, refused.room) == ("send", ID, "r")

    def test_body_above_the_limit_is_too_long(self) -> None:
        refused = refusal({**SEND, "body": "𝒳" * (BODY_MAX + 1)}, BodyTooLong)
        assert (refused.of, refused.id, refused.room) == ("send", ID, "r")

    def test_body_with_a_nul_is_refused(self) -> None:
        assert refusal({**SEND, "body": "a\0b"}).id == ID

    @pytest.mark.parametrize("body", [r"\ud800", r"\udfff", r"a\ud83d", r"\ude00\ud83d"])
    def test_lone_surrogate_is_refused_and_the_answer_names_the_message(self, body: str) -> None:
        refused = refusal(f'{{"type":"send","id":"{ID}","room":"r","body":"{body}"}}')
        assert (refused.of, refused.id, refused.room) == ("send", ID, "r")

    @pytest.mark.parametrize("body", [1, None, True, ["x"], {"x": 1}])
    def test_body_that_is_no_text_is_refused(self, body: Any) -> None:
        assert refusal({**SEND, "body": body}).id == ID

    @pytest.mark.parametrize(
        ("body", "error"), [(" \n", BodyEmpty), ("𝒳" * (BODY_MAX + 1), BodyTooLong), ("a\0b", BadFrame)]
    )
    def test_an_edit_is_bound_like_a_message_and_its_answer_names_it(
        self, body: str, error: type[MessagingError]
    ) -> None:
        refused = refusal({**EDIT, "body": body}, error)
        assert (refused.of, refused.id, refused.room, refused.seq) == ("edit", None, "r", 3)

    def test_lone_surrogates_are_left_out_of_the_answer(self) -> None:
        refused = refusal('{"type":"send","id":"\\ud800","room":"\\udc00","body":"x"}')
        assert (refused.id, refused.room) == (None, None)

    def test_long_id_is_not_sent_back(self) -> None:
        assert refusal({**SEND, "id": "x" * 10_000}).id is None

    @pytest.mark.parametrize("seq", [-1, 1.5, True, "7", 2**53, 10**30])
    def test_bad_seq_is_not_sent_back(self, seq: Any) -> None:
        assert refusal({"type": "dance", "seq": seq}, UnknownType).seq is None


class TestEveryInput:
    """Rules over all texts."""

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda children: (
            st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
        ),
        max_leaves=12,
    )
    field_names = st.sampled_from(
        [
            "id",
            "room",
            "body",
            "epoch",
            "since",
            "rev",
            "v",
            "rooms",
            "ttl",
            "n",
            "before",
            "seq",
            "reason",
            "notice",
        ]
    )
    near_frames = st.builds(
        lambda kind, fields: {"type": kind, **fields},
        st.sampled_from(sorted([*protocol._types, "dance"])) | json_values,
        st.dictionaries(field_names, json_values | st.just(ID) | st.integers(-1, 2**54), max_size=8),
    )

    @staticmethod
    def check(text: str) -> None:
        for parsed in parse(text):
            if isinstance(parsed, Refused):
                assert protocol.encode(protocol.error_frame(parsed))
            else:
                assert parsed.__struct_config__.tag

    @given(text=st.text(st.characters()))
    @example(text="\ud83d")
    def test_parse_never_raises_for_any_text(self, text: str) -> None:
        self.check(text)

    @given(value=json_values)
    def test_parse_never_raises_for_any_json(self, value: Any) -> None:
        self.check(json.dumps(value))
        self.check(json.dumps([value, value]))

    @given(frame=near_frames)
    @settings(max_examples=300)
    def test_parse_never_raises_for_what_is_nearly_a_frame(self, frame: dict[str, Any]) -> None:
        for ascii_only in (True, False):
            text = json.dumps(frame, ensure_ascii=ascii_only)
            self.check(text)
            self.check(f"[{text}]")

    @given(frame=near_frames, cut=st.floats(0, 1))
    def test_parse_never_raises_for_half_a_frame(self, frame: dict[str, Any], cut: float) -> None:
        text = json.dumps(frame)
        self.check(text[: int(len(text) * cut)])

    @given(data=st.data())
    @settings(max_examples=200)
    def test_a_valid_frame_comes_back_as_it_was(self, data: st.DataObject) -> None:
        frame = data.draw(st.one_of(*(_valid(kind) for kind in protocol.AnyClientFrame.__args__)))
        encoded = protocol.encode(frame).decode()
        assert parse(encoded) == [frame]
        assert parse(f"[{encoded},{encoded}]") == [frame, frame]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
COUNT = st.integers(0, SEQ_MOST)
BODY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    str.strip
)


FIELDS = {
    "v": st.integers(0, 9),
    "id": st.uuids().map(str),
    "body": BODY,
    "limit": st.integers(1, SEQ_MOST),
    "late": st.lists(COUNT, max_size=5),
    **dict.fromkeys(["room", "epoch", "reason", "notice"], TEXT),
    **dict.fromkeys(["since", "rev", "before", "n", "seq", "ttl", "reply_to", "delivered", "read"], COUNT),
}


def _valid(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Return a strategy for valid structs of `kind`."""

    def values(field: msgspec.structs.FieldInfo) -> st.SearchStrategy[Any]:
        if field.name == "rooms":
            return st.lists(_valid(protocol.RoomAck if kind is protocol.Ack else protocol.Since), max_size=5)
        return FIELDS[field.name] if field.required else FIELDS[field.name] | st.just(field.default)

    return st.builds(kind, **{field.name: values(field) for field in msgspec.structs.fields(kind)})


class TestServerFrames:
    """Unknown fields are absent on the wire; all others are present, also when false, 0 or empty."""

    @pytest.mark.parametrize(
        ("frame", "fields"),
        [
            (protocol.Edited("r", "e", 0, 3), {}),
            (protocol.Edited("r", "e", 0, 3, body="", edited_at=0), {"body": "", "edited_at": 0}),
            (protocol.Edited("r", "e", 0, 3, expires_at=0), {"expires_at": 0}),
            (protocol.Deleted("r", "e", 0, 3), {}),
        ],
        ids=["bare", "edited", "extended", "deleted"],
    )
    def test_a_change_has_its_position_and_the_new_fields(self, frame: Any, fields: dict[str, Any]) -> None:
        place = {"type": frame.__struct_config__.tag, "room": "r", "epoch": "e", "rev": 0, "seq": 3}
        assert json.loads(protocol.encode(frame)) == place | fields

    def test_expired_has_room_epoch_and_seqs(self) -> None:
        frame = protocol.Expired(room="r", epoch="e", seqs=[3, 5])
        assert json.loads(protocol.encode(frame)) == {
            "type": "expired",
            "room": "r",
            "epoch": "e",
            "seqs": [3, 5],
        }

    def test_notice_has_all_fields(self) -> None:
        frame = protocol.Notice(notice="n", kind="undelivered", at=0, data={}, dismissed=False)
        assert json.loads(protocol.encode(frame)) == {
            "type": "notice",
            "notice": "n",
            "kind": "undelivered",
            "at": 0,
            "data": {},
            "dismissed": False,
        }


class TestErrorFrame:
    def test_unknown_fields_are_left_out(self) -> None:
        answer = json.loads(protocol.encode(protocol.error_frame(Refused(BadFrame()))))
        assert answer == {
            "type": "error",
            "code": "bad_frame",
            "detail": "The frame does not follow the protocol.",
            "retryable": False,
            "of": "",
        }

    def test_answer_has_the_time_of_the_next_try(self) -> None:
        refused = Refused(Unavailable(retry_after_ms=1_000), "send", ID, "r")
        answer = json.loads(protocol.encode(protocol.error_frame(refused)))
        assert (answer["retryable"], answer["retry_after_ms"], answer["id"]) == (True, 1_000, ID)


def test_final_codes_are_4500_and_above() -> None:
    final = {Close.NO_SESSION, Close.BANNED, Close.VERSION}
    assert {code for code in Close if code >= 4500} == final
