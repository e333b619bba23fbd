"""Send an expired message again to the members who missed it: once, for any number of calls and callers.

1. Read the members who missed it from the dead letter.
2. Mark the letter as being resent.
3. Append the message with an id derived from the letter, so that the store accepts it once.
4. Keep the answer in the letter.

If a process dies between these steps, `finish_unfinished` repeats them. The same id gets the same answer.
"""

from __future__ import annotations

import dataclasses
import logging
from uuid import UUID, uuid5

from django.core.exceptions import ObjectDoesNotExist
from django.db import Error as DatabaseError

from messaging import policy as policies
from messaging.bridge import in_db_thread
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
    """The answer, and the members left out: [(user, `left_room`, `deactivated` or `deleted`)]."""

    answer: Accepted
    skipped: list[tuple[int, str]]


async def resend(
    letter: UUID, *, by: int | None, ttl_s: int | None = None, verb: str = Verb.RESEND
) -> Resent:
    """Send the message of a dead letter again, as its sender. A repeat returns the first answer, as `duplicate`. `by` None: a job.

    Raises NobodyMissedIt if no member who missed it can receive it, TooLate if the text was deleted or the letter was discarded,
    NotMember if the room was deleted or the sender has left it, BadTtl, Unavailable, BacklogFull.
    """
    row = await in_db_thread(DeadLetter.objects.select_related("room").get, pk=letter)
    if row.answer is not None:
        return Resent(_accepted(row.answer), [])
    plan = await in_db_thread(letters.resend_plan, row)
    if plan.blocked_by or row.room is None or row.body is None:
        raise _refusal(plan.blocked_by)
    store = open_store()
    append = await _append_of(store, row, row.room, row.body, plan.users, ttl_s)
    if not await in_db_thread(letters.begin_resend, letter, await store.now_ms()):
        return await _first_answer(letter)
    [answer] = await store.log.append([append])
    if isinstance(answer, MessagingError):
        raise answer
    first_answer = await in_db_thread(
        letters.end_resend, letter, _fields(answer), by, await store.now_ms(), verb
    )
    if first_answer != _fields(answer) or answer.duplicate:
        return Resent(_accepted(first_answer), plan.left_out)
    return Resent(answer, plan.left_out)


def _refusal(blocked_by: str) -> MessagingError:
    match blocked_by:
        case "room_gone" | "sender_left":
            return NotMember("The room was deleted, or the sender has left it.")
        case "nobody_left":
            return NobodyMissedIt("No member who missed this message can receive it now.")
        case "text_gone":
            return TooLate("The text of this message was deleted.")
        case _:
            return TooLate("The staff discarded this message.")


async def _append_of(
    store: Store, row: DeadLetter, room: Room, body: str, users: list[int], ttl_s: int | None
) -> Append:
    """Return the message to send again. Raises BadTtl, Unavailable."""
    life_s = policies.current().ttl(ttl_s, room_s=room.ttl_s, room_max_s=room.ttl_max_s)
    [position] = await store.log.positions([memberships.key_of(room)])
    same_log = position is not None and position.epoch == row.epoch
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


async def _first_answer(letter: UUID) -> Resent:
    row = await in_db_thread(DeadLetter.objects.get, pk=letter)
    if row.answer is None:
        raise TooLate("The staff discarded this message, or its text was deleted.")
    return Resent(_accepted(row.answer), [])


async def finish_unfinished() -> int:
    """Finish resends whose process died; return their number. The job `process_expired` calls this. Raises Unavailable.

    The resend of a letter that cannot be sent is abandoned, so that it does not stop the other letters or the job. If the store is
    full, the letter waits for the next run.
    """
    rows = await in_db_thread(letters.unfinished_resends, await open_store().now_ms())
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
        except (MessagingError, ObjectDoesNotExist, ValueError) as error:
            log.warning("a resend was abandoned", extra={**ids, "reason": type(error).__name__})
            await in_db_thread(letters.abandon_resend, row.pk)
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
