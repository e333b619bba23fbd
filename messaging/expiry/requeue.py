"""Many dead letters sent again by the staff, and what became of each.

A letter is sent once, whoever asks and however often (`resend`). What stands in the way of one does not keep the next waiting; a
store that is away or full, and a database that is away, end the run: what was not reached is as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import StrEnum
from uuid import UUID

from django.db import Error as DatabaseError

from messaging.bridge import in_database
from messaging.errors import BacklogFull, MessagingError, Unavailable
from messaging.models import AuditEntry, DeadLetter

from . import letters
from .resend import resend


class Result(StrEnum):
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an action of the staff on one row, named by its key: a dead letter's id, ROOM, ROOM:USER or ROOM:SEQ.

    `why`: the code of a reason or an error. `left_out`: people who cannot be sent to, [(user, `left_room`, `deactivated` or `deleted`)].
    """

    key: str
    result: Result
    why: str = ""
    left_out: Sequence[tuple[int, str]] = ()


async def requeue(
    keys: Sequence[UUID],
    *,
    by: int | None,
    stopping: Callable[[], bool] = lambda: False,
    told: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Send dead letters again to those who missed them; return what became of those that were reached. `by` None: a command."""
    outcomes: list[Outcome] = []
    for key in dict.fromkeys(keys):
        if stopping():
            break
        try:
            outcomes.append(await _requeue(key, by))
        except (Unavailable, BacklogFull) as fault:
            outcomes.append(Outcome(str(key), Result.FAILED, fault.code))
            break
        except ValueError:  # a row that somebody changed by hand
            outcomes.append(Outcome(str(key), Result.FAILED, "bad_row"))
        except DatabaseError:
            outcomes.append(Outcome(str(key), Result.FAILED, "database_away"))
            break
        told()
    return outcomes


async def _requeue(key: UUID, by: int | None) -> Outcome:
    found = await _prospect(key)
    if found.obstacle:
        return Outcome(str(key), Result.SKIPPED, found.obstacle, found.left_out)
    try:
        resent = await resend(key, by=by, verb=AuditEntry.Verb.REQUEUE)
    except (Unavailable, BacklogFull):
        raise
    except MessagingError as fault:
        found = await _prospect(key)  # somebody else was quicker, or it is of another kind
        return Outcome(
            str(key), Result.SKIPPED if found.obstacle else Result.FAILED, found.obstacle or fault.code
        )
    if resent.answer.duplicate:
        return Outcome(str(key), Result.SKIPPED, DeadLetter.State.REQUEUED)
    return Outcome(str(key), Result.DONE, left_out=resent.skipped)


async def _prospect(key: UUID) -> letters.Prospect:
    row = await in_database(DeadLetter.objects.filter(pk=key).first)
    return letters.Prospect("unknown") if row is None else await in_database(letters.prospect, row)
