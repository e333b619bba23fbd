"""The frames of the wire contract (docs/protocol.md): parse, validate, encode; close codes.

`parse` never raises: it returns subclasses of `ClientFrame`, or a `Refused`, which is answered with one `error` frame. Frames to a
client are the structs after `ServerFrame`; a field that is UNSET is omitted. The `message` frames of publications are written by the
store's append script and sent unchanged. Knows nothing of Redis, rooms or sockets.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .errors import BadFrame, BodyEmpty, BodyTooLong, MessagingError, UnknownType

VERSION = 1

# A seq, rev, cursor, time in epoch ms or number of seconds: integers that JSON represents exactly.
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
# `\Z` instead of `$`, which allows a newline at the end: in a publication a frame is one line.
MessageId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")]
Limit = Annotated[int, Meta(ge=1, le=2**53 - 1)]
# The seqs of messages that a client got only after their end.
Late = Annotated[list[Count], Meta(max_length=500)]


class Close(enum.IntEnum):
    """The close codes of the server. After 4500 and above a client must not reconnect; after all others it may."""

    TOO_BIG = 1009
    HANDLER_FAILED = 1011
    RESTART = 1012
    TRY_LATER = 1013
    TOO_MANY_BAD_FRAMES = 4400
    NO_HELLO = 4402
    ACKS_MISSING = 4408
    TOO_MUCH = 4429
    NO_SESSION = 4501
    BANNED = 4503
    VERSION = 4504


# From a client


class ClientFrame(Struct, frozen=True, tag_field="type"):
    """A frame from a client. Unknown fields are ignored; null in an optional field means that it is absent."""


class Since(Struct, frozen=True):
    """The part of a room's log that a client holds: all messages up to `since`, all changes up to `rev`."""

    room: str
    epoch: str
    since: Count
    rev: Count | None = None
    late: Late | None = None


class Hello(ClientFrame, frozen=True, tag="hello"):
    v: int
    rooms: Annotated[list[Since], Meta(max_length=500)]


class Send(ClientFrame, frozen=True, tag="send"):
    id: MessageId
    room: str
    body: str
    ttl: Count | None = None
    reply_to: Count | None = None


class RoomAck(Struct, frozen=True):
    room: str
    epoch: str
    delivered: Count | None = None
    read: Count | None = None
    late: Late | None = None


class Ack(ClientFrame, frozen=True, tag="ack"):
    rooms: list[RoomAck]


class Sync(ClientFrame, frozen=True, tag="sync"):
    room: str
    epoch: str
    since: Count
    rev: Count | None = None
    limit: Limit | None = None


class History(ClientFrame, frozen=True, tag="history"):
    room: str
    before: Count
    limit: Limit | None = None


class Reject(ClientFrame, frozen=True, tag="reject"):
    room: str
    epoch: str
    seq: Count
    reason: str


class Edit(ClientFrame, frozen=True, tag="edit"):
    room: str
    seq: Count
    body: str
    epoch: str | None = None


class Delete(ClientFrame, frozen=True, tag="delete"):
    room: str
    seq: Count
    epoch: str | None = None


class Extend(ClientFrame, frozen=True, tag="extend"):
    room: str
    seq: Count
    ttl: Count
    epoch: str | None = None


class Resend(ClientFrame, frozen=True, tag="resend"):
    room: str
    seq: Count
    id: MessageId
    epoch: str | None = None
    ttl: Count | None = None


class Dismiss(ClientFrame, frozen=True, tag="dismiss"):
    notice: str


class Typing(ClientFrame, frozen=True, tag="typing"):
    room: str


class Ping(ClientFrame, frozen=True, tag="ping"):
    n: Count


AnyChange = Edit | Delete | Extend | Resend | Reject | Dismiss
AnyClientFrame = Hello | Send | Ack | Sync | History | Typing | Ping | AnyChange


class Refused(Struct, frozen=True):
    """A refused frame: the error, and the frame's fields that could be read."""

    error: MessagingError
    of: str | None = None
    id: str | None = None
    room: str | None = None
    seq: int | None = None


_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(AnyClientFrame | list[msgspec.Raw])
_frame_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(AnyClientFrame)
_types = {frame.__struct_config__.tag for frame in AnyClientFrame.__args__}
_MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeError, ValueError)


def parse(text: str, *, frames_max: int, body_max: int) -> Sequence[AnyClientFrame | Refused]:
    """Return the frames of one WebSocket text message, in order. A malformed frame becomes a `Refused`.

    An array of more than `frames_max` frames is refused as a whole. `body_max` is in code points.
    """
    try:
        decoded = _decoder.decode(text)
    except _MALFORMED as fault:
        return [_refused(text, fault)]
    if not isinstance(decoded, list):
        return [_checked(decoded, body_max)]
    if len(decoded) > frames_max:
        return [Refused(BadFrame(f"An array holds at most {frames_max} frames."))]
    return [_parse_one(raw, body_max) for raw in decoded]


def _parse_one(raw: msgspec.Raw, body_max: int) -> AnyClientFrame | Refused:
    try:
        return _checked(_frame_decoder.decode(raw), body_max)
    except _MALFORMED as fault:
        return _refused(bytes(raw).decode(errors="replace"), fault)


def _checked(frame: AnyClientFrame, body_max: int) -> AnyClientFrame | Refused:
    body = getattr(frame, "body", None)
    if body is None:
        return frame
    error = body_error(body, body_max)
    if error is None:
        return frame
    return refused(frame, error)


def refused(frame: ClientFrame, error: MessagingError) -> Refused:
    """Return the refusal of a parsed frame, with the fields by which its sender identifies it."""
    fields = {name: getattr(frame, name, None) for name in ("id", "room", "seq")}
    return Refused(error, str(frame.__struct_config__.tag), **fields)


def body_error(body: str, body_max: int) -> MessagingError | None:
    """Return the error of an invalid message text, None for a valid one."""
    if len(body) > body_max:
        return BodyTooLong(f"The message is longer than {body_max} characters. Make it shorter.")
    if "\0" in body:
        return BadFrame("The message has a NUL character, which no database keeps.")
    if not body.strip():
        return BodyEmpty()
    return None


def _refused(text: str, fault: Exception) -> AnyClientFrame | Refused:
    """Return the refusal of a malformed text, with the fields by which the client's outbox finds its message.

    The parser of the standard library also reads texts that are almost JSON (lone surrogates, NaN), so that the answer can identify
    the message. A `hello` of another version is returned as such.
    """
    try:
        parsed = json.loads(text)
    except _MALFORMED:
        return Refused(BadFrame(f"This is not JSON that can be read: {_reason(fault)}."))
    if not isinstance(parsed, dict):
        return Refused(BadFrame("A frame is a JSON object with a type."))
    kind = _text(parsed.get("type"))
    if kind is None:
        return Refused(BadFrame("A frame needs a type, which is a string."))
    seq = parsed.get("seq")
    fields = {
        "of": kind,
        "id": _text(parsed.get("id")),
        "room": _text(parsed.get("room")),
        "seq": seq if type(seq) is int and 0 <= seq < 2**53 else None,
    }
    version = parsed.get("v")
    if kind == "hello" and type(version) is int and version != VERSION:
        return Hello(version, [])  # another version of the contract: its other fields may differ
    if kind not in _types:
        return Refused(UnknownType(), **fields)  # type: ignore[arg-type]
    return Refused(BadFrame(f"The frame does not follow the contract: {_reason(fault)}."), **fields)  # type: ignore[arg-type]


def _reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "it is nested too deep"
    if isinstance(fault, UnicodeError):
        return "it has a lone surrogate"
    return str(fault).rstrip(".")


def _text(value: Any) -> str | None:
    """Return `value` if it is a string of at most 64 characters that can be sent back unchanged, otherwise None."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    return None if any("\ud800" <= character <= "\udfff" for character in value) else value


# To a client


class ServerFrame(Struct, frozen=True, tag_field="type"):
    """A frame to a client."""


class Person(Struct, frozen=True):
    id: int
    name: str


class Limits(Struct, frozen=True):
    body: int
    frame: int
    ttl_min: int
    ttl_max: int
    unsent: int
    id_s: int


class RoomFields(Struct, frozen=True):
    """The room object of `welcome` and of the `room` frame."""

    room: str
    name: str
    kind: str
    role: str
    epoch: str
    top: int
    rev: int
    delivered: int
    read: int
    unread: int
    ttl: int
    ttl_max: int
    tracked: bool
    online: list[int] | UnsetType = UNSET


class Room(RoomFields, frozen=True, tag="room", tag_field="type"):
    removed: bool | UnsetType = UNSET


class Welcome(ServerFrame, frozen=True, tag="welcome"):
    v: int
    connection: str
    user: Person
    now: int
    store: str
    limits: Limits
    rooms: list[RoomFields]


class Message(ServerFrame, frozen=True, tag="message"):
    room: str
    epoch: str
    seq: int
    id: str
    from_: Person = msgspec.field(name="from")
    body: str
    sent_at: int
    expires_at: int
    reply_to: int | UnsetType = UNSET
    edited_at: int | UnsetType = UNSET
    resends: int | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    after: int | UnsetType = UNSET


class Resumed(ServerFrame, frozen=True, tag="resumed"):
    room: str
    epoch: str | None
    ok: bool
    from_: int = msgspec.field(name="from")
    upto: int
    top: int
    rev: int
    more: bool
    messages: list[Message]
    gone: list[tuple[int, str]]
    changed: list[Message] | UnsetType = UNSET
    why: str | UnsetType = UNSET
    doubt: tuple[int, int] | UnsetType = UNSET


class Sent(ServerFrame, frozen=True, tag="sent"):
    id: str
    room: str
    epoch: str
    seq: int
    sent_at: int
    expires_at: int
    duplicate: bool


class Receipt(ServerFrame, frozen=True, tag="receipt"):
    room: str
    epoch: str
    receipts: list[tuple[int, int, int, int]]  # seq, delivered, read, total


class Edited(ServerFrame, frozen=True, tag="edited"):
    room: str
    epoch: str
    rev: int
    seq: int
    body: str | UnsetType = UNSET
    edited_at: int | UnsetType = UNSET
    expires_at: int | UnsetType = UNSET


class Deleted(ServerFrame, frozen=True, tag="deleted"):
    room: str
    epoch: str
    rev: int
    seq: int


class Expired(ServerFrame, frozen=True, tag="expired"):
    room: str
    epoch: str
    seqs: list[int]


class Notice(ServerFrame, frozen=True, tag="notice"):
    notice: str
    kind: str
    at: int
    data: dict[str, Any]
    dismissed: bool


class Messages(ServerFrame, frozen=True, tag="history"):
    room: str
    epoch: str
    before: int
    messages: list[Message]
    more: bool


class Position(ServerFrame, frozen=True, tag="position"):
    room: str
    epoch: str
    top: int
    rev: int


class Presence(ServerFrame, frozen=True, tag="presence"):
    room: str
    user: int
    online: bool


class SomeoneTypes(ServerFrame, frozen=True, tag="typing"):
    room: str
    user: int


class Error(ServerFrame, frozen=True, tag="error"):
    code: str
    detail: str
    retryable: bool
    of: str  # '' if the type could not be read
    id: str | UnsetType = UNSET
    room: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET


class Pong(ServerFrame, frozen=True, tag="pong"):
    n: int


class Bye(ServerFrame, frozen=True, tag="bye"):
    code: int
    after_ms: int


encode = msgspec.json.Encoder().encode


def error_frame(refused: Refused) -> Error:
    """Return the `error` frame that answers `refused`."""
    error = refused.error
    return Error(
        code=error.code,
        detail=error.detail,
        retryable=error.retryable,
        of=refused.of or "",
        id=UNSET if refused.id is None else refused.id,
        room=UNSET if refused.room is None else refused.room,
        seq=UNSET if refused.seq is None else refused.seq,
        retry_after_ms=UNSET if error.retry_after_ms is None else error.retry_after_ms,
    )
