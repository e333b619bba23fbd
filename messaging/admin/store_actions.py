"""What the staff may do to undelivered rooms and members, live messages, rooms and memberships: the words, the forms, the effect."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from django import forms
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from messaging import policy
from messaging.bridge import run_async
from messaging.errors import Unavailable
from messaging.models import Membership

from . import operations
from .actions import Action
from .operations import Outcome

ROOMS_MOST = 200  # rooms, or members, in one request: each room is a sweep of 5 to 20 ms
MESSAGES_MOST = 500  # each is a script and an audit row
MEMBERS_STEP = 100  # of a bulk action: those of one room are asked about together

Given = dict[str, Any]


def _keys(rows: Sequence[Any]) -> list[str]:
    return [str(row.pk) for row in rows]


def _by_keys(
    verb: Callable[[Sequence[str]], Coroutine[Any, Any, list[Outcome]]],
) -> Callable[[int, Sequence[str], Given], list[Outcome]]:
    def do(by: int, keys: Sequence[str], given: Given) -> list[Outcome]:
        return run_async(verb, keys)

    return do


# ── Undelivered ──


def _retrying_rooms(rows: Sequence[Any], given: Given) -> list[str]:
    said = ngettext(
        "%(n)s room is looked at now: what somebody connected there owes and is due is sent again.",
        "%(n)s rooms are looked at now: what somebody connected there owes and is due is sent again.",
        len(rows),
    ) % {"n": f"{len(rows):,}"}
    return [said, gettext("Who is away needs no retry: everything is sent as soon as they are back.")]


def _retrying_members(rows: Sequence[Any], given: Given) -> list[str]:
    said = ngettext(
        "To %(n)s member, if connected, what is owed is sent again at once: one more attempt is counted.",
        "To %(n)s members, as far as connected, what is owed is sent again at once: one more attempt is counted each.",
        len(rows),
    ) % {"n": f"{len(rows):,}"}
    return [said, gettext("Who is away needs no retry: everything is sent as soon as they are back.")]


def _resetting(rows: Sequence[Any], given: Given) -> list[str]:
    said = ngettext(
        "The attempts of %(n)s member are counted anew: where they had been given up, the next look, within a minute, sends again.",
        "The attempts of %(n)s members are counted anew: where they had been given up, the next look, within a minute, sends again.",
        len(rows),
    )
    return [said % {"n": f"{len(rows):,}"}]


RETRY_ROOMS = Action(
    name="retry",
    label=_("Retry now"),
    permission="messaging.retry_undelivered",
    do=_by_keys(operations.retry_rooms),
    effect=_retrying_rooms,
    said=_("Looked at: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    noted=_("retried what is undelivered"),
    most=ROOMS_MOST,
    again=frozenset({"nothing_due"}),
)
RETRY_MEMBERS = Action(
    name="retry",
    label=_("Retry now"),
    permission="messaging.retry_undelivered",
    do=_by_keys(operations.retry_members),
    effect=_retrying_members,
    said=_("Retried: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    noted=_("retried what is undelivered"),
    most=ROOMS_MOST,
    step=MEMBERS_STEP,
)
RESET_ATTEMPTS = Action(
    name="reset",
    label=_("Reset attempts"),
    permission="messaging.retry_undelivered",
    do=_by_keys(operations.reset_attempts),
    effect=_resetting,
    said=_("Counted anew: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    noted=_("reset the attempts"),
    step=MEMBERS_STEP,
    again=frozenset({"no_attempts"}),
)


# ── Messages ──


class ExtendForm(forms.Form):
    """How long messages are to live from now."""

    ttl = forms.IntegerField(label=_("Live at least so many seconds from now"), min_value=1)

    def clean_ttl(self) -> int:
        return _within_site(self.cleaned_data["ttl"])


def _within_site(ttl_s: int) -> int:
    site = policy.current()
    if not site.ttl_min_s <= ttl_s <= site.ttl_max_s:
        said = gettext("Between %(least)s and %(most)s seconds.")
        raise forms.ValidationError(said % {"least": site.ttl_min_s, "most": site.ttl_max_s})
    return ttl_s


def _deleting(rows: Sequence[Any], given: Given) -> list[str]:
    return [
        ngettext(
            "%(n)s message is taken away from every screen, for good. Who had not had it yet never gets it, and nobody is reported as having missed it.",
            "%(n)s messages are taken away from every screen, for good. Who had not had them yet never gets them, and nobody is reported as having missed them.",
            len(rows),
        )
        % {"n": f"{len(rows):,}"}
    ]


def _extending(rows: Sequence[Any], given: Given) -> list[str]:
    said = ngettext(
        "%(n)s message lives at least %(ttl)s seconds from now. What would live longer than that keeps its end.",
        "%(n)s messages live at least %(ttl)s seconds from now. What would live longer than that keeps its end.",
        len(rows),
    )
    return [said % {"n": f"{len(rows):,}", "ttl": f"{given['ttl']:,}"}]


def _delete(by: int, keys: Sequence[str], given: Given) -> list[Outcome]:
    return run_async(operations.delete_messages, keys, by=by)


def _extend(by: int, keys: Sequence[str], given: Given) -> list[Outcome]:
    return run_async(operations.extend_messages, keys, given["ttl"], by=by)


DELETE_MESSAGES = Action(
    name="delete",
    label=_("Delete"),
    permission="messaging.delete_storedmessage",
    do=_delete,
    effect=_deleting,
    said=_("Deleted: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    noted=_("deleted a message"),
    most=MESSAGES_MOST,
    again=frozenset({"unknown"}),
)
EXTEND_MESSAGES = Action(
    name="extend",
    label=_("Extend"),
    permission="messaging.extend_storedmessage",
    do=_extend,
    effect=_extending,
    form=ExtendForm,
    said=_("Extended: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    noted=_("extended a message's life"),
    most=MESSAGES_MOST,
)


# ── Rooms and memberships ──


class LifetimeForm(forms.Form):
    """The lifetime of new messages, and whether it is to hold for those that are there."""

    ttl = forms.IntegerField(label=_("Lifetime of new messages, in seconds"), min_value=1)
    shorten = forms.BooleanField(
        label=_("Messages that are there end so long after they were sent, too"), required=False
    )

    def clean_ttl(self) -> int:
        return _within_site(self.cleaned_data["ttl"])


def _changing(rows: Sequence[Any], given: Given) -> list[str]:
    changed = sum(row.ttl_s != given["ttl"] for row in rows)
    said = ngettext(
        "New messages of %(n)s room live %(ttl)s seconds; in %(changed)s of them that is another lifetime than now.",
        "New messages of %(n)s rooms live %(ttl)s seconds; in %(changed)s of them that is another lifetime than now.",
        len(rows),
    ) % {"n": f"{len(rows):,}", "ttl": f"{given['ttl']:,}", "changed": f"{changed:,}"}
    if not given["shorten"]:
        return [said, gettext("Messages that are there keep their ends.")]
    try:
        count, rooms = run_async(operations.shortening_of, _keys(rows), given["ttl"])
    except Unavailable:
        away = gettext("The store does not answer: how many messages end sooner cannot be counted now.")
        return [said, away]
    shorter = gettext(
        "Of the %(looked)s messages that are there %(shortened)s end sooner, %(ended)s of them at once. Who misses one is named to its sender."
    )
    numbers = {"looked": count.looked, "shortened": count.shortened, "ended": count.ended}
    counted = gettext("There are too many to count them all now: that is of the first %(n)s rooms.")
    return [
        said,
        shorter % {name: f"{value:,}" for name, value in numbers.items()},
        *([counted % {"n": f"{rooms:,}"}] if rooms < len(rows) else []),
    ]


def _change(by: int, keys: Sequence[str], given: Given) -> list[Outcome]:
    return run_async(operations.change_lifetimes, keys, given["ttl"], shorten=given["shorten"], by=by)


def _closing(rows: Sequence[Any], given: Given) -> list[str]:
    people = len({row.user_id for row in rows})
    said = ngettext(
        "All connections of %(n)s person are closed. Their pages come back by themselves and lose nothing.",
        "All connections of %(n)s people are closed. Their pages come back by themselves and lose nothing.",
        people,
    )
    return [said % {"n": f"{people:,}"}]


def _close(by: int, keys: Sequence[str], given: Given) -> list[Outcome]:
    users = {
        str(key): user for key, user in Membership.objects.filter(pk__in=keys).values_list("pk", "user_id")
    }
    return run_async(operations.close_connections, [(key, users[key]) for key in keys if key in users])


CHANGE_LIFETIME = Action(
    name="lifetime",
    label=_("Change lifetime"),
    permission="messaging.change_lifetime",
    do=_change,
    effect=_changing,
    form=LifetimeForm,
    said=_("Changed: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    noted=_("changed a room's lifetime"),
    most=ROOMS_MOST,
    again=frozenset(),
)
CLOSE_CONNECTIONS = Action(
    name="close",
    label=_("Close this user's connections"),
    permission="messaging.close_connections",
    do=_close,
    effect=_closing,
    said=_("Closed: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    noted=_("closed a user's connections"),
)
