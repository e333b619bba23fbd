"""Report messages that at least one member missed: a dead letter, its missed recipients and the sender's notice, in one transaction.

1. The store returns the members who missed a message.
2. `record` writes the letter, the missed recipients and the notice together. `quarantine` writes a message that `record` could
   not write. `packing` packs the missed members, `notices` builds the notice from the letter.
3. After that, the store clears the message.

Every key is derived from the message, so a second run or a second worker writes nothing new. The module `letters` changes dead
letters later. Knows nothing of Redis. Text of messages is never logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from django.contrib.auth import get_user_model
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, transaction

from messaging import policy
from messaging.models import DeadLetter, FormerUser, MissedRecipient, Room, epoch_ms, moment
from messaging.store.records import Expired, Missed

from . import notices, packing
from .notices import Person

MAX_NAMED = 100  # people named in a letter and in its notice, as docs/protocol.md promises
MAX_NAME, MAX_EPOCH = 150, 64  # characters in the columns
QUERY_BATCH = 5_000  # keys in one query; SQLite takes at most 32,766
INSERT_BATCH = 1_000
MAX_TRIES = 3  # attempts; each failure means that another transaction committed first
# The namespace of the letters' keys. A new namespace would report all messages twice that are not finalized yet.
LETTER_NAMESPACE = UUID("c1d7a8f2-6a0e-4e57-9d0b-2f3a5a4f0c55")
# The database or Python raises these for values that do not fit the columns.
INVALID_ROW_ERRORS = (DatabaseError, ValueError, OverflowError, TypeError)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The new dead letters, and the notices to announce: {user: notice ids}. Notices of an earlier, killed run are included."""

    letters: list[UUID]
    notices: dict[int, list[str]]


def record(expired: Sequence[Expired], now_ms: int) -> Report:
    """Report the messages of `expired` that at least one member missed, all or none. Existing reports stay unchanged.

    Raises OperationalError or InterfaceError when the database is down. Other errors are treated as an invalid message in `expired`.
    """
    missed = [message for message in expired if message.live and message.missed]
    for _ in range(MAX_TRIES - 1):
        try:
            return _record(missed, now_ms)
        except IntegrityError:
            continue  # another worker was faster, or a user was just deleted: read the rows again
    return _record(missed, now_ms)


def quarantine(expired: Expired, now_ms: int, fault: str) -> Report:
    """Report a message that `record` could not report: without its text, with values cut to their columns.

    `fault`: the class of the error. If this fails too, the letter is written without recipients and notice.

    Raises the same errors as `record`.
    """
    if not (expired.live and expired.missed):
        return Report([], {})
    fitted = {key: _fitted(message, now_ms) for key, message in _keyed([expired]).items()}
    try:
        return _write(fitted, now_ms, fault=fault)
    except (OperationalError, InterfaceError):
        raise
    except INVALID_ROW_ERRORS:
        return _write(fitted, now_ms, fault=fault, letter_only=True)


def key_of(expired: Expired) -> UUID:
    """Return the key of a message's dead letter. It is the same in every process and every release."""
    name = f"{expired.due.room.id}|{expired.sender}|{expired.id}"
    return uuid5(LETTER_NAMESPACE, name.encode("utf-8", "backslashreplace").decode())


def _keyed(messages: Sequence[Expired]) -> dict[UUID, Expired]:
    """Return {key of its letter: message}.

    When the store has forgotten an id (`id_life_s`), it accepts the id for a second message. Each of the two needs a report: the
    letter of the first keeps the key, and the key of the second includes its epoch and seq. A log that may have lost
    messages gets a new epoch, and keeps its messages: those have the same seq and the same time.
    """
    letters = DeadLetter.objects.filter(pk__in={key_of(message) for message in messages})
    rows = letters.values_list("pk", "seq", "epoch", "sent_at")
    places = {key: (seq, epoch, epoch_ms(sent_at)) for key, seq, epoch, sent_at in rows}
    keyed = {}
    for message in sorted(messages, key=lambda message: message.due.seq):
        key = key_of(message)
        seq, epoch = _number(message.due.seq, MAX_LARGE), _short_text(message.epoch, MAX_EPOCH)
        first_seq, first_epoch, first_sent_at = places.setdefault(key, (seq, epoch, message.sent_at))
        if seq != first_seq or (epoch != first_epoch and message.sent_at != first_sent_at):
            key = uuid5(key, f"{epoch}|{seq}")
        keyed[key] = message
    return keyed


def _record(messages: Sequence[Expired], now_ms: int) -> Report:
    # In the order of the keys, so that two workers cannot deadlock.
    return _write(dict(sorted(_keyed(messages).items(), key=lambda item: item[0])), now_ms)


def _write(
    messages: dict[UUID, Expired], now_ms: int, *, fault: str = "", letter_only: bool = False
) -> Report:
    """Write the rows that do not exist yet. `letter_only`: without recipients and notice."""
    if not messages:
        return Report([], {})
    batch = _Batch(messages, now_ms, fault)
    with transaction.atomic():
        existing = set(DeadLetter.objects.filter(pk__in=messages).values_list("pk", flat=True))
        new = {key: message for key, message in messages.items() if key not in existing}
        letters = batch.letters(new)
        DeadLetter.objects.bulk_create(letters, batch_size=INSERT_BATCH)
        summaries: dict[int, str] = {}
        if not letter_only:
            people = {key: batch.people[id(message.missed)] for key, message in new.items()}
            MissedRecipient.objects.bulk_create(batch.recipients(people), batch_size=INSERT_BATCH)
            summaries = notices.insert(notices.for_letters(letters, people), now_ms)
        if DeadLetter.objects.filter(pk__in=messages).count() != len(messages):
            raise DatabaseError("Not every dead letter was written.")
        waiting = notices.waiting_for(messages)
    for user, summary in summaries.items():
        waiting.setdefault(user, []).append(summary)
    return Report(list(new), waiting)


class _Batch:
    """The rows of several expired messages. Values that many messages share are built once."""

    def __init__(self, messages: dict[UUID, Expired], now_ms: int, fault: str) -> None:
        self.now_ms = now_ms
        self.fault = fault
        self.reported_at = _report_times(messages, now_ms)
        # By identity: messages that the same members missed have the same tuple.
        distinct = {id(message.missed): message.missed for message in messages.values()}
        self.packed = {key: packing.pack(missed) for key, missed in distinct.items()}
        named = {member.user for missed in distinct.values() for member in missed[:MAX_NAMED]}
        self.names = Names(named | {message.sender for message in messages.values()})
        self.rooms = _room_names({message.due.room.id for message in messages.values()})
        self.people = {
            key: [self._person(member) for member in missed[:MAX_NAMED]] for key, missed in distinct.items()
        }

    def letters(self, messages: Mapping[UUID, Expired]) -> list[DeadLetter]:
        return [self._letter(key, message) for key, message in messages.items()]

    def _letter(self, key: UUID, message: Expired) -> DeadLetter:
        room = message.due.room.id
        return DeadLetter(
            id=key,
            room_id=room if room in self.rooms else None,
            room_key=room,
            room_name=self.rooms.get(room, ""),
            epoch=message.epoch,
            seq=message.due.seq,
            message_id=message.id,
            sender_id=self.names.foreign_key(message.sender),
            sender_key=message.sender,
            sender_name=(message.name or self.names.of(message.sender))[:MAX_NAME],
            body=_kept_text(message, self.now_ms),
            reply_to=message.reply_to,
            resends=message.resends,
            sent_at=moment(message.sent_at),
            expired_at=moment(message.expires_at),
            processed_at=self.reported_at[key],
            delivered=max(0, message.total - len(message.missed)),
            total=message.total,
            missing_total=len(message.missed),
            missing=self.packed[id(message.missed)],
            fault=self.fault,
        )

    def recipients(self, people: Mapping[UUID, list[Person]]) -> Iterator[MissedRecipient]:
        for key, missing in people.items():
            for person in missing:
                yield MissedRecipient(
                    dead_letter_id=key,
                    user_id=self.names.foreign_key(person["user"]),
                    user_key=person["user"],
                    name=person["name"],
                    reason=person["reason"],
                    attempts=person["attempts"],
                )

    def _person(self, member: Missed) -> Person:
        return {
            "user": member.user,
            "name": self.names.of(member.user),
            "reason": member.reason,
            "attempts": member.attempts,
        }


def _report_times(messages: Mapping[UUID, Expired], now_ms: int) -> dict[UUID, datetime]:
    """Return {letter: time of its report}, all in one millisecond. The microseconds keep the order of expiry."""
    in_order = sorted(messages, key=lambda key: (messages[key].expires_at, messages[key].due.seq))
    return {
        key: moment(now_ms) + timedelta(microseconds=min(number, 998)) for number, key in enumerate(in_order)
    }


class Names:
    """The names of users: of their account, or the name that a deleted account had last, or `#id`."""

    def __init__(self, users: Set[int]) -> None:
        people, name = get_user_model().objects, get_user_model().USERNAME_FIELD
        self.accounts: dict[int, str] = {}
        self.former: dict[int, str] = {}
        for batch in _batches(sorted(users)):
            self.accounts |= dict(people.filter(pk__in=batch).values_list("pk", name))
        for batch in _batches(sorted(users - self.accounts.keys())):
            self.former |= dict(FormerUser.objects.filter(user_key__in=batch).values_list("user_key", "name"))

    def of(self, user: int) -> str:
        return (self.accounts.get(user) or self.former.get(user) or f"#{user}")[:MAX_NAME]

    def foreign_key(self, user: int) -> int | None:
        """Return the user's id, or None if the account no longer exists."""
        return user if user in self.accounts else None


def _room_names(rooms: Collection[str]) -> dict[str, str]:
    return dict(Room.objects.filter(pk__in=rooms).values_list("pk", "name"))


def _batches(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(keys), QUERY_BATCH):
        yield keys[start : start + QUERY_BATCH]


def _kept_text(message: Expired, now_ms: int) -> str | None:
    """Return the text, or None if its retention, counted from the expiry, is over."""
    kept_ms = policy.current().dead_letter_retention_s * 1_000
    return message.body if message.expires_at + kept_ms > now_ms else None


# ── Values that fit no column ──

MAX_SMALL, MAX_LARGE = 2**31 - 1, 2**63 - 1  # of the integer columns


def _fitted(message: Expired, now_ms: int) -> Expired:
    """Return the message with values that fit every column, without its text and without the sender's name."""
    return dataclasses.replace(
        message,
        due=dataclasses.replace(
            message.due,
            room=dataclasses.replace(message.due.room, id=_short_text(message.due.room.id, 32)),
            seq=_number(message.due.seq, MAX_LARGE),
        ),
        epoch=_short_text(message.epoch, MAX_EPOCH),
        id=_short_text(message.id, 64),
        name="",
        body=None,
        sender=_number(message.sender, MAX_LARGE),
        sent_at=_time(message.sent_at, now_ms),
        expires_at=_time(message.expires_at, now_ms),
        reply_to=None,
        resends=None,
        total=_number(message.total, MAX_SMALL),
        missed=tuple(
            Missed(
                _number(member.user, MAX_LARGE),
                _short_text(member.reason, 20),
                _number(member.attempts, MAX_SMALL),
            )
            for member in message.missed
        ),
    )


def _short_text(text: str, limit: int) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "")[:limit]


def _number(number: int, limit: int) -> int:
    return max(0, min(number, limit))


def _time(ms: int, now_ms: int) -> int:
    try:
        moment(ms)
    except OverflowError:
        return now_ms
    return ms
