"""The staff's actions on dead letters: send again, discard, undo a discard. Texts, effects in numbers, outcomes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import UUID

from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from messaging.bridge import run_async
from messaging.expiry import letters, requeue
from messaging.expiry.requeue import Outcome, Result
from messaging.models import AuditEntry, DeadLetter
from messaging.store import clock_ms

from .actions import Action, FormData

MAX_RESENT = 200  # in one request, because a user is waiting for the response: each takes 15 to 65 ms
RESOLVED_BATCH = 200  # in one transaction of a bulk action, because the server's own writes wait for it


def _send_again(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
    return run_async(requeue.requeue, [UUID(key) for key in keys], by=user_id)


def _discard(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
    return _resolve(user_id, keys, letters.discard)


def _undo_discard(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
    return _resolve(user_id, keys, letters.undo_discard)


def _resolve(
    user_id: int,
    keys: Sequence[str],
    resolve: Callable[[Collection[UUID], int | None, int], letters.Resolved],
) -> list[Outcome]:
    resolved = resolve([UUID(key) for key in keys], user_id, run_async(clock_ms))
    outcomes = [Outcome(str(key), Result.DONE) for key in resolved.done]
    return outcomes + [Outcome(str(key), Result.SKIPPED, why) for key, why in resolved.skipped]


def _resend_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    missed_by = [row.missing_total for row in rows if row.state == DeadLetter.State.OPEN and row.has_text]
    ready, people = len(missed_by), sum(missed_by)
    effect = ngettext(
        "%(n)s message will be sent again, in its sender's name, to the people who missed it: %(people)s in total.",
        "%(n)s messages will be sent again, in their senders' names, to the people who missed them: %(people)s in total.",
        ready,
    ) % {"n": f"{ready:,}", "people": f"{people:,}"}
    sentences = [effect]
    if ready < len(rows):
        others = gettext("%(n)s cannot be sent again: no longer open, or the text is no longer kept.")
        sentences.append(others % {"n": f"{len(rows) - ready:,}"})
    sentences.append(gettext("People who have left the room or have no active account are left out."))
    return sentences


def _discard_effect(rows: Sequence[DeadLetter], form_data: FormData) -> list[str]:
    ready = sum(row.state == DeadLetter.State.OPEN for row in rows)
    effect = ngettext(
        "%(n)s dead letter will be discarded: it cannot be sent again. You can undo this for 10 minutes.",
        "%(n)s dead letters will be discarded: they cannot be sent again. You can undo this for 10 minutes.",
        ready,
    ) % {"n": f"{ready:,}"}
    others = gettext("%(n)s are not open and stay unchanged.") % {"n": f"{len(rows) - ready:,}"}
    return [effect, *([others] if ready < len(rows) else [])]


SEND_AGAIN = Action(
    name="send_again",
    label=_("Send again to the people who missed it"),
    permission="messaging.requeue_deadletter",
    perform=_send_again,
    effect=_resend_effect,
    summary_text=_("Sent again: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=AuditEntry.Verb.REQUEUE.label,
    max_rows=MAX_RESENT,
    safe_to_repeat=frozenset({DeadLetter.State.REQUEUED.value}),
)
DISCARD = Action(
    name="discard",
    label=_("Discard"),
    permission="messaging.discard_deadletter",
    perform=_discard,
    effect=_discard_effect,
    summary_text=_("Discarded: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=AuditEntry.Verb.DISCARD.label,
    chunk_rows=RESOLVED_BATCH,
    transactional=True,
)
UNDO_DISCARD = Action(
    name="take_back",
    label=_("Undo discard (within 10 minutes)"),
    permission="messaging.discard_deadletter",
    perform=_undo_discard,
    summary_text=_("Reopened: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=AuditEntry.Verb.UNDO_DISCARD.label,
    chunk_rows=RESOLVED_BATCH,
    transactional=True,
)
