"""Dead letters for the staff: a read-only list with actions, a page for each, an export.

Never shows the text of a message. Each action needs its own permission; nobody changes or deletes these rows by hand.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters, get_content_type_for_model
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import F, Prefetch, Q, QuerySet, Window, prefetch_related_objects
from django.db.models.functions import RowNumber
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from messaging import policy
from messaging.models import DeadLetter, MissedRecipient

from . import export
from .action_admin import ActionAdmin
from .formatting import MAX_NAMES, missed_by, signed, since
from .letter_actions import DISCARD, SEND_AGAIN, UNDO_DISCARD
from .lists import ReadOnly, RoomKeyFilter

STATE_KINDS = {  # of `ops-state`
    DeadLetter.State.OPEN: "missed",
    DeadLetter.State.REQUEUED: "waits",
    DeadLetter.State.DISCARDED: "free",
}


class MissedRecipientInline(ReadOnly, admin.TabularInline[MissedRecipient, DeadLetter]):
    model = MissedRecipient
    fields = ("name", "user_key", "reason", "attempts")
    extra = 0


class QuarantinedFilter(admin.SimpleListFilter):
    """Letters whose text was not kept, because the database refused a value."""

    title = _("quarantined")
    parameter_name = "set_aside"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "yes":
            return queryset.exclude(fault="")
        return queryset.filter(fault="") if self.value() == "no" else queryset


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly, ActionAdmin):
    row_actions = (SEND_AGAIN, DISCARD, UNDO_DISCARD)
    empty_text = _("No dead letters. No expired message is recorded as missed.")
    list_display = ("sign", "room_link", "seq", "sender_name", "expired", "missed_by")
    list_filter = ("state", "missed_recipients__reason", RoomKeyFilter, "expired_at", QuarantinedFilter)
    search_help_text = _("A sender's or room's name, a room ID, a message ID or a seq")
    search_fields = ("sender_name", "room_name", "=room_key", "=message_id", "=seq")
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
            _("All stored fields"),
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
        """Read the first names of the people who missed each letter of the page, in one query."""
        changelist = super().get_changelist_instance(request)
        position = Window(RowNumber(), partition_by=F("dead_letter"), order_by=F("pk").asc())
        first = MissedRecipient.objects.annotate(position=position).filter(position__lte=MAX_NAMES)
        changelist.result_list = list(changelist.result_list)
        prefetch_related_objects(
            changelist.result_list, Prefetch("missed_recipients", first, to_attr="first_missed")
        )
        return changelist

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Refuse filters on hidden columns: the number of rows that start with a letter would reveal the text."""
        is_hidden = lookup.split("__")[0] in ("body", "missing")
        return not is_hidden and super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        queryset: QuerySet[DeadLetter] = super().get_queryset(request).defer("body", "missing")
        return queryset.annotate(has_text=Q(body__isnull=False))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.export_view)
        return [path("export/", view, name="messaging_deadletter_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Show the number of filtered letters; a POST returns them as CSV."""
        if not (self.has_view_permission(request) and request.user.has_perm("messaging.export_deadletter")):
            raise PermissionDenied
        try:
            letters = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters as error:
            raise BadRequest("no such filter") from error
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": gettext("Export as CSV"),
                "count": letters.count(),
                "back": f"{reverse('admin:messaging_deadletter_changelist')}?{request.GET.urlencode()}",
            }
            return TemplateResponse(request, "admin/messaging/deadletter/export.html", context)
        LogEntry.objects.create(
            user_id=request.user.pk or 0,
            content_type=get_content_type_for_model(DeadLetter),
            object_repr=str(self.opts.verbose_name_plural),
            action_flag=CHANGE,
            change_message=gettext("exported: %(n)s") % {"n": f"{letters.count():,}"},
        )
        return StreamingHttpResponse(
            export.lines(letters),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="dead-letters.csv"'},
        )

    def in_order(self, queryset: Any) -> Any:
        return queryset.order_by("expired_at", "seq")

    def describe(self, row: Any) -> str:
        return gettext("%(room)s, seq %(seq)s, from %(sender)s, missed by %(n)s") % {
            "room": row.room_name or row.room_key,
            "seq": row.seq,
            "sender": row.sender_name,
            "n": f"{row.missing_total:,}",
        }

    @admin.display(description=_("state"), ordering="state")
    def sign(self, letter: DeadLetter) -> str:
        return signed(STATE_KINDS[DeadLetter.State(letter.state)], letter.get_state_display())

    @admin.display(description=_("room"), ordering="room_name")
    def room_link(self, letter: DeadLetter) -> str:
        page = reverse("admin:messaging_deadletter_changelist")
        name = letter.room_name or letter.room_key
        return format_html('<a href="{}?room={}">{}</a>', page, letter.room_key, name)

    @admin.display(description=_("expired"), ordering="expired_at")
    def expired(self, letter: DeadLetter) -> str:
        return since(letter.expired_at)

    @admin.display(description=_("missed by"), ordering="missing_total")
    def missed_by(self, letter: Any) -> str:
        counts = {"missing": letter.missing_total, "total": letter.total}
        text = gettext("%(missing)d of %(total)d") % counts
        recipients = getattr(letter, "first_missed", ())
        people = [(recipient.name, recipient.get_reason_display()) for recipient in recipients]
        return missed_by(text, people, letter.missing_total) if people else text

    @admin.display(description=_("text"))
    def text(self, letter: Any) -> str:
        if not letter.has_text:
            return gettext("no longer kept")
        until = letter.expired_at + timedelta(seconds=policy.current().dead_letter_retention_s)
        until_text = formats.date_format(timezone.localtime(until), "DATETIME_FORMAT")
        return gettext("kept until %(until)s; not shown here") % {"until": until_text}
