"""The rules of the site for accounts: names, addresses, limits on logins and e-mails. Also texts, and the demo's logins.

Failed logins are limited in two ways. A browser in which the user has logged in before has its own limit. All other browsers share one
limit for each address and name, and a higher one for each name. So nobody can lock users out of the browsers that they use.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.internal import ratelimit
from allauth.core.internal.httpkit import clean_client_ip
from django.conf import settings
from django.contrib.auth import get_user_model, password_validation
from django.contrib.auth.models import User
from django.core import signing
from django.core.exceptions import BadRequest, ImproperlyConfigured, PermissionDenied, ValidationError
from django.core.validators import EmailValidator
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from chatsite import emails
from messaging import demo
from messaging.rooms import names

MAX_DEMO_LOGINS = 5  # more would not fit under the card without scrolling

DEVICE_COOKIE = "device"
DEVICE_MAX_AGE_S = 365 * 86_400
MAX_DEVICE_USERS = 5  # that one browser can be known to; the cookie stays small

proxy_log = logging.getLogger("chatsite.security.proxy")


class AccountAdapter(DefaultAccountAdapter):
    """allauth's adapter with the site's rules and error messages. `SIGN_UP` decides whether visitors can create accounts."""

    error_messages = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": _("Wrong name or password. Both are case-sensitive."),
        "username_taken": _("This name is already taken."),
        "username_lookalike": _("This name looks like that of another account. Choose another."),
        "email_taken": _("Another account already uses this address."),
        "duplicate_email": _("Your account already has this address."),
        "enter_current_password": _("Wrong password."),
        "incorrect_password": _("Wrong password."),
        "too_many_login_attempts": _("Too many attempts. Wait a few minutes, then try again."),
        "account_inactive": _("This account is closed."),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return bool(settings.SIGN_UP_OPEN)

    # Names and addresses

    def clean_username(self, username: str, shallow: bool = False) -> str:
        """Return the name in the form NFKC. Raises ValidationError if a new account must not have it."""
        username = str(super().clean_username(names.composed(username), shallow))
        if not shallow and names.looks_taken(get_user_model().objects.all(), username):
            raise self.validation_error("username_lookalike")
        return username

    def clean_email(self, email: str) -> str:
        if email and not emails.is_usable(email):
            raise ValidationError(EmailValidator.message, code="invalid")
        return str(super().clean_email(email))

    # Logins

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """Return the user with these credentials. All forms of a name that lead to one user share the limits of that user."""
        username = credentials.get("username", "")
        self._claimed = names.find(get_user_model().objects.all(), username)
        if self._claimed:
            credentials["username"] = self._claimed.get_username()
        user: User | None = super().authenticate(request, **credentials)
        return user

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count an attempt. Raises ValidationError if there were too many."""
        name = names.composed(credentials.get("username", "")).casefold()
        device, users = _device(request)
        if self._claimed and self._claimed.pk in users:
            limits = [("login_failed_device", f"{device}:{name}")]
        else:
            limits = [("login_failed", f"{ratelimit.get_ip(request)}:{name}"), ("login_failed_name", name)]
        self._usages: list[ratelimit.RateLimitUsage] = []
        for action, key in limits:
            usage = ratelimit.consume(request, app="allauth.account", action=action, key=key)
            if not usage:
                raise self.validation_error("too_many_login_attempts")
            self._usages.append(usage)

    def _rollback_login_failed_rl_usage(self) -> None:
        """Uncount the attempt, because it succeeded."""
        for usage in self._usages:
            usage.rollback()

    def post_login(self, request: HttpRequest, user: User, **options: Any) -> HttpResponse:
        """Return the response to a login. It makes the browser known to the user."""
        response: HttpResponse = super().post_login(request, user, **options)
        device, users = _device(request)
        users = [user.pk, *(other for other in users if other != user.pk)][:MAX_DEVICE_USERS]
        response.set_cookie(
            DEVICE_COOKIE,
            signing.dumps([device, users], salt=DEVICE_COOKIE),
            max_age=DEVICE_MAX_AGE_S,
            path="/accounts/",
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
        return response

    def get_client_ip(self, request: HttpRequest) -> str:
        """Return the client's address for limits and notices.

        With fewer proxies than TRUSTED_PROXY_COUNT, it is the address of the peer: the header could be forged. Raises BadRequest if the
        peer has no address, because it uses a unix socket.
        """
        try:
            return str(super().get_client_ip(request))
        except (ImproperlyConfigured, PermissionDenied):
            proxy_log.warning(
                "X-Forwarded-For has fewer addresses than TRUSTED_PROXY_COUNT: correct the proxy or the setting"
            )
        address = clean_client_ip(request.META.get("REMOTE_ADDR") or "")
        if address is None:
            raise BadRequest("The client has no address.")
        return str(address)

    # E-mails

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Send an e-mail that names and links only the address in SITE_URL, not the `Host` of the request."""
        links = {name: emails.on_site(value) for name, value in context.items() if name.endswith("_url")}
        site = {"domain": settings.SITE.hosts[0], "name": settings.SITE.hosts[0]}
        super().send_mail(template_prefix, email, {**context, **links, "current_site": site})


def _device(request: HttpRequest) -> tuple[str, list[int]]:
    """Return the id of the browser, and the users who have logged in with it. A new browser has a new id and no users."""
    try:
        cookie = request.COOKIES[DEVICE_COOKIE]
        device, users = signing.loads(cookie, salt=DEVICE_COOKIE, max_age=DEVICE_MAX_AGE_S)
    except (KeyError, signing.BadSignature):
        return secrets.token_hex(8), []
    return device, users


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
