"""Bulk actions in the database. The selected rows are processed in order, by one worker at a time.

    asked (its keys are fixed) --start--> running --every row has a result--> done
                                             |--stop, or its user lost the permission--> stopped

The keys are stored in portions of 500, in processing order. A worker claims a bulk action for the time of a lease, and processes it
in chunks:

    reserve: `begun` = end of the chunk --> the action runs --> record: results are counted, `at` = end of the chunk

Rows before `at` have a result. Rows from `at` up to `begun` are in doubt: they may have been changed, and no result was recorded.
These are the rows of the chunk in progress. They stay in doubt if the worker is killed or the action is paused; `bulk_job` decides what
happens to them. When another worker has claimed the bulk action, the earlier worker can no longer reserve or record.

This module does not import `actions`, `action_admin` or the pages.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from messaging.models import BulkAction, BulkPortion, moment

MAX_ROWS = 100_000  # rows in one bulk action: as many as the default of `dead_letter_count`. A confirmation page needs 7 s to count them
PORTION_KEYS = 500  # in one BulkPortion
STOPPED_BATCH = 500

State = BulkAction.State
ENDED = (State.DONE, State.STOPPED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """The results of some rows: how many were done, skipped and failed; {reason: rows}; {reason: people left out}."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    reasons: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.done + self.skipped + self.failed


# ── For the pages ──


def create(
    user: Any, list_name: str, action_name: str, keys: Sequence[str], *, query: str, now_ms: int
) -> BulkAction:
    """Store the keys of the selected rows. A confirmation page then asks whether to change these rows.

    Deletes the user's earlier bulk action for the same list and action, if it was not confirmed.
    """
    with transaction.atomic():
        BulkAction.objects.filter(by=user, listed=list_name, verb=action_name, state=State.ASKED).delete()
        bulk_action = BulkAction.objects.create(
            by=user,
            by_name=user.get_username(),
            listed=list_name,
            verb=action_name,
            query=query,
            total=len(keys),
            asked_at=moment(now_ms),
        )
        BulkPortion.objects.bulk_create(
            BulkPortion(action=bulk_action, first=first, keys=" ".join(keys[first : first + PORTION_KEYS]))
            for first in range(0, len(keys), PORTION_KEYS)
        )
    return bulk_action


def start(bulk_action: BulkAction, form_data: Mapping[str, Any], log_text: str, now_ms: int) -> bool:
    """Make a bulk action ready for the job; False: it was started before, or no longer exists. Idempotent."""
    asked = BulkAction.objects.filter(pk=bulk_action.pk, state=State.ASKED)
    return bool(
        asked.update(state=State.RUNNING, given=dict(form_data), noted=log_text, started_at=moment(now_ms))
    )


def stop(bulk_action: BulkAction, *, reason: str, name: str, now_ms: int) -> bool:
    """Stop a bulk action: rows in progress still get a result, rows that have not begun stay unchanged. Idempotent."""
    running = BulkAction.objects.filter(pk=bulk_action.pk, state=State.RUNNING)
    return bool(running.update(state=State.STOPPED, why=reason, stopped_by=name, ended_at=moment(now_ms)))


def keys_of(bulk_action: BulkAction, start: int, stop: int) -> list[str]:
    """Return the keys of the rows at these positions. The list is empty after the bulk action has ended and its keys were deleted."""
    portions = BulkPortion.objects.filter(action=bulk_action, first__gt=start - PORTION_KEYS, first__lt=stop)
    keys = [key for portion in portions.order_by("first") for key in portion.keys.split(" ")]
    offset = start % PORTION_KEYS
    return keys[offset : offset + stop - start]


# ── For the job ──


def claim(now_ms: int, lease_s: float, *, exclude: Collection[int] = ()) -> BulkAction | None:
    """Claim the oldest running bulk action; paused ones come last.

    Return None if none is running, or if a worker has claimed any bulk action. There is one claim on the whole site: a worker has two processes, and one must stay free for retries and expiry.
    """
    now = moment(now_ms)
    running = BulkAction.objects.filter(state=State.RUNNING)
    if running.filter(claimed_until__gt=now).exists():
        return None
    for bulk_action in running.exclude(pk__in=exclude).order_by("why", "started_at", "pk")[:1]:
        token = secrets.token_hex(8)
        free = running.filter(Q(claimed_until=None) | Q(claimed_until__lte=now), pk=bulk_action.pk)
        if free.update(token=token, claimed_until=now + timedelta(seconds=lease_s), why=""):
            return BulkAction.objects.get(pk=bulk_action.pk)
    return None


def reserve(bulk_action: BulkAction, end: int, now_ms: int, lease_s: float) -> bool:
    """Reserve the rows before `end` and renew the claim; False: the claim is lost, or the bulk action was stopped."""
    claimed_until = moment(now_ms) + timedelta(seconds=lease_s)
    running = _claimed(bulk_action).filter(state=State.RUNNING)
    return _refreshed(bulk_action, running.update(begun=end, claimed_until=claimed_until))


def record(bulk_action: BulkAction, result: ChunkResult) -> bool:
    """Record the results of the next rows; False: the claim is lost."""
    end = bulk_action.at + result.rows
    changed = _claimed(bulk_action).update(
        at=end,
        begun=max(end, bulk_action.begun),
        done=bulk_action.done + result.done,
        skipped=bulk_action.skipped + result.skipped,
        failed=bulk_action.failed + result.failed,
        reasons=_sum(bulk_action.reasons, result.reasons),
        left_out=_sum(bulk_action.left_out, result.left_out),
    )
    return _refreshed(bulk_action, changed)


def release(bulk_action: BulkAction, *, waits_for: str = "") -> None:
    """Give up the claim; `waits_for`: the reason of a pause. Reserved rows without a result stay in doubt."""
    with transaction.atomic():
        _claimed(bulk_action).filter(state=State.RUNNING).update(why=waits_for)
        _claimed(bulk_action).update(token="", claimed_until=None)


def finish(bulk_action: BulkAction, now_ms: int) -> None:
    """End a bulk action whose rows all have a result, and delete its keys."""
    with transaction.atomic():
        _claimed(bulk_action).filter(state=State.RUNNING).update(state=State.DONE, ended_at=moment(now_ms))
        _claimed(bulk_action).update(token="", claimed_until=None)
        BulkPortion.objects.filter(action=bulk_action, action__state__in=ENDED).delete()


def finish_stopped(now_ms: int) -> int:
    """Delete the keys of stopped bulk actions that no worker holds; return the number of bulk actions, at most 500.

    Rows in doubt count as failed.
    """
    free = Q(claimed_until=None) | Q(claimed_until__lte=moment(now_ms))
    stopped = BulkAction.objects.filter(free, state=State.STOPPED, portions__first=0)
    finished = 0
    for bulk_action in stopped[:STOPPED_BATCH]:
        in_doubt = bulk_action.in_doubt
        with transaction.atomic():
            if in_doubt and not record(
                bulk_action, ChunkResult(failed=in_doubt, reasons={"cut_off": in_doubt})
            ):
                continue
            BulkPortion.objects.filter(action=bulk_action).delete()
        finished += 1
    return finished


def _claimed(bulk_action: BulkAction) -> Any:
    """Return a queryset of the bulk action; it is empty if the claim has changed since `bulk_action` was read."""
    return BulkAction.objects.filter(pk=bulk_action.pk, token=bulk_action.token)


def _refreshed(bulk_action: BulkAction, changed: int) -> bool:
    if changed:
        bulk_action.refresh_from_db()
    return bool(changed)


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(first) + Counter(second))
