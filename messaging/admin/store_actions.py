"""The staff's actions on undelivered rooms and members, live messages, rooms and memberships: texts, forms, effects in numbers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from django import forms
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from messaging import policy
from messaging.bridge import run_async
from messaging.errors import Unavailable
from messaging.expiry.requeue import Outcome
from messaging.models import Membership

from . import operations
from .actions import Action, FormData

MAX_ROOMS = 200  # or members, in one request: each room is a sweep of 5 to 20 ms
MAX_MESSAGES = 500  # each is a script and an audit entry
MEMBERS_CHUNK = 100  # of a bulk action: members of the same room share the calls to the store


def _perform_by_keys(
    operation: Callable[[Sequence[str]], Coroutine[Any, Any, list[Outcome]]],
) -> Callable[[int, Sequence[str], FormData], list[Outcome]]:
    def perform(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
        return run_async(operation, keys)

    return perform


# ── Undelivered ──


def _retry_rooms_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    effect = ngettext(
        "%(n)s room will be swept now: due messages are sent again to connected members.",
        "%(n)s rooms will be swept now: due messages are sent again to connected members.",
        len(rows),
    ) % {"n": f"{len(rows):,}"}
    return [effect, gettext("Offline members need no retry: everything is sent when they reconnect.")]


def _retry_members_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    effect = ngettext(
        "Undelivered messages will be sent again now to %(n)s member, if connected. This counts as one more attempt.",
        "Undelivered messages will be sent again now to the connected ones among %(n)s members. This counts as one more attempt for each.",
        len(rows),
    ) % {"n": f"{len(rows):,}"}
    return [effect, gettext("Offline members need no retry: everything is sent when they reconnect.")]


def _reset_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    effect = ngettext(
        "The attempts of %(n)s member will be reset: where delivery had been given up, the next sweep (within a minute) retries.",
        "The attempts of %(n)s members will be reset: where delivery had been given up, the next sweep (within a minute) retries.",
        len(rows),
    )
    return [effect % {"n": f"{len(rows):,}"}]


RETRY_ROOMS = Action(
    name="retry",
    label=_("Retry now"),
    permission="messaging.retry_undelivered",
    perform=_perform_by_keys(operations.retry_rooms),
    effect=_retry_rooms_effect,
    summary_text=_("Swept: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=_("retried undelivered messages"),
    max_rows=MAX_ROOMS,
    safe_to_repeat=frozenset({"nothing_due"}),
)
RETRY_MEMBERS = Action(
    name="retry",
    label=_("Retry now"),
    permission="messaging.retry_undelivered",
    perform=_perform_by_keys(operations.retry_members),
    effect=_retry_members_effect,
    summary_text=_("Retried: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=_("retried undelivered messages"),
    max_rows=MAX_ROOMS,
    chunk_rows=MEMBERS_CHUNK,
)
RESET_ATTEMPTS = Action(
    name="reset",
    label=_("Reset attempts"),
    permission="messaging.retry_undelivered",
    perform=_perform_by_keys(operations.reset_attempts),
    effect=_reset_effect,
    summary_text=_("Reset: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=_("reset the attempts"),
    chunk_rows=MEMBERS_CHUNK,
    safe_to_repeat=frozenset({"no_attempts"}),
)


# ── Messages ──


class ExtendForm(forms.Form):
    """The remaining lifetime of messages."""

    ttl = forms.IntegerField(label=_("Minimum lifetime from now, in seconds"), min_value=1)

    def clean_ttl(self) -> int:
        return _within_site_limits(self.cleaned_data["ttl"])


def _within_site_limits(ttl_s: int) -> int:
    site = policy.current()
    if not site.ttl_min_s <= ttl_s <= site.ttl_max_s:
        message = gettext("Must be between %(min)s and %(max)s seconds.")
        raise forms.ValidationError(message % {"min": site.ttl_min_s, "max": site.ttl_max_s})
    return ttl_s


def _delete_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    effect = ngettext(
        "%(n)s message will be removed permanently from every screen. Anyone who has not received it never will, and nobody is reported as having missed it.",
        "%(n)s messages will be removed permanently from every screen. Anyone who has not received them never will, and nobody is reported as having missed them.",
        len(rows),
    )
    return [effect % {"n": f"{len(rows):,}"}]


def _extend_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    effect = ngettext(
        "%(n)s message will live at least %(ttl)s seconds from now. If it already lives longer, it is unchanged.",
        "%(n)s messages will live at least %(ttl)s seconds from now. Messages that already live longer are unchanged.",
        len(rows),
    )
    return [effect % {"n": f"{len(rows):,}", "ttl": f"{form_data['ttl']:,}"}]


def _delete(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
    return run_async(operations.delete_messages, keys, by=user_id)


def _extend(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
    return run_async(operations.extend_messages, keys, form_data["ttl"], by=user_id)


DELETE_MESSAGES = Action(
    name="delete",
    label=_("Delete"),
    permission="messaging.delete_storedmessage",
    perform=_delete,
    effect=_delete_effect,
    summary_text=_("Deleted: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=_("deleted a message"),
    max_rows=MAX_MESSAGES,
    safe_to_repeat=frozenset({"unknown"}),
)
EXTEND_MESSAGES = Action(
    name="extend",
    label=_("Extend"),
    permission="messaging.extend_storedmessage",
    perform=_extend,
    effect=_extend_effect,
    form=ExtendForm,
    summary_text=_("Extended: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=_("extended a message's lifetime"),
    max_rows=MAX_MESSAGES,
)


# ── Rooms and memberships ──


class LifetimeForm(forms.Form):
    """The lifetime of new messages, and whether it also applies to existing ones."""

    ttl = forms.IntegerField(label=_("Lifetime of new messages, in seconds"), min_value=1)
    shorten = forms.BooleanField(label=_("Also apply to existing messages"), required=False)

    def clean_ttl(self) -> int:
        return _within_site_limits(self.cleaned_data["ttl"])


def _lifetime_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    changed = sum(row.ttl_s != form_data["ttl"] for row in rows)
    sentences = [
        ngettext(
            "New messages in %(n)s room will live %(ttl)s seconds. Rooms whose lifetime changes: %(changed)s.",
            "New messages in %(n)s rooms will live %(ttl)s seconds. Rooms whose lifetime changes: %(changed)s.",
            len(rows),
        )
        % {"n": f"{len(rows):,}", "ttl": f"{form_data['ttl']:,}", "changed": f"{changed:,}"}
    ]
    if not form_data["shorten"]:
        return [*sentences, gettext("Existing messages keep their expiry.")]
    try:
        count, counted_rooms = run_async(
            operations.count_shortened, [str(row.pk) for row in rows], form_data["ttl"]
        )
    except Unavailable:
        uncounted = gettext(
            "The store does not answer, so the messages that will expire sooner cannot be counted now."
        )
        return [*sentences, uncounted]
    shortened = gettext(
        "Of %(looked)s existing messages, %(shortened)s will expire sooner, %(ended)s of them immediately. "
        "If someone misses a message because of this, its sender is told."
    )
    numbers = {"looked": count.looked, "shortened": count.shortened, "ended": count.ended}
    sentences.append(shortened % {name: f"{value:,}" for name, value in numbers.items()})
    if counted_rooms < len(rows):
        incomplete = gettext("Only the first %(n)s rooms were counted.")
        sentences.append(incomplete % {"n": f"{counted_rooms:,}"})
    return sentences


def _change_lifetime(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
    return run_async(
        operations.change_lifetimes, keys, form_data["ttl"], shorten=form_data["shorten"], by=user_id
    )


def _close_effect(rows: Sequence[Any], form_data: FormData) -> list[str]:
    people = len({row.user_id for row in rows})
    effect = ngettext(
        "All connections of %(n)s person will be closed. Their pages reconnect automatically and lose nothing.",
        "All connections of %(n)s people will be closed. Their pages reconnect automatically and lose nothing.",
        people,
    )
    return [effect % {"n": f"{people:,}"}]


def _close(user_id: int, keys: Sequence[str], form_data: FormData) -> list[Outcome]:
    users = {
        str(key): user for key, user in Membership.objects.filter(pk__in=keys).values_list("pk", "user_id")
    }
    return run_async(operations.close_connections, [(key, users[key]) for key in keys if key in users])


CHANGE_LIFETIME = Action(
    name="lifetime",
    label=_("Change lifetime"),
    permission="messaging.change_lifetime",
    perform=_change_lifetime,
    effect=_lifetime_effect,
    form=LifetimeForm,
    summary_text=_("Changed: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=_("changed a room's lifetime"),
    max_rows=MAX_ROOMS,
    safe_to_repeat=frozenset(),
)
CLOSE_CONNECTIONS = Action(
    name="close",
    label=_("Close this user's connections"),
    permission="messaging.close_connections",
    perform=_close,
    effect=_close_effect,
    summary_text=_("Closed: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    log_text=_("closed a user's connections"),
)
