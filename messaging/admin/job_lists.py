"""The lists of django-q2, for reading only: with the right to change a row, a user could run any function in the worker."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django_q.admin import FailAdmin, ScheduleAdmin, TaskAdmin
from django_q.models import Failure, Schedule, Success


class ReadOnly:
    """Permits only the viewing of rows."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}


class Schedules(ReadOnly, ScheduleAdmin):
    pass


class Successes(ReadOnly, TaskAdmin):
    pass


class Failures(ReadOnly, FailAdmin):
    pass


for model, page in ((Schedule, Schedules), (Success, Successes), (Failure, Failures)):
    admin.site.unregister(model)
    admin.site.register(model, page)
