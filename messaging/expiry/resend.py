"""Send an expired message again to just those who missed it: once, whoever asks, however often.

The dead letter says who missed it -> a note that the resend began -> append, with an id derived from the letter, so that the store
accepts it once -> the answer stays in the letter. A process that dies between is made up for by `finish_unfinished`: the same id
gets the same answer.
"""

from __future__ import annotations

import dataclasses
import logging
from uuid import UUID, uuid5

from django.core.exceptions import ObjectDoesNotExist
from django.db import Error as DatabaseError

from messaging import policy as policies
from messaging.bridge import in_database
from messaging.errors import BacklogFull, MessagingError, NobodyMissedIt, NotMember, TooLate, Unavailable
from messaging.models import AuditEntry, DeadLetter, Room
from messaging.rooms import memberships
from messaging.store import Store, open_store
from messaging.store.records import Accepted, Append

from . import letters

Verb = AuditEntry.Verb

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Resent:
    """The answer, and who was left out: [(user, `left_room`, `deactivated` or `deleted`)]."""

    answer: Accepted
    skipped: list[tuple[int, str]]


async def resend(
    letter: UUID, *, by: int | None, ttl_s: int | None = None, verb: str = Verb.RESEND
) -> Resent:
    """Send a dead letter's message again, as its sender; a repeat gets the first answer, `duplicate`. `by` None: a job.

    Raises NobodyMissedIt when nobody is left to send it to, TooLate when its text is not kept or it was discarded, NotMember when
    its room is gone or its sender has left it, BadTtl, Unavailable, BacklogFull.
    """
    row = await in_database(DeadLetter.objects.select_related("room").get, pk=letter)
    if row.answer is not None:
        return Resent(_accepted(row.answer), [])
    found = await in_database(letters.prospect, row)
    if found.obstacle or row.room is None or row.body is None:
        raise _refusal(found.obstacle)
    store = open_store()
    append = await _append_of(store, row, row.room, row.body, found.users, ttl_s)
    if not await in_database(letters.begin_resend, letter, await store.now_ms()):
        return await _answered_meanwhile(letter)
    [answer] = await store.log.append([append])
    if isinstance(answer, MessagingError):
        raise answer
    kept = await in_database(letters.end_resend, letter, _fields(answer), by, await store.now_ms(), verb)
    if kept != _fields(answer) or answer.duplicate:
        return Resent(_accepted(kept), found.left_out)
    return Resent(answer, found.left_out)


def _refusal(obstacle: str) -> MessagingError:
    match obstacle:
        case "room_gone" | "sender_left":
            return NotMember("The room is gone, or the sender has left it.")
        case "nobody_left":
            return NobodyMissedIt("Nobody who missed this message can be sent to any more.")
        case "text_gone":
            return TooLate("The text of this message is not kept any more.")
        case _:
            return TooLate("The staff have discarded this message.")


async def _append_of(
    store: Store, row: DeadLetter, room: Room, body: str, users: list[int], ttl_s: int | None
) -> Append:
    """Return the message to send again. Raises BadTtl, Unavailable."""
    life_s = policies.current().ttl(ttl_s, room_s=room.ttl_s, room_max_s=room.ttl_max_s)
    [place] = await store.log.positions([memberships.key_of(room)])
    same_log = place is not None and place.epoch == row.epoch
    return Append(
        room=memberships.key_of(room),
        user=row.sender_key,
        name=row.sender_name,
        id=str(uuid5(row.pk, "resend")),
        body=body,
        ttl_ms=life_s * 1000,
        reply_to=row.reply_to if same_log else None,
        only=tuple(users),
        resends=row.seq,
    )


async def _answered_meanwhile(letter: UUID) -> Resent:
    row = await in_database(DeadLetter.objects.get, pk=letter)
    if row.answer is None:
        raise TooLate("The staff have discarded this message, or its text is not kept any more.")
    return Resent(_accepted(row.answer), [])


async def finish_unfinished() -> int:
    """Go on with resends whose process died on the way; return how many. For the expiry job. Raises Unavailable.

    One that cannot be sent is given up: it must not stop the others, nor the job, minute after minute. A full store is waited for.
    """
    rows = await in_database(letters.unfinished_resends, await open_store().now_ms())
    finished = 0
    for row in rows:
        ids = {"room": row.room_key, "seq": row.seq}
        try:
            await resend(row.pk, by=None)
            finished += 1
        except Unavailable:
            raise
        except BacklogFull:
            continue
        except DatabaseError:
            log.warning("a resend could not be finished", extra=ids)
        except (MessagingError, ObjectDoesNotExist, ValueError) as fault:
            log.warning("a resend was given up", extra={**ids, "reason": type(fault).__name__})
            await in_database(letters.abandon_resend, row.pk)
    return finished


def _fields(answer: Accepted) -> dict[str, str | int]:
    return {
        "epoch": answer.epoch,
        "seq": answer.seq,
        "sent_at": answer.sent_at,
        "expires_at": answer.expires_at,
    }


def _accepted(fields: dict[str, str | int]) -> Accepted:
    return Accepted(
        str(fields["epoch"]),
        int(fields["seq"]),
        int(fields["sent_at"]),
        int(fields["expires_at"]),
        duplicate=True,
    )
