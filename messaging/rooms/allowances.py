"""Limits of a user over HTTP, in all server processes together. Uses the database only.

| kind       | a token is taken for                                                 | from                          |
|------------|----------------------------------------------------------------------|-------------------------------|
| write      | a request that changes something                                     | the user who makes it         |
| membership | a membership that a request makes, also the user's own               | the user who makes it         |
| added      | a room into which another user puts a user                           | the user who is put there     |

The policy has the rates, and the bounds of a user's rooms. A user without a row has all tokens. The admin, commands and the demo take none.

Every function is synchronous.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Count, Q
from django.utils import timezone

from messaging import policy
from messaging.errors import NotAddable, RateLimited, TooManyRooms
from messaging.models import Allowance, Membership

MAX_NAMES = 10  # in the sentence of a refusal
MINUTE_S = 60


def take_write(user: int) -> None:
    """Take the token of a request that changes something. Raises RateLimited."""
    wait_s = _take("write", [user])
    if wait_s:
        seconds = math.ceil(wait_s[user])
        raise RateLimited(f"Too many changes. Try again in {seconds} s.", retry_after_ms=seconds * 1000)


def take_memberships(by: int, users: Collection[int]) -> None:
    """Take the tokens of new memberships of `users`, whose rows `by` has just inserted. Part of the caller's transaction.

    Raises RateLimited, TooManyRooms (`by`), NotAddable (another user).
    """
    wait_s = _take("membership", [by], len(users))
    if wait_s:
        minutes = math.ceil(wait_s[by] / MINUTE_S)
        raise RateLimited(
            f"You have made too many rooms or added too many people. Try again in {minutes} min.",
            retry_after_ms=minutes * MINUTE_S * 1000,
        )
    site = policy.current()
    counts = _room_counts(users)
    if by in counts and counts[by][0] > site.rooms_max:
        raise TooManyRooms(f"You are in {site.rooms_max} rooms. Leave some first.")
    others = set(users) - {by}
    full = {
        user
        for user in others
        if counts[user][0] > site.rooms_max or counts[user][1] > site.rooms_by_others_max
    }
    refused = full or _take("added", others).keys()
    if refused:
        raise not_addable(refused)


def not_addable(users: Collection[int]) -> NotAddable:
    """Return the error for users who cannot be added. It has their names, but not the reason, which is private."""
    people = get_user_model().objects.filter(pk__in=users).order_by("username")
    names = [person.get_username() for person in people[:MAX_NAMES]]
    if len(users) > MAX_NAMES:
        names.append(f"{len(users) - MAX_NAMES} others")
    return NotAddable(
        f"{', '.join(names)} cannot be added to more rooms now. Leave them out, or try again tomorrow."
    )


def _room_counts(users: Collection[int]) -> dict[int, tuple[int, int]]:
    """Return {user: (rooms, rooms into which others put them)}."""
    rows = Membership.objects.filter(user__in=users, leaving_at=None).values("user")
    added = Count("pk", filter=Q(added_by_key__isnull=False))
    counts = rows.annotate(rooms=Count("pk"), added=added).values_list("user", "rooms", "added")
    return {user: (rooms, added) for user, rooms, added in counts}


def _take(kind: str, users: Collection[int], count: int = 1) -> dict[int, float]:
    """Take `count` tokens of each user, or none at all. Return {user: seconds until they have enough} of users who have too few.

    `count` may be above the size of a bucket: then the bucket must be full, and its number of tokens becomes negative.
    """
    site = policy.current()
    rate = site.rate(getattr(site, f"{kind}_rate"))
    with transaction.atomic():
        now = timezone.now()
        tokens = dict.fromkeys(sorted(users), float(rate.burst))
        rows = Allowance.objects.select_for_update().filter(kind=kind, user__in=users)
        for row in rows.order_by("user"):  # always in the same order, so that two requests cannot deadlock
            refilled = row.tokens + max(0.0, (now - row.at).total_seconds()) * rate.per_s
            tokens[row.user_id] = min(rate.burst, refilled)
        needed = min(count, rate.burst)
        wait_s = {user: (needed - left) / rate.per_s for user, left in tokens.items() if left < needed}
        if not wait_s:
            Allowance.objects.bulk_create(
                [
                    Allowance(user_id=user, kind=kind, tokens=left - count, at=now)
                    for user, left in tokens.items()
                ],
                update_conflicts=True,
                unique_fields=["user", "kind"],
                update_fields=["tokens", "at"],
            )
    return wait_s
