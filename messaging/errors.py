"""The errors of the product. Each has a stable wire code; its docstring is the default text for the user.

They are raised where the error is detected. The outermost layer converts them into an `error` frame, a JSON answer or a line on stderr.
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
    """Too many frames. Send this one again later."""

    code = "rate_limited"
    retryable = True


class Unavailable(MessagingError):
    """The store does not answer. Send this again; the same id is stored once."""

    code = "unavailable"
    retryable = True


class BacklogFull(MessagingError):
    """The store is full until messages expire. Send this again later."""

    code = "backlog_full"
    retryable = True


class BadFrame(MessagingError):
    """The frame does not follow the protocol."""

    code = "bad_frame"


class UnknownType(MessagingError):
    """This frame type is unknown."""

    code = "unknown_type"


class NotMember(MessagingError):
    """You are not a member of this room, or it does not exist."""

    code = "not_member"


class NoSuchMessage(MessagingError):
    """There is no such message in this room."""

    code = "no_such_message"


class Forbidden(MessagingError):
    """You do not have permission to do this."""

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
    """This id was used for another message. Give the new message its own id."""

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
    """A setting has an invalid value."""

    code = "bad_setting"


# Used over HTTP and on the command line only: no frame has these codes.


class BadRequest(MessagingError):
    """The request is invalid for this address."""

    code = "bad_request"


class BadName(MessagingError):
    """A name must have 1 to 80 characters. Invisible characters and those that change the writing direction are not allowed."""

    code = "bad_name"


class NoSuchUser(MessagingError):
    """There is no user with this name."""

    code = "no_such_user"


class Conflict(MessagingError):
    """This conflicts with existing data."""

    code = "conflict"


class Removed(MessagingError):
    """You were removed from this room. A moderator can add you again."""

    code = "removed"


class NotAddable(MessagingError):
    """This person cannot be added to more rooms now. Leave them out, or try again tomorrow."""

    code = "not_addable"


class TooManyRooms(MessagingError):
    """You are in too many rooms. Leave some first."""

    code = "too_many_rooms"


class TooLarge(MessagingError):
    """The request is larger than 64 KiB."""

    code = "too_large"


class NotLoggedIn(MessagingError):
    """Log in first."""

    code = "not_logged_in"
