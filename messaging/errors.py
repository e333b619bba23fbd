"""Every error of the product: a stable wire code and, as docstring, the default sentence.

Raised where the fault is known, turned into an `error` frame, a JSON answer or a line on stderr once, at the edge.
Knows nothing of frames, Redis or HTTP.
"""

from __future__ import annotations


class MessagingError(Exception):
    """Something went wrong. Try again."""

    code = "error"
    retryable = False

    def __init__(self, detail: str = "", *, retry_after_ms: int | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.retry_after_ms = retry_after_ms
        super().__init__(self.detail)


class RateLimited(MessagingError):
    """Too many frames at once. Send this one again later."""

    code = "rate_limited"
    retryable = True


class Unavailable(MessagingError):
    """The store does not answer just now. Send this again; the same id is stored once."""

    code = "unavailable"
    retryable = True


class BacklogFull(MessagingError):
    """The store is full until messages expire. Send this again later."""

    code = "backlog_full"
    retryable = True


class BadFrame(MessagingError):
    """The frame is not what the contract says."""

    code = "bad_frame"


class UnknownType(MessagingError):
    """No frame of this type is known here."""

    code = "unknown_type"


class NotMember(MessagingError):
    """You are not a member of this room, or it does not exist."""

    code = "not_member"


class NoSuchMessage(MessagingError):
    """There is no such message in this room."""

    code = "no_such_message"


class Forbidden(MessagingError):
    """You may not do this here."""

    code = "forbidden"


class BodyEmpty(MessagingError):
    """The message is empty. Write something."""

    code = "body_empty"


class BodyTooLong(MessagingError):
    """The message is too long. Make it shorter."""

    code = "body_too_long"


class BadTtl(MessagingError):
    """This lifetime is not allowed here."""

    code = "bad_ttl"


class IdReused(MessagingError):
    """This id was used for another message. Give the new one an id of its own."""

    code = "id_reused"


class AckTooHigh(MessagingError):
    """The acknowledgement is above the newest message of the room. Sync, then acknowledge."""

    code = "ack_too_high"


class TooLate(MessagingError):
    """The message has expired."""

    code = "too_late"


class NobodyMissedIt(MessagingError):
    """Nobody missed this message."""

    code = "nobody_missed_it"


class BadSetting(MessagingError):
    """A setting has a value that cannot work."""

    code = "bad_setting"


# Over HTTP and on the command line only: no frame carries these codes.


class BadRequest(MessagingError):
    """The request is not what this address takes."""

    code = "bad_request"


class BadName(MessagingError):
    """A name has 1 to 80 characters, none of them invisible or changing the direction of writing."""

    code = "bad_name"


class NoSuchUser(MessagingError):
    """There is nobody of this name."""

    code = "no_such_user"


class Conflict(MessagingError):
    """This does not fit what is there."""

    code = "conflict"


class TooLarge(MessagingError):
    """The request is larger than 64 KiB."""

    code = "too_large"


class NotLoggedIn(MessagingError):
    """Log in first."""

    code = "not_logged_in"
