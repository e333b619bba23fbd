"""Resend many dead letters for the staff, and return an outcome for each.

A letter is sent at most once, by any number of calls and callers (`resend`). A letter that cannot be sent does not stop the next
letter. The run ends if the store is down or full, or if the database is down. The remaining letters are unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import StrEnum
from uuid import UUID

from django.db import Error as DatabaseError

from messaging.bridge import in_db_thread
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
    """The result of an action on one row.

    `key`: a dead letter's id, ROOM, ROOM:USER or ROOM:SEQ. `why`: the code of a reason or an error. `left_out`: members who cannot
    receive the message: [(user, `left_room`, `deactivated` or `deleted`)].
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
    on_progress: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Resend dead letters to the members who missed them; return the outcomes of the processed letters. `by` None: a command."""
    outcomes: list[Outcome] = []
    for key in dict.fromkeys(keys):
        if stopping():
            break
        try:
            outcomes.append(await _requeue(key, by))
        except (Unavailable, BacklogFull) as error:
            outcomes.append(Outcome(str(key), Result.FAILED, error.code))
            break
        except ValueError:  # a row that was changed by hand
            outcomes.append(Outcome(str(key), Result.FAILED, "bad_row"))
        except DatabaseError:
            outcomes.append(Outcome(str(key), Result.FAILED, "database_away"))
            break
        on_progress()
    return outcomes


async def _requeue(key: UUID, by: int | None) -> Outcome:
    plan = await _plan(key)
    if plan.blocked_by:
        return Outcome(str(key), Result.SKIPPED, plan.blocked_by, plan.left_out)
    try:
        resent = await resend(key, by=by, verb=AuditEntry.Verb.REQUEUE)
    except (Unavailable, BacklogFull):
        raise
    except MessagingError as error:
        plan = await _plan(key)  # another caller was faster, or the error has another cause
        return Outcome(
            str(key), Result.SKIPPED if plan.blocked_by else Result.FAILED, plan.blocked_by or error.code
        )
    if resent.answer.duplicate:
        return Outcome(str(key), Result.SKIPPED, DeadLetter.State.REQUEUED)
    return Outcome(str(key), Result.DONE, left_out=resent.skipped)


async def _plan(key: UUID) -> letters.ResendPlan:
    row = await in_db_thread(DeadLetter.objects.filter(pk=key).first)
    return letters.ResendPlan("unknown") if row is None else await in_db_thread(letters.resend_plan, row)
