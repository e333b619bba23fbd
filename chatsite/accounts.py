"""The site's texts for the account pages, in place of the texts of the libraries; and the demo's logins."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.contrib.auth import password_validation
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from messaging import demo

MAX_DEMO_LOGINS = 5  # more would not fit under the card without scrolling


class AccountAdapter(DefaultAccountAdapter):
    """allauth's adapter with the site's error messages. `SIGN_UP` decides whether visitors can create accounts."""

    error_messages = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": _("Wrong name or password. Both are case-sensitive."),
        "username_taken": _("This name is already taken."),
        "email_taken": _("Another account already uses this address."),
        "duplicate_email": _("Your account already has this address."),
        "enter_current_password": _("Wrong password."),
        "incorrect_password": _("Wrong password."),
        "too_many_login_attempts": _("Too many attempts. Wait a few minutes, then try again."),
        "account_inactive": _("This account is closed."),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return bool(settings.SIGN_UP_OPEN)


class MinimumLengthValidator(password_validation.MinimumLengthValidator):
    """Django's rule with the site's own text, because Django 5.2 has no Chinese translation of it."""

    def get_error_message(self) -> str:
        return ngettext(
            "Too short: at least %(number)d character.",
            "Too short: at least %(number)d characters.",
            self.min_length,
        ) % {"number": self.min_length}


def login_page(request: HttpRequest) -> dict[str, Any]:
    """Return the values of the login page: whether sign-up is open and, if DEBUG is on, the demo's logins.

    The logins are lazy, because other pages do not read them.
    """
    demo_logins = {"demo_logins": SimpleLazyObject(_demo_logins)} if settings.DEBUG else {}
    return {"sign_up_open": settings.SIGN_UP_OPEN, **demo_logins}


def _demo_logins() -> list[dict[str, Any]]:
    note = demo.kept_note()
    if note is None:
        return []
    people = [{"name": person.name, "password": person.password} for person in note.users[:MAX_DEMO_LOGINS]]
    return [*people, {"name": note.staff.name, "password": note.staff.password, "staff": True}]
