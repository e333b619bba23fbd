"""The account pages against strangers: nobody can lock users out, guess passwords, find addresses, choose links or cause errors."""

from __future__ import annotations

import io
import logging
import re
from contextlib import redirect_stdout
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib.auth.models import User
from django.core import mail
from django.core.mail import EmailMessage
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import reverse
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chatsite import emails, environment
from chatsite.logs import LimitSuspicious, LineFormatter

PASSWORD = "a-good-one-4711"
ADDRESS, OTHER_ADDRESS, THIRD_ADDRESS = "192.0.2.1", "192.0.2.2", "192.0.2.3"
LOGIN, SIGN_UP, RESET = "/accounts/login/", "/accounts/signup/", "/accounts/password/reset/"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_url")]


@pytest.fixture
def ada() -> User:
    user = User.objects.create_user("ada", "ada@chat.example", PASSWORD)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user


def browser(address: str = ADDRESS, **options: Any) -> Client:
    return Client(REMOTE_ADDR=address, **options)


def log_in(client: Client, password: str = PASSWORD, name: str = "ada", **headers: str) -> bool:
    """Return whether a login succeeds."""
    answer = client.post(LOGIN, {"login": name, "password": password}, headers=headers)
    assert answer.status_code in (200, 302)
    return answer.status_code == 302


# ── Failed logins ──


def test_wrong_passwords_from_one_address_lock_nobody_out_of_another(ada: User) -> None:
    for _ in range(6):
        assert not log_in(browser(), "wrong")
    assert not log_in(browser()), "the limit of that address"
    assert log_in(browser(OTHER_ADDRESS))


def test_a_browser_that_the_user_has_used_before_is_not_locked_out(ada: User) -> None:
    own = browser()
    assert log_in(own)
    own.post("/accounts/logout/")
    with override_settings(
        ACCOUNT_RATE_LIMITS={**settings.ACCOUNT_RATE_LIMITS, "login_failed_name": "7/h/key"}
    ):
        for address in (ADDRESS, OTHER_ADDRESS):
            for _ in range(6):
                assert not log_in(browser(address), "wrong")
        assert not log_in(browser(THIRD_ADDRESS)), "the limit of the name, for all other browsers"
        assert log_in(own), "even at the address of an attacker"


def test_a_known_browser_has_its_own_limit(ada: User) -> None:
    own = browser()
    assert log_in(own)
    own.post("/accounts/logout/")
    assert [log_in(own, "wrong") for _ in range(5)] == [False] * 5
    assert not log_in(own)
    assert log_in(browser(OTHER_ADDRESS))


def test_a_browser_is_known_only_to_the_users_who_have_used_it(ada: User) -> None:
    User.objects.create_user("eve", password=PASSWORD)
    evil = browser()
    assert log_in(evil, name="eve")
    evil.post("/accounts/logout/")
    for _ in range(6):
        assert not log_in(evil, "wrong")
    assert not log_in(evil)
    evil.cookies["device"] = "made-up"
    assert not log_in(evil)


def test_five_users_at_most_are_known_to_a_browser() -> None:
    shared = browser()
    for number in range(7):
        User.objects.create_user(f"user{number}", password=PASSWORD)
        assert log_in(shared, name=f"user{number}")
        shared.post("/accounts/logout/")
    assert len(shared.cookies["device"].value) < 200
    assert shared.cookies["device"]["httponly"]


def test_all_forms_of_a_name_share_its_limits(ada: User) -> None:
    for name in ("ada", "ADA", "ａｄａ", " ada", "Ada"):
        assert not log_in(browser(), "wrong", name=name)
    assert not log_in(browser(), name="aDa")


def test_the_port_of_the_host_does_not_give_new_attempts(ada: User) -> None:
    with override_settings(ACCOUNT_RATE_LIMITS={**settings.ACCOUNT_RATE_LIMITS, "login_failed": "5/5m/key"}):
        for port in range(6):
            assert not log_in(browser(), "wrong", host=f"testserver:{9000 + port}")
        assert not log_in(browser(), host="testserver:9100")


def test_staff_change_their_password_on_the_page_that_limits_guesses(ada: User) -> None:
    User.objects.filter(pk=ada.pk).update(is_staff=True, is_superuser=True)
    client = browser()
    client.force_login(ada)
    form = {
        "old_password": "wrong",
        "new_password1": "another-good-one-12",
        "new_password2": "another-good-one-12",
    }
    for answer in (client.get("/admin/password_change/"), client.post("/admin/password_change/", form)):
        assert answer["Location"] == reverse("account_change_password")


# ── The client's address ──


@override_settings(ALLAUTH_TRUSTED_PROXY_COUNT=2)
def test_too_few_forwarded_addresses_count_for_the_peer(ada: User, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        assert not log_in(browser(), "wrong", x_forwarded_for=f"203.0.113.{number}")
    assert not log_in(browser(), x_forwarded_for="203.0.113.99"), "a forged header gives no new attempts"
    assert log_in(browser(OTHER_ADDRESS), x_forwarded_for="203.0.113.1")
    assert log_in(browser(THIRD_ADDRESS), x_forwarded_for="203.0.113.1, 198.51.100.1")
    assert any("TRUSTED_PROXY_COUNT" in record.message for record in caplog.records)


@override_settings(ALLAUTH_TRUSTED_PROXY_COUNT=2)
def test_a_peer_without_an_address_is_refused(ada: User) -> None:
    answer = browser("").post(
        LOGIN, {"login": "ada", "password": PASSWORD}, headers={"x-forwarded-for": "203.0.113.1"}
    )
    assert answer.status_code == 400
    assert "cannot read this request" in answer.content.decode()


# ── E-mails ──


@pytest.mark.parametrize("host", ["testserver:6666", "localhost:6666"])
def test_e_mails_have_no_part_of_the_host_header(ada: User, host: str) -> None:
    client = browser(headers={"host": host})
    client.post(RESET, {"email": ada.email})
    client.post(RESET, {"email": "nobody@chat.example"})
    client.post(SIGN_UP, {"username": "grace", "email": "grace@chat.example", "password1": PASSWORD})
    assert len(mail.outbox) == 3
    for sent in mail.outbox:
        text = sent.subject + sent.body
        assert "6666" not in text
        assert "testserver" not in text
        assert re.findall(r"https?://[^/\s]+", text) == [settings.SITE_ORIGINS[0]]


def test_sign_up_does_not_tell_which_addresses_have_accounts(ada: User) -> None:
    def sign_up(name: str, email: str) -> tuple[int, str, int]:
        mail.outbox.clear()
        answer = browser().post(SIGN_UP, {"username": name, "email": email, "password1": PASSWORD})
        return answer.status_code, answer.headers.get("Location", ""), len(mail.outbox)

    free = sign_up("grace", "grace@chat.example")
    assert free == (302, "/", 1)
    assert sign_up("eve", ada.email) == free, "confirmed by another account"
    EmailAddress.objects.create(user=ada, email="claimed@chat.example")
    assert sign_up("mallory", "claimed@chat.example") == free, "claimed by another account"


def confirm(client: Client) -> None:
    (link,) = re.findall(r"https?://[^/]+(/\S+)", mail.outbox[-1].body)
    client.post(link)


def test_an_unconfirmed_claim_does_not_keep_the_owner_from_an_address() -> None:
    email = "owner@chat.example"
    browser().post(SIGN_UP, {"username": "eve", "email": email, "password1": PASSWORD})
    EmailAddress.objects.update(email=email)
    mail.outbox.clear()
    with override_settings(ACCOUNT_RATE_LIMITS={**settings.ACCOUNT_RATE_LIMITS, "confirm_email": "9/m/key"}):
        owner = browser()
        owner.post(SIGN_UP, {"username": "grace", "email": email, "password1": PASSWORD})
        confirm(owner)
    assert EmailAddress.objects.get(verified=True).user.username == "grace"
    mail.outbox.clear()
    browser().post(RESET, {"email": email})
    assert len(mail.outbox) == 1, "only for the account that has confirmed it"
    assert "grace" in mail.outbox[0].body


def test_a_confirmed_address_cannot_be_confirmed_by_another_account(ada: User) -> None:
    client = browser()
    client.post(SIGN_UP, {"username": "eve", "email": ada.email, "password1": PASSWORD})
    confirm(client)
    assert EmailAddress.objects.get(email=ada.email, verified=True).user == ada


ODD = [
    f"a@{'ü' * 63}.de",
    "a@\u200d.de",
    "a@xn--a.de",
    '"\x1b[31m"@x.de',
    '"\x07"@x.de',
    "a@[127.0.0.1]",
    "a@ß.de",
    f"a@{'.'.join(['ü' * 30] * 6)}.de",
]


@pytest.mark.parametrize("email", ODD, ids=ascii)
def test_an_odd_address_is_no_server_error(email: str) -> None:
    client = browser(raise_request_exception=False)
    answers: list[HttpResponse] = [
        client.post(RESET, {"email": email}),
        client.post(SIGN_UP, {"username": "grace", "email": email, "password1": PASSWORD}),
    ]
    assert {answer.status_code for answer in answers} <= {200, 302}
    assert all(sent.to[0].isprintable() for sent in mail.outbox)


@hypothesis_settings(max_examples=200)
@given(st.builds("{}@{}.de".format, st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=70)))
def test_every_usable_address_can_be_sent_to(email: str) -> None:
    if emails.is_usable(email):
        EmailMessage("subject", "text", to=[email]).message().as_bytes()


def test_printed_e_mails_have_no_control_characters() -> None:
    stream = io.StringIO()
    with redirect_stdout(stream):
        backend = emails.ConsoleBackend()
        backend.send_messages([EmailMessage("hello", "text\x1b[31m\u202e\r\nnext", to=['"\x1b[2J"@x.de'])])
    printed = stream.getvalue()
    assert "\\u001b[31m\\u202e" in printed
    assert "next" in printed.splitlines()
    assert all(line.isprintable() for line in printed.splitlines())


def test_e_mails_without_a_server_are_printed_by_our_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMAIL_URL", raising=False)
    assert environment.email()["EMAIL_BACKEND"] == "chatsite.emails.ConsoleBackend"
    monkeypatch.setenv("EMAIL_URL", "smtp+tls://user:password@host:587")
    assert environment.email()["EMAIL_BACKEND"] == "django.core.mail.backends.smtp.EmailBackend"


# ── Caches ──


@pytest.mark.parametrize(
    "name",
    [
        *("account_login", "account_signup", "account_email", "account_change_password"),
        *("mfa_index", "mfa_activate_totp", "mfa_view_recovery_codes", "mfa_download_recovery_codes"),
    ],
)
def test_account_pages_are_in_no_cache(ada: User, name: str) -> None:
    codes = {"seed": "a" * 40, "used_mask": 0}
    client = browser()
    if name not in ("account_login", "account_signup"):
        assert log_in(client)
        client.post(reverse("account_reauthenticate"), {"password": PASSWORD})
    if "recovery" in name:
        Authenticator.objects.create(
            user=ada, type=Authenticator.Type.TOTP, data={"secret": "JBSWY3DPEHPK3PXP"}
        )
        Authenticator.objects.create(user=ada, type=Authenticator.Type.RECOVERY_CODES, data=codes)
    answer = client.get(reverse(name))
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert "private" in answer["Cache-Control"]


# ── The log ──


def test_suspicious_requests_are_one_warning_a_minute_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    handler.addFilter(LimitSuspicious())
    log = logging.getLogger("django.security.DisallowedHost")
    log.addHandler(handler)
    try:
        for _ in range(4):
            assert browser().get("/", headers={"host": "evil.example"}).status_code == 400
        assert len(stream.getvalue().splitlines()) == 1
        assert " WARNING django.security.DisallowedHost " in stream.getvalue()
        assert "traceback" not in stream.getvalue()
        monkeypatch.setattr("chatsite.logs.SUSPICIOUS_INTERVAL_S", 0)
        handler.filters[0]._next_mono_s.clear()  # type: ignore[union-attr]
        browser().get("/", headers={"host": "evil.example"})
        assert stream.getvalue().splitlines()[1].endswith("dropped=3")
    finally:
        log.removeHandler(handler)


def test_the_log_of_the_site_limits_suspicious_requests() -> None:
    assert settings.LOGGING["handlers"]["stderr"]["filters"] == ["suspicious"]
