"""All addresses of the site. `messaging/urls.py` has the addresses of the chat."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.http import HttpRequest, HttpResponseRedirect
from django.templatetags.static import static
from django.urls import include, path
from django.views.i18n import JavaScriptCatalog

from messaging.admin import overview

admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]


def favicon(request: HttpRequest) -> HttpResponseRedirect:
    """Redirect browsers that request the icon at its default address."""
    return HttpResponseRedirect(static("img/mark.svg"))


handler400 = "chatsite.error_pages.bad_request"
handler403 = "chatsite.error_pages.forbidden"
handler404 = "chatsite.error_pages.missing"
handler500 = "chatsite.error_pages.failed"

urlpatterns = [
    path("favicon.ico", favicon),
    path("admin/overview/", overview.fragment, name="admin_overview"),
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
    path("jsi18n/", JavaScriptCatalog.as_view(packages=["messaging"]), name="javascript-catalog"),
    path("", include("messaging.urls")),
]
