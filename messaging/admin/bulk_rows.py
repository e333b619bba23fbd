"""Bulk actions as rows: what the staff do to more rows than one request does, so that a job does it and nothing does it twice.

    asked (its keys are fixed) --start--> running --all have an outcome--> done
                                             |--stop, or its starter lost the right--> stopped

The keys lie in portions of 500, in the order in which they are done. One worker at a time holds the claim, a lease; before it
reaches rows it notes up to where (`begun`), behind them what became of them (`at`, the counts). A claim that ran out therefore
leaves between `at` and `begun` exactly the rows that may have been done; `bulk_job` says of each deed what becomes of those.
Whoever was overtaken by another's claim notes nothing any more. Knows neither deeds nor pages.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q

from messaging.models import BulkAction, BulkPortion, moment

MOST = 100_000  # rows of one bulk action: as many as there are dead letters at most, whose page took 7 s to count them
PORTION = 500  # keys in one row

State = BulkAction.State
ENDED = (State.DONE, State.STOPPED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Became:
    """What became of some rows: how many of each, and {why: how many} of rows and of people left out."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    reasons: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)


def ask(by: Any, listed: str, verb: str, keys: Sequence[str], *, query: str, now_ms: int) -> BulkAction:
    """Fix the rows of an action that its page asks about. One question a person, list and action: an earlier one goes."""
    with transaction.atomic():
        BulkAction.objects.filter(by=by, listed=listed, verb=verb, state=State.ASKED).delete()
        action = BulkAction.objects.create(
            by=by,
            by_name=by.get_username(),
            listed=listed,
            verb=verb,
            query=query,
            total=len(keys),
            asked_at=moment(now_ms),
        )
        BulkPortion.objects.bulk_create(
            BulkPortion(action=action, first=first, keys=" ".join(keys[first : first + PORTION]))
            for first in range(0, len(keys), PORTION)
        )
    return action


def start(action: BulkAction, given: Mapping[str, Any], noted: str, now_ms: int) -> bool:
    """Let the job begin; False: it began before, or the question is gone. Idempotent."""
    asked = BulkAction.objects.filter(pk=action.pk, state=State.ASKED)
    return bool(asked.update(state=State.RUNNING, given=dict(given), noted=noted, started_at=moment(now_ms)))


def stop(action: BulkAction, *, why: str, name: str, now_ms: int) -> bool:
    """End an action before its end: the rows under way get their outcome yet, those behind them stay as they are. Idempotent."""
    running = BulkAction.objects.filter(pk=action.pk, state=State.RUNNING)
    return bool(running.update(state=State.STOPPED, why=why, stopped_by=name, ended_at=moment(now_ms)))


def keys_of(action: BulkAction, start: int, stop: int) -> list[str]:
    """Return the keys of rows of an action, by their places; none once it has ended and forgotten them."""
    within = BulkPortion.objects.filter(action=action, first__gt=start - PORTION, first__lt=stop)
    keys = [key for portion in within.order_by("first") for key in portion.keys.split(" ")]
    before = start - start // PORTION * PORTION
    return keys[before : before + stop - start]


# ── By the job ──


def claim(now_ms: int, lease_s: float, *, but: Collection[int] = ()) -> BulkAction | None:
    """Take the first action that runs, those that wait for something last; None while another worker has one.

    One at a time on the whole site: the worker's other process is for retries and expiry.
    """
    now = moment(now_ms)
    running = BulkAction.objects.filter(state=State.RUNNING)
    if running.filter(claimed_until__gt=now).exists():
        return None
    for action in running.exclude(pk__in=but).order_by("why", "started_at", "pk")[:1]:
        token = secrets.token_hex(8)
        free = running.filter(Q(claimed_until=None) | Q(claimed_until__lte=now), pk=action.pk)
        if free.update(token=token, claimed_until=now + timedelta(seconds=lease_s), why=""):
            return BulkAction.objects.get(pk=action.pk)
    return None


def begin(action: BulkAction, upto: int, now_ms: int, lease_s: float) -> bool:
    """Note that the rows before `upto` are about to be reached; False: the claim is another's by now."""
    return _change(action, begun=upto, claimed_until=moment(now_ms) + timedelta(seconds=lease_s))


def note(action: BulkAction, became: Became) -> bool:
    """Note what became of the next rows; False: the claim is another's by now."""
    upto = action.at + became.done + became.skipped + became.failed
    return _change(
        action,
        at=upto,
        begun=max(upto, action.begun),
        done=action.done + became.done,
        skipped=action.skipped + became.skipped,
        failed=action.failed + became.failed,
        reasons=_sum(action.reasons, became.reasons),
        left_out=_sum(action.left_out, became.left_out),
    )


def release(action: BulkAction, *, why: str = "", doubtful: int = 0) -> None:
    """Give the claim up. `why`: what the action waits for; `doubtful`: how many of the next rows may have been reached."""
    mine = BulkAction.objects.filter(pk=action.pk, token=action.token)
    with transaction.atomic():
        mine.filter(state=State.RUNNING).update(why=why)
        mine.update(begun=F("at") + doubtful, token="", claimed_until=None)


def end(action: BulkAction, now_ms: int) -> None:
    """Note that every row has its outcome, and let go of the keys."""
    mine = BulkAction.objects.filter(pk=action.pk, token=action.token)
    with transaction.atomic():
        mine.filter(state=State.RUNNING).update(state=State.DONE, ended_at=moment(now_ms))
        mine.update(token="", claimed_until=None)
        BulkPortion.objects.filter(action=action, action__state__in=ENDED).delete()


def settle_stopped(now_ms: int) -> int:
    """Let go of the keys of stopped actions whose claim has ended; rows in doubt count as failed, `cut_off`. Return how many."""
    over = Q(claimed_until=None) | Q(claimed_until__lte=moment(now_ms))
    stopped = BulkAction.objects.filter(over, state=State.STOPPED, portions__first=0)
    settled = 0
    for action in stopped[:PORTION]:
        doubtful = action.begun - action.at
        became = Became(failed=doubtful, reasons={"cut_off": doubtful})
        with transaction.atomic():
            if doubtful and not note(action, became):
                continue
            BulkPortion.objects.filter(action=action).delete()
        settled += 1
    return settled


def _change(action: BulkAction, **fields: Any) -> bool:
    """Change an action's row while the claim is the one that was read with it, and read it again."""
    if not BulkAction.objects.filter(pk=action.pk, token=action.token).update(**fields):
        return False
    action.refresh_from_db()
    return True


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(one) + Counter(other))
