"""Reports of what expired before everybody had it: a dead letter, who missed it, and its sender's notice, in one transaction.

The store says who missed a message -> `record` writes letter, missed recipients and notice together, `set_aside` what cannot be
written like that -> only then the store forgets the message. Every key is derived from the message, so a second run or a second
worker writes nothing new. What becomes of a letter afterwards: `letters`. Knows nothing of Redis; no text is ever logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence, Set
from typing import Any
from uuid import UUID, uuid5

from django.contrib.auth import get_user_model
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, transaction

from messaging import policy
from messaging.models import DeadLetter, FormerUser, MissedRecipient, Notice, Room, moment
from messaging.store.records import Expired, Missed

from . import notices, packing

NAMED_MOST = 100  # people by name in a letter and in its notice: the contract
NAME_MOST, EPOCH_MOST = 150, 64  # what the columns hold
FOUND_AT_ONCE = 5_000  # keys in one query; SQLite takes 32,766
INSERTED_AT_ONCE = 1_000
TRIES = 3  # as many as report at once: each failure is another one's commit
# The name space of the letters' keys: with another one everything not yet finalized would be reported twice.
LETTERS = UUID("c1d7a8f2-6a0e-4e57-9d0b-2f3a5a4f0c55")
# What a row that fits no table raises, here and there.
ODD = (DatabaseError, ValueError, OverflowError, TypeError)


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """The dead letters written now, and whom to tell of what: {user: notice ids}, also those of a run that ended before it told."""

    letters: list[UUID]
    notices: dict[int, list[str]]


def record(expired: Sequence[Expired], now_ms: int) -> Recorded:
    """Report those of `expired` that somebody missed, all or none; what is reported already is left alone.

    Raises OperationalError or InterfaceError when the database is away; anything else: something in `expired` is bad.
    """
    owed = [one for one in expired if one.live and one.missed]
    for _ in range(TRIES - 1):
        try:
            return _record(owed, now_ms)
        except IntegrityError:
            continue  # another worker was quicker, or somebody was deleted meanwhile: what is there now decides
    return _record(owed, now_ms)


def set_aside(expired: Expired, now_ms: int, fault: str) -> Recorded:
    """Report what `record` could not: without its text, whatever fits no column cut off. `fault`: the exception's class.

    The sender is told if at all possible. Raises as `record`.
    """
    if not (expired.live and expired.missed):
        return Recorded([], {})
    plain = {key: _plain(one, now_ms) for key, one in _keyed([expired]).items()}
    try:
        return _write(plain, now_ms, fault=fault)
    except (OperationalError, InterfaceError):
        raise
    except ODD:
        return _write(plain, now_ms, fault=fault, alone=True)


def key_of(expired: Expired) -> UUID:
    """Return the key of a message's dead letter: the same for everybody who asks, for ever."""
    name = f"{expired.due.room.id}|{expired.sender}|{expired.id}"
    return uuid5(LETTERS, name.encode("utf-8", "backslashreplace").decode())


def _keyed(owed: Sequence[Expired]) -> dict[UUID, Expired]:
    """Return messages by the keys of their letters.

    Once the store has forgotten an id (`id_life_s`) it accepts it for another message. That one must not pass for reported
    because the first was: the letter that is there keeps the key, the other gets one that names its place in the log too.
    """
    letters = DeadLetter.objects.filter(pk__in={key_of(one) for one in owed})
    places = {key: place for key, *place in letters.values_list("pk", "epoch", "seq")}
    keyed = {}
    for one in sorted(owed, key=lambda one: one.due.seq):
        key, place = key_of(one), [_word(one.epoch, EPOCH_MOST), _number(one.due.seq, LARGE)]
        if places.setdefault(key, place) != place:
            key = uuid5(key, f"{place[0]}|{place[1]}")
        keyed[key] = one
    return keyed


def _record(owed: Sequence[Expired], now_ms: int) -> Recorded:
    # In the order of the keys, so that two workers wait for each other and not in a ring.
    return _write(dict(sorted(_keyed(owed).items(), key=lambda item: item[0])), now_ms)


def _write(owed: dict[UUID, Expired], now_ms: int, *, fault: str = "", alone: bool = False) -> Recorded:
    """Write what is not there yet; `alone`: the letter without recipients and notice."""
    if not owed:
        return Recorded([], {})
    batch = _Batch(owed, now_ms, fault)
    with transaction.atomic():
        there = set(DeadLetter.objects.filter(pk__in=owed).values_list("pk", flat=True))
        new = {key: one for key, one in owed.items() if key not in there}
        DeadLetter.objects.bulk_create(batch.letters(new), batch_size=INSERTED_AT_ONCE)
        if not alone:
            MissedRecipient.objects.bulk_create(batch.recipients(new), batch_size=INSERTED_AT_ONCE)
        summaries = {} if alone else notices.insert(list(batch.notices(new)), now_ms)
        if DeadLetter.objects.filter(pk__in=owed).count() != len(owed):
            raise DatabaseError("Not every dead letter was written.")
        told = notices.waiting_for(owed)
    for user, summary in summaries.items():
        told.setdefault(user, []).append(summary)
    return Recorded(list(new), told)


class _Batch:
    """The rows of some expired messages. What many of them share is made once."""

    def __init__(self, owed: dict[UUID, Expired], now_ms: int, fault: str) -> None:
        self.now_ms = now_ms
        self.fault = fault
        # By identity: one tuple is shared by the messages that the same members missed.
        distinct = {id(one.missed): one.missed for one in owed.values()}
        self.packed = {key: packing.pack(missed) for key, missed in distinct.items()}
        named = {one.user for missed in distinct.values() for one in missed[:NAMED_MOST]}
        self.names = Names(named | {one.sender for one in owed.values()})
        self.rooms = _room_names({one.due.room.id for one in owed.values()})
        self.people = {
            key: [self._person(one) for one in missed[:NAMED_MOST]] for key, missed in distinct.items()
        }

    def letters(self, new: dict[UUID, Expired]) -> Iterator[DeadLetter]:
        for key, one in new.items():
            room = one.due.room.id
            yield DeadLetter(
                id=key,
                room_id=room if room in self.rooms else None,
                room_key=room,
                room_name=self.rooms.get(room, ""),
                epoch=one.epoch,
                seq=one.due.seq,
                message_id=one.id,
                sender_id=self.names.present(one.sender),
                sender_key=one.sender,
                sender_name=(one.name or self.names.of(one.sender))[:NAME_MOST],
                body=_kept_text(one, self.now_ms),
                reply_to=one.reply_to,
                resends=one.resends,
                sent_at=moment(one.sent_at),
                expired_at=moment(one.expires_at),
                processed_at=moment(self.now_ms),
                delivered=_delivered(one),
                total=one.total,
                missing_total=len(one.missed),
                missing=self.packed[id(one.missed)],
                fault=self.fault,
            )

    def recipients(self, new: dict[UUID, Expired]) -> Iterator[MissedRecipient]:
        for key, one in new.items():
            for person in self.people[id(one.missed)]:
                yield MissedRecipient(
                    dead_letter_id=key,
                    user_id=self.names.present(person["user"]),
                    user_key=person["user"],
                    name=person["name"],
                    reason=person["reason"],
                    attempts=person["attempts"],
                )

    def notices(self, new: dict[UUID, Expired]) -> Iterator[Notice]:
        """Yield what the senders are told, in the order of expiry; one who was deleted is told nothing."""
        told = [item for item in new.items() if self.names.present(item[1].sender)]
        for key, one in sorted(told, key=lambda item: (item[1].expires_at, item[1].due.seq)):
            yield Notice(
                id=uuid5(key, "notice").hex,
                user_id=one.sender,
                kind=Notice.Kind.UNDELIVERED,
                room_key=one.due.room.id,
                dead_letter_id=key,
                data=self._data(one),
            )

    def _data(self, one: Expired) -> dict[str, Any]:
        return {
            "room": one.due.room.id,
            "epoch": one.epoch,
            "seq": one.due.seq,
            "id": one.id,
            "sent_at": one.sent_at,
            "expired_at": one.expires_at,
            "delivered": _delivered(one),
            "total": one.total,
            "missing": self.people[id(one.missed)],
            "missing_total": len(one.missed),
        }

    def _person(self, one: Missed) -> dict[str, Any]:
        return {
            "user": one.user,
            "name": self.names.of(one.user),
            "reason": one.reason,
            "attempts": one.attempts,
        }


class Names:
    """What some users are called: by their accounts, else as they were called before they were deleted, else by number."""

    def __init__(self, users: Set[int]) -> None:
        people, name = get_user_model().objects, get_user_model().USERNAME_FIELD
        self.accounts: dict[int, str] = {}
        self.former: dict[int, str] = {}
        for some in _portions(sorted(users)):
            self.accounts |= dict(people.filter(pk__in=some).values_list("pk", name))
        for some in _portions(sorted(users - self.accounts.keys())):
            self.former |= dict(FormerUser.objects.filter(user_key__in=some).values_list("user_key", "name"))

    def of(self, user: int) -> str:
        return (self.accounts.get(user) or self.former.get(user) or f"#{user}")[:NAME_MOST]

    def present(self, user: int) -> int | None:
        """Return the user as a foreign key may name him: None without an account."""
        return user if user in self.accounts else None


def _room_names(rooms: Collection[str]) -> dict[str, str]:
    return dict(Room.objects.filter(pk__in=rooms).values_list("pk", "name"))


def _portions(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(keys), FOUND_AT_ONCE):
        yield keys[at : at + FOUND_AT_ONCE]


def _delivered(one: Expired) -> int:
    return max(0, one.total - len(one.missed))


def _kept_text(one: Expired, now_ms: int) -> str | None:
    """Return the text while it may be kept: counted from the expiry, also where the job comes days late."""
    kept_ms = policy.current().dead_letter_retention_s * 1_000
    return one.body if one.expires_at + kept_ms > now_ms else None


# ── What fits no table ──

SMALL, LARGE = 2**31 - 1, 2**63 - 1  # what the columns of whole numbers hold


def _plain(one: Expired, now_ms: int) -> Expired:
    """Return an expired message that fits every column: without text, with the names of the accounts."""
    return dataclasses.replace(
        one,
        due=dataclasses.replace(
            one.due,
            room=dataclasses.replace(one.due.room, id=_word(one.due.room.id, 32)),
            seq=_number(one.due.seq, LARGE),
        ),
        epoch=_word(one.epoch, EPOCH_MOST),
        id=_word(one.id, 64),
        name="",
        body=None,
        sender=_number(one.sender, LARGE),
        sent_at=_time(one.sent_at, now_ms),
        expires_at=_time(one.expires_at, now_ms),
        reply_to=None,
        resends=None,
        total=_number(one.total, SMALL),
        missed=tuple(
            Missed(_number(each.user, LARGE), _word(each.reason, 20), _number(each.attempts, SMALL))
            for each in one.missed
        ),
    )


def _word(text: str, most: int) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "")[:most]


def _number(number: int, most: int) -> int:
    return max(0, min(number, most))


def _time(ms: int, now_ms: int) -> int:
    try:
        moment(ms)
    except OverflowError:
        return now_ms
    return ms
