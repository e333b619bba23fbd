"""The account pages: texts in both languages, own templates, nothing inline, and the actions that they permit."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import redis
from allauth.account import urls as account_urls
from allauth.account.models import EmailAddress
from allauth.mfa import urls as mfa_urls
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib.auth.models import User
from django.core import mail
from django.http import HttpResponse
from django.template.loader import render_to_string
from django.test import Client, override_settings
from django.urls import URLPattern, URLResolver, reverse

TEMPLATES = Path(__file__).parents[2] / "templates"
PASSWORD = "a-good-one-4711"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_url")]

OPEN = {
    "account_login": {},
    "account_signup": {},
    "account_inactive": {},
    "account_reset_password": {},
    "account_reset_password_done": {},
    "account_reset_password_from_key": {"uidb36": "1", "key": "bad-key"},
    "account_reset_password_from_key_done": {},
    "account_confirm_email": {"key": "bad"},
    "account_email_verification_sent": {},
}
OWN = {
    "account_logout": {},
    "account_change_password": {},
    "account_set_password": {},
    "account_email": {},
    "account_reauthenticate": {},
    "mfa_index": {},
    "mfa_reauthenticate": {},
    "mfa_activate_totp": {},
    "mfa_deactivate_totp": {},
    "mfa_view_recovery_codes": {},
    "mfa_generate_recovery_codes": {},
}
OFF = {  # with these, a mailed code would replace a password
    "account_confirm_login_code": 302,  # back to the login
    "account_request_reauthentication_code": 403,
    "account_confirm_reauthentication_code": 403,
}
ELSEWHERE = {"mfa_authenticate", "mfa_download_recovery_codes"}  # within a login, see below; a text file


@pytest.fixture
def ada() -> User:
    user = User.objects.create_user("ada", "ada@chat.example", PASSWORD)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user


def names_in(patterns: list[URLPattern | URLResolver]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        found |= names_in(pattern.url_patterns) if isinstance(pattern, URLResolver) else {str(pattern.name)}
    return found


def check(response: HttpResponse) -> str:
    """Check that a page uses the templates of this site and has nothing that the content policy blocks; return its HTML."""
    assert response.status_code == 200
    files = [str(t.origin) for t in response.templates if t.origin and not t.name.startswith("django/forms")]
    assert files
    assert not [file for file in files if not file.startswith(str(TEMPLATES))], "a default page of a library"
    assert "script-src 'self'" in response["Content-Security-Policy"]
    html = response.content.decode()
    assert not re.search(r"\sstyle\s*=|<style\b|\son\w+\s*=|<script\b(?![^>]*\bsrc=)|data:image", html)
    assert len(re.findall(r"<h1\b", html)) == 1
    assert re.search(r"<title>\S.*</title>", html)
    return html


def log_in(client: Client, password: str = PASSWORD, **headers: str) -> HttpResponse:
    return client.post(reverse("account_login"), {"login": "ada", "password": password}, headers=headers)


def test_every_account_page_is_covered_here() -> None:
    patterns: Any = [*account_urls.urlpatterns, *mfa_urls.urlpatterns]
    assert names_in(patterns) == set(OPEN) | set(OWN) | set(OFF) | ELSEWHERE


def test_login_by_code_is_off(client: Client) -> None:
    assert client.get(reverse("account_confirm_login_code"))["Location"] == reverse("account_login")


@pytest.mark.parametrize(("name", "status"), OFF.items())
def test_no_mailed_code_stands_for_a_password(client: Client, ada: User, name: str, status: int) -> None:
    log_in(client)
    for response in (client.get(reverse(name)), client.post(reverse(name), {"code": "123456"})):
        assert response.status_code == status
    assert not mail.outbox


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_pages_before_the_login_are_ours(client: Client, name: str, language: str) -> None:
    html = check(client.get(reverse(name, kwargs=OPEN[name]), headers={"accept-language": language}))
    assert f'lang="{language}"' in html


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("two_step", [False, True])
def test_pages_of_the_own_account_are_ours(client: Client, ada: User, name: str, two_step: bool) -> None:
    log_in(client)
    if two_step:
        codes = {"seed": "a" * 40, "used_mask": 0}
        Authenticator.objects.create(
            user=ada, type=Authenticator.Type.TOTP, data={"secret": "JBSWY3DPEHPK3PXP"}
        )
        Authenticator.objects.create(user=ada, type=Authenticator.Type.RECOVERY_CODES, data=codes)
    response = client.get(reverse(name))
    if response.status_code == 404:
        assert not two_step, "all pages except those that need a second factor"
        return
    check(client.get(reverse(name), follow=True) if response.status_code == 302 else response)


def test_second_step_of_the_login_is_ours(client: Client, ada: User) -> None:
    Authenticator.objects.create(user=ada, type=Authenticator.Type.TOTP, data={"secret": "JBSWY3DPEHPK3PXP"})
    response = log_in(client)
    assert response["Location"] == reverse("mfa_authenticate")
    check(client.get(response["Location"]))


def test_making_an_account_logs_in_and_opens_the_chat(client: Client) -> None:
    response = client.post(
        reverse("account_signup"), {"username": "grace", "email": "", "password1": PASSWORD}
    )
    assert response["Location"] == settings.LOGIN_REDIRECT_URL
    assert client.session["_auth_user_id"] == str(User.objects.get(username="grace").pk)


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@override_settings(SIGN_UP_OPEN=False)
def test_sign_up_can_be_closed(client: Client, language: str) -> None:
    headers = {"accept-language": language}
    page = client.get(reverse("account_signup"), headers=headers)
    assert page.templates[0].name == "account/signup_closed.html"
    answer = client.post(
        reverse("account_signup"), {"username": "eve", "password1": "long enough for all"}, headers=headers
    )
    assert not User.objects.filter(username="eve").exists(), answer
    assert (
        reverse("account_signup")
        not in client.get(reverse("account_login"), headers=headers).content.decode()
    )


@pytest.mark.parametrize(
    ("language", "sentence"), [("en", "This name is already taken."), ("zh-hans", "这个用户名已被使用。")]
)
def test_a_taken_name_is_reported_next_to_the_field(
    client: Client, ada: User, language: str, sentence: str
) -> None:
    form = {"username": "ada", "password1": PASSWORD}
    html = check(client.post(reverse("account_signup"), form, headers={"accept-language": language}))
    assert sentence in html
    assert 'aria-invalid="true" aria-describedby="id_username-error' in html


@pytest.mark.parametrize("name", ["a\u202ebc", "a\u0000b", "<b>", "a b", "a\u2066b"])
def test_names_hold_no_markup_and_no_control_characters(client: Client, name: str) -> None:
    check(client.post(reverse("account_signup"), {"username": name, "password1": PASSWORD}))
    assert not User.objects.exists()


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("en", "Too short: at least 8 characters."), ("zh-hans", "太短：至少 8 个字符。")],
)
def test_a_short_password_is_reported_in_both_languages(client: Client, language: str, sentence: str) -> None:
    form = {"username": "grace", "password1": "x4r7"}
    assert sentence in check(
        client.post(reverse("account_signup"), form, headers={"accept-language": language})
    )


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("en", "Wrong name or password."), ("zh-hans", "用户名或密码错误，请注意大小写。")],
)
def test_a_wrong_password_does_not_tell_which_of_the_two_is_wrong(
    client: Client, ada: User, language: str, sentence: str
) -> None:
    wrong = check(log_in(client, "wrong", **{"accept-language": language}))
    User.objects.filter(pk=ada.pk).update(username="somebody-else")
    unknown = check(log_in(client, "wrong", **{"accept-language": language}))
    assert sentence in wrong
    assert sentence in unknown


def test_logging_in_and_out_leaves_no_message_waiting(client: Client, ada: User) -> None:
    assert log_in(client)["Location"] == settings.LOGIN_REDIRECT_URL
    assert client.post(reverse("account_logout"))["Location"] == reverse("account_login")
    assert "form-note" not in check(client.get(reverse("account_login")))
    assert "_auth_user_id" not in client.session


def test_opening_the_logout_page_does_not_log_out(client: Client, ada: User) -> None:
    log_in(client)
    check(client.get(reverse("account_logout")))
    assert "_auth_user_id" in client.session


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_a_forgotten_password_is_replaced_through_a_mail(client: Client, ada: User, language: str) -> None:
    headers = {"accept-language": language}
    client.post(reverse("account_reset_password"), {"email": ada.email}, headers=headers)
    (sent,) = mail.outbox
    assert ("设置新密码" if language == "zh-hans" else "Set a new password") in sent.subject
    assert "{" not in sent.body
    (link,) = re.findall(rf"{settings.SITE_ORIGINS[0]}(\S+)", sent.body)
    form_page = client.get(link, follow=True)
    check(form_page)
    new = "another-good-one-12"
    done = client.post(form_page.redirect_chain[-1][0], {"password1": new, "password2": new}, follow=True)
    check(done)
    assert log_in(client, new)["Location"] == settings.LOGIN_REDIRECT_URL
    check(client.get(link, follow=True))


def test_an_unknown_address_gets_the_same_answer_and_a_mail(client: Client) -> None:
    response = client.post(reverse("account_reset_password"), {"email": "nobody@chat.example"})
    assert response["Location"] == reverse("account_reset_password_done")
    assert "no account uses this address" in mail.outbox[0].body


def test_an_address_given_at_sign_up_is_confirmed_through_a_mail(client: Client) -> None:
    form = {"username": "grace", "email": "grace@chat.example", "password1": PASSWORD}
    client.post(reverse("account_signup"), form)
    (link,) = re.findall(rf"{settings.SITE_ORIGINS[0]}(\S+)", mail.outbox[0].body)
    assert "grace@chat.example" in check(client.get(link))
    client.post(link)
    assert EmailAddress.objects.get(email="grace@chat.example").verified


def test_a_changed_password_is_confirmed_and_the_session_stays_logged_in(client: Client, ada: User) -> None:
    log_in(client)
    new = "another-good-one-12"
    form = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    html = check(client.post(reverse("account_change_password"), form, follow=True))
    assert "Your new password is set." in html


def test_values_that_an_earlier_version_pickled_are_not_read(client: Client, redis_url: str) -> None:
    with redis.Redis.from_url(settings.CACHES["default"]["LOCATION"]) as raw:
        client.post(reverse("account_login"), {"login": "nobody", "password": "wrong"})
        limits = raw.keys(":2:*")
        assert limits, "the limits of logins are in the cache"
        for key in limits:
            raw.set(key.replace(b":2:", b":1:", 1), pickle.dumps([1.0]))
            raw.delete(key)
    answer = client.post(reverse("account_login"), {"login": "nobody", "password": "wrong"})
    assert answer.status_code == 200


def test_too_many_tries_get_a_page_of_this_site(client: Client, ada: User) -> None:
    page = reverse("account_reset_password")
    answers = [client.post(page, {"email": f"{number}@chat.example"}) for number in range(25)]
    assert answers[0].status_code == 302
    assert answers[-1].status_code == 429
    assert "Too many attempts" in answers[-1].content.decode()


def test_the_language_is_chosen_on_the_page(client: Client) -> None:
    page = reverse("account_login")
    client.post(reverse("set_language"), {"language": "zh-hans", "next": page})
    assert '<html lang="zh-hans"' in check(client.get(page))


@pytest.mark.parametrize(("theme", "written"), [("dark", True), ("light", True), ('x" onload="y', False)])
def test_only_a_known_theme_reaches_the_page(client: Client, theme: str, written: bool) -> None:
    client.cookies["theme"] = theme
    html = check(client.get(reverse("account_login")))
    assert (f'data-theme="{theme}"' in html) is written
    assert ("data-theme" in html) is written


def test_demo_logins_are_offered_in_debug_only(client: Client, ada: User, tmp_path: Path) -> None:
    people = [{"id": ada.pk, "name": "ada", "password": "ada-demo"}]
    note = {"users": people, "staff": {"name": "staff", "password": "staff-demo"}, "rooms": []}
    (tmp_path / "demo.json").write_text(json.dumps(note))
    with override_settings(DATA_DIR=tmp_path):
        assert "ada-demo" not in check(client.get(reverse("account_login")))
        with override_settings(DEBUG=True):
            assert "ada-demo" in check(client.get(reverse("account_login")))


def test_error_pages_are_ours(client: Client) -> None:
    missing = client.get("/nothing/here/")
    assert missing.status_code == 404
    assert "Page not found" in missing.content.decode()
    refused = Client(enforce_csrf_checks=True).post(reverse("account_login"))
    assert refused.status_code == 403
    assert "This form has expired" in refused.content.decode()
    assert "Something went wrong" in render_to_string("500.html")
