"""Dead letters, notices and the audit trail for the staff: to be read, and what may be done about a dead letter.

Nothing here shows a text. Who may do what is a permission of its own (`requeue_deadletter`, `discard_deadletter`): nobody changes
or deletes these rows by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters, get_content_type_for_model
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import F, OuterRef, Prefetch, Q, QuerySet, Subquery, Window, prefetch_related_objects
from django.db.models.functions import RowNumber
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from messaging import policy
from messaging.bridge import run_async
from messaging.expiry import letters, requeue
from messaging.expiry.requeue import Result
from messaging.models import AuditEntry, DeadLetter, MissedRecipient, Notice, Room
from messaging.store import clock_ms

from . import export
from .actions import Action, ActionAdmin
from .formatting import number, signed, since
from .lists import OfRoom, ReadOnly
from .operations import Outcome

NAMED = 3  # of those who missed a message, in a list
SIGNS = {
    DeadLetter.State.OPEN: "missed",
    DeadLetter.State.REQUEUED: "waits",
    DeadLetter.State.DISCARDED: "free",
}
RESOLVED_STEP = 200  # letters in one transaction of a bulk action: the server's own writes wait for it
SENT_MOST = 200  # letters in one request, for somebody waits for the answer: sending one takes 15 to 65 ms


def _in_room(room: str, name: str) -> str:
    """Return a room as a link to its dead letters, as HTML."""
    return format_html(
        '<a href="{}?room={}">{}</a>', reverse("admin:messaging_deadletter_changelist"), room, name
    )


def _named(said: str, people: Sequence[tuple[str, str]], total: int) -> str:
    """Return words with the first who missed a message below them, [(name, why)] of `total`, as HTML."""
    names = [gettext("%(name)s (%(why)s)") % {"name": name, "why": why} for name, why in people]
    names += [f"+{number(total - len(people))}"] if total > len(people) else []
    return format_html("{}<small>{}</small>", said, gettext(", ").join(names))


def _with_room_name(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Add the names of rooms that are there still, in the same query."""
    found: QuerySet[Any] = rows.annotate(
        room_is=Subquery(Room.objects.filter(pk=OuterRef("room_key")).values("name")[:1])
    )
    return found


class MissedRecipientInline(ReadOnly, admin.TabularInline[MissedRecipient, DeadLetter]):
    model = MissedRecipient
    fields = ("name", "user_key", "reason", "attempts")
    extra = 0


def _send_again(by: int, keys: Sequence[str], given: dict[str, Any]) -> list[Outcome]:
    outcomes = run_async(requeue.requeue, [UUID(key) for key in keys], by=by)
    return [
        Outcome(str(one.letter), one.result, one.why, [why for _user, why in one.left_out])
        for one in outcomes
    ]


def _discard(by: int, keys: Sequence[str], given: dict[str, Any]) -> list[Outcome]:
    return _resolved(by, keys, letters.discard)


def _take_back(by: int, keys: Sequence[str], given: dict[str, Any]) -> list[Outcome]:
    return _resolved(by, keys, letters.undo_discard)


def _resolved(
    by: int,
    keys: Sequence[str],
    resolve: Callable[[Collection[UUID], int | None, int], letters.Resolved],
) -> list[Outcome]:
    resolved = resolve([UUID(key) for key in keys], by, run_async(clock_ms))
    outcomes = [Outcome(str(key), Result.DONE) for key in resolved.done]
    return outcomes + [Outcome(str(key), Result.SKIPPED, why) for key, why in resolved.skipped]


def _sending(rows: Sequence[Any], given: dict[str, Any]) -> list[str]:
    missed_by = [row.missing_total for row in rows if row.state == DeadLetter.State.OPEN and row.has_text]
    ready, people = len(missed_by), sum(missed_by)
    said = ngettext(
        "%(n)s message is sent again, in its sender's name, to those who missed it: %(people)s in all.",
        "%(n)s messages are sent again, in their senders' names, to those who missed them: %(people)s in all.",
        ready,
    ) % {"n": f"{ready:,}", "people": f"{people:,}"}
    others = gettext("%(n)s cannot be sent again: no longer open, or the text is not kept any more.")
    left_out = gettext("Who has left the room, or whose account is gone, is left out.")
    return [
        said,
        *([others % {"n": f"{len(rows) - ready:,}"}] if ready < len(rows) else []),
        left_out,
    ]


def _discarding(rows: Sequence[DeadLetter], given: dict[str, Any]) -> list[str]:
    ready = sum(row.state == DeadLetter.State.OPEN for row in rows)
    said = ngettext(
        "%(n)s dead letter is discarded: nobody sends it again. This may be taken back for 10 minutes.",
        "%(n)s dead letters are discarded: nobody sends them again. This may be taken back for 10 minutes.",
        ready,
    ) % {"n": f"{ready:,}"}
    others = gettext("%(n)s are not open and stay as they are.") % {"n": f"{len(rows) - ready:,}"}
    return [said, *([others] if ready < len(rows) else [])]


class InRoom(OfRoom):
    field = "room_key"


class SetAside(admin.SimpleListFilter):
    """Those whose text was not kept, because something in them fits no table."""

    title = _("set aside")
    parameter_name = "set_aside"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "yes":
            return queryset.exclude(fault="")
        return queryset.filter(fault="") if self.value() == "no" else queryset


class Waiting(admin.SimpleListFilter):
    """Notices that their users have not dismissed."""

    title = _("dismissed by the user")
    parameter_name = "dismissed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(dismissed_at__isnull=self.value() == "no") if self.value() else queryset


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly, ActionAdmin):
    empty_says = _("No dead letters. Whatever expired had reached everybody.")
    list_display = ("sign", "where", "seq", "sender_name", "expired", "missed_by")
    list_filter = ("state", "missed_recipients__reason", InRoom, "expired_at", SetAside)
    search_help_text = _("A sender's or room's name, or the number of a room, a message or its place")
    search_fields = ("sender_name", "room_name", "=room_key", "=message_id", "=seq")
    verbs = (
        Action(
            name="send_again",
            label=_("Send again to those who missed it"),
            permission="messaging.requeue_deadletter",
            do=_send_again,
            effect=_sending,
            said=_("Sent again: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
            noted=AuditEntry.Verb.REQUEUE.label,
            most=SENT_MOST,
            again=frozenset({DeadLetter.State.REQUEUED.value}),
        ),
        Action(
            name="discard",
            label=_("Discard: nobody sends it again"),
            permission="messaging.discard_deadletter",
            do=_discard,
            effect=_discarding,
            said=_("Discarded: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
            noted=AuditEntry.Verb.DISCARD.label,
            step=RESOLVED_STEP,
            whole=True,
        ),
        Action(
            name="take_back",
            label=_("Take back a discard of the last 10 minutes"),
            permission="messaging.discard_deadletter",
            do=_take_back,
            said=_("Taken back: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
            noted=AuditEntry.Verb.UNDO_DISCARD.label,
            step=RESOLVED_STEP,
            whole=True,
        ),
    )
    inlines = (MissedRecipientInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("sign", "room", "seq", "message_id", "sender_name", "sent_at", "expired_at"),
                    *("missed_by", "text", "resolved_at", "resolved_by"),
                )
            },
        ),
        (
            _("All that is kept"),
            {
                "classes": ("collapse",),
                "fields": (
                    *("id", "room_key", "room_name", "epoch", "sender", "sender_key", "processed_at"),
                    *("reply_to", "resends", "delivered", "total", "missing_total"),
                    *("resend_started_at", "answer", "fault"),
                ),
            },
        ),
    )
    readonly_fields = ("sign", "missed_by", "text")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Read with a page of letters the first names of who missed each, in one query."""
        changelist = super().get_changelist_instance(request)
        place = Window(RowNumber(), partition_by=F("dead_letter"), order_by=F("pk").asc())
        first = MissedRecipient.objects.annotate(place=place).filter(place__lte=NAMED)
        changelist.result_list = list(changelist.result_list)
        prefetch_related_objects(
            changelist.result_list, Prefetch("missed_recipients", first, to_attr="first_missed")
        )
        return changelist

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Refuse to filter by what is not shown: how many rows begin with a letter says the letter."""
        hidden = lookup.split("__")[0] in ("body", "missing")
        return not hidden and super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        found: QuerySet[DeadLetter] = super().get_queryset(request).defer("body", "missing")
        return found.annotate(has_text=Q(body__isnull=False))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.export_view)
        return [path("export/", view, name="messaging_deadletter_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Say how many letters the filters leave; posted, return them as CSV."""
        if not (self.has_view_permission(request) and request.user.has_perm("messaging.export_deadletter")):
            raise PermissionDenied
        try:
            found = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters as fault:
            raise BadRequest("no such filter") from fault
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": gettext("Export as CSV"),
                "count": found.count(),
                "back": f"{reverse('admin:messaging_deadletter_changelist')}?{request.GET.urlencode()}",
            }
            return TemplateResponse(request, "admin/messaging/deadletter/export.html", context)
        LogEntry.objects.create(
            user_id=request.user.pk or 0,
            content_type=get_content_type_for_model(DeadLetter),
            object_repr=str(self.opts.verbose_name_plural),
            action_flag=CHANGE,
            change_message=gettext("exported: %(n)s") % {"n": f"{found.count():,}"},
        )
        return StreamingHttpResponse(
            export.lines(found),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="dead-letters.csv"'},
        )

    def in_order(self, queryset: Any) -> Any:
        return queryset.order_by("expired_at", "seq")

    def describe(self, row: Any) -> str:
        place = {"room": row.room_name or row.room_key, "seq": row.seq, "sender": row.sender_name}
        said = gettext("%(room)s, seq %(seq)s, from %(sender)s, missed by %(n)s")
        return said % (place | {"n": f"{row.missing_total:,}"})

    @admin.display(description=_("state"), ordering="state")
    def sign(self, letter: DeadLetter) -> str:
        return signed(SIGNS[DeadLetter.State(letter.state)], letter.get_state_display())

    @admin.display(description=_("room"), ordering="room_name")
    def where(self, letter: DeadLetter) -> str:
        return _in_room(letter.room_key, letter.room_name or letter.room_key)

    @admin.display(description=_("expired"), ordering="expired_at")
    def expired(self, letter: DeadLetter) -> str:
        return since(letter.expired_at)

    @admin.display(description=_("missed by"), ordering="missing_total")
    def missed_by(self, letter: Any) -> str:
        counts = {"missing": letter.missing_total, "total": letter.total}
        said = gettext("%(missing)d of %(total)d") % counts
        first = [(one.name, one.get_reason_display()) for one in getattr(letter, "first_missed", ())]
        return _named(said, first, letter.missing_total) if first else said

    @admin.display(description=_("text"))
    def text(self, letter: Any) -> str:
        if not letter.has_text:
            return gettext("not kept any more")
        until = letter.expired_at + timedelta(seconds=policy.current().dead_letter_retention_s)
        shown = formats.date_format(timezone.localtime(until), "DATETIME_FORMAT")
        return gettext("kept until %(until)s; not shown here") % {"until": shown}


@admin.register(Notice)
class NoticeAdmin(ReadOnly, admin.ModelAdmin[Notice]):
    empty_says = _("No notices. Nobody had to be told that a message missed somebody.")
    list_display = ("told", "user", "kind", "about", "dismissed")
    list_filter = ("kind", Waiting, "at")
    list_select_related = ("user",)
    search_fields = ("user__username", "room_key", "id")
    search_help_text = _("A user's name, or the number of a room or notice")
    fieldsets = (
        (None, {"fields": ("user", "kind", "at", "about", "dead_letter", "dismissed_at")}),
        (_("All that is kept"), {"classes": ("collapse",), "fields": ("id", "room_key", "data")}),
    )
    readonly_fields = ("about",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notice]:
        return _with_room_name(super().get_queryset(request))

    @admin.display(description=_("at"), ordering="at")
    def told(self, notice: Notice) -> str:
        return since(notice.at)

    @admin.display(description=_("dismissed"), ordering="dismissed_at")
    def dismissed(self, notice: Notice) -> str:
        return since(notice.dismissed_at) if notice.dismissed_at else "–"

    @admin.display(description=_("about"))
    def about(self, notice: Any) -> str:
        """Say in a sentence what the user is told."""
        data = notice.data
        if notice.kind == Notice.Kind.SUMMARY:
            said = ngettext(
                "%(n)s message that missed somebody", "%(n)s messages that missed somebody", data["messages"]
            )
            return said % {"n": number(data["messages"])}
        place = f"{notice.room_is or notice.room_key} · {data['seq']}"
        why: dict[str, Any] = dict(MissedRecipient.Reason.choices)
        first = [(one["name"], why.get(one["reason"], one["reason"])) for one in data["missing"][:NAMED]]
        return _named(place, first, data["missing_total"])

    # A user's notices go with him, and then this is asked as well; by itself none is deleted: it is a promise to be told.

    def has_delete_permission(self, request: HttpRequest, obj: Notice | None = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        raise PermissionDenied

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), "show_delete": False}
        )


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly, admin.ModelAdmin[AuditEntry]):
    empty_says = _("Nothing was changed yet.")
    list_display = ("done", "verb", "user_name", "room_name", "seq")
    list_filter = ("verb", "at")
    search_fields = ("user_name", "room_key", "message_id")
    search_help_text = _("A user's name, or the number of a room or message")
    fields = ("at", "verb", "user", "user_name", "room_key", "seq", "message_id", "rev", "detail")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        return _with_room_name(super().get_queryset(request))

    @admin.display(description=_("at"), ordering="at")
    def done(self, entry: AuditEntry) -> str:
        return since(entry.at)

    @admin.display(description=_("room"), ordering="room_key")
    def room_name(self, entry: Any) -> str:
        if entry.room_is is None:
            return str(entry.room_key)
        page = reverse("admin:messaging_room_change", args=[entry.room_key])
        return format_html('<a href="{}">{}</a>', page, entry.room_is)
