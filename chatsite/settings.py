"""Django's settings. Values that differ between installations come from the environment (`chatsite/environment.py`)."""

from __future__ import annotations

import os
from typing import Any

import django_stubs_ext
from csp.constants import NONE, SELF
from django.utils.translation import gettext_lazy as _

from chatsite import environment
from chatsite.environment import BASE_DIR

django_stubs_ext.monkeypatch()  # without it, `ModelAdmin[Room]` fails at run time

VERSION = environment.version()
DATA_DIR = environment.data_dir()
SITE = environment.site()
SITE_ORIGINS = SITE.origins  # the only `Origin`s that may open a socket
SECRET_KEY = environment.secret_key()
DEBUG = environment.flag("DJANGO_DEBUG")

ALLOWED_HOSTS = list(SITE.hosts)
CSRF_TRUSTED_ORIGINS = list(SITE.origins)
TRUSTED_PROXY_COUNT = environment.count("TRUSTED_PROXY_COUNT", 1 if SITE.secure else 0)
if TRUSTED_PROXY_COUNT:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = SITE.secure
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # requested from inside, without the proxy
METRICS_TOKEN = environment.metrics_token()
SECURE_HSTS_SECONDS = 365 * 86_400 if SITE.secure else 0
CSRF_FAILURE_VIEW = "messaging.web.endpoint.csrf_failure"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = SITE.secure
SESSION_COOKIE_HTTPONLY = LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    "messaging",
    "chatsite.apps.StaffConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "channels",
    "csp",
    "django_q",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "chatsite.caching.forbid_caching",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]

ROOT_URLCONF = "chatsite.urls"
ASGI_APPLICATION = "chatsite.asgi.application"
APPEND_SLASH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "chatsite.accounts.login_page",
            ],
        },
    },
]

# ── Content security: nothing inline, nothing from other sites. `ws:` origins are listed, because 'self' does not ──
# ── include them in Safari before 15.4.                                                                          ──
CONTENT_SECURITY_POLICY: dict[str, Any] = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "font-src": [SELF],
        "manifest-src": [SELF],
        "connect-src": [SELF, *(origin.replace("http", "ws", 1) for origin in SITE.origins)],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    },
}

# ── Database ──
DATABASES = {"default": environment.database(folder=DATA_DIR)}
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # IMMEDIATE: a deferred transaction that begins to write can fail with "database is locked" at once, even with a long timeout.
    # FULL: with NORMAL, a power failure loses commits in WAL mode. secure_delete: deleted text is overwritten.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;",
    }
else:
    if environment.runs_jobs():
        DATABASES["default"].setdefault("CONN_MAX_AGE", environment.JOBS_CONN_MAX_AGE_S)
    # The middleware before the sessions does not use the database.
    first_query = MIDDLEWARE.index("django.contrib.sessions.middleware.SessionMiddleware")
    MIDDLEWARE.insert(first_query, "chatsite.concurrency.limit_requests")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# ── Store: messages, cache and channel layer have separate databases ──
STORE_URL, CACHE_URL, LAYER_URL = environment.store_urls(folder=DATA_DIR, count=3)
STORE_MEMORY = environment.store_memory_bytes()
DJANGO_REDIS_CONNECTION_FACTORY = "messaging.store.connections.ConnectionFactory"
_REDIS_CLIENT = {
    "CLIENT_CLASS": "django_redis.client.DefaultClient",
    # With pickles, a user who can write to the cache's database could run code in the server.
    "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
    "SOCKET_CONNECT_TIMEOUT": 2,
    "SOCKET_TIMEOUT": 2,
}
CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": CACHE_URL,
        "VERSION": 2,  # values of version 1 are pickles
        "OPTIONS": {**_REDIS_CLIENT},
    },
    # Never call `.clear()`: it is FLUSHDB and deletes all messages.
    "messages": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": STORE_URL,
        "OPTIONS": {**_REDIS_CLIENT},
    },
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            # Without these, a connection that lost its peer unnoticed would be waited for without limit.
            "hosts": [{"address": LAYER_URL, "socket_timeout": 2, "socket_connect_timeout": 2}],
            "prefix": "chat",
        },
    },
}

# ── Jobs. The broker removes a job before it runs, so a job can be lost. Jobs therefore have no arguments ──
Q_CLUSTER = {
    "name": "chat",
    "django_redis": "default",
    "workers": 2,
    "timeout": 60,
    "retry": 90,
    "catch_up": False,  # runs that were missed during an outage must not all run at once
    "save_limit": 100,
    "recycle": 200,
    "label": _("Background tasks"),
}

# ── Settings of the product: they override messaging/policy.py. The names have units ──
MESSAGING: dict[str, Any] = {
    "rate_limit_scale": environment.positive("MESSAGING_RATE_LIMIT_SCALE", 1.0),
    "recovery": environment.flag("MESSAGING_RECOVERY", default=True),
}

# ── Accounts ──
# Sessions are in the database: with Django's sessions in the cache, an error of Redis logs users out.
SESSION_ENGINE = "chatsite.sessions"
SESSION_COOKIE_AGE = 28 * 86_400
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "chatsite.accounts.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "account_login"
ALLAUTH_TRUSTED_PROXY_COUNT = TRUSTED_PROXY_COUNT
# Not by a code in an e-mail: access to the mailbox would be sufficient.
ACCOUNT_REAUTHENTICATION_METHODS = ("password", "mfa")
# Before a change of address, password or two-step login: a session is not enough.
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_EMAIL_NOTIFICATIONS = True  # to the old address too
ACCOUNT_USERNAME_VALIDATORS = "messaging.rooms.names.USERNAME_VALIDATORS"
ACCOUNT_ADAPTER = "chatsite.accounts.AccountAdapter"
SIGN_UP_OPEN = environment.flag("SIGN_UP", default=True)
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "optional"
# Sign-up does not tell which addresses have accounts. Several accounts may claim an address; only one can confirm it.
ACCOUNT_PREVENT_ENUMERATION = "strict"
ACCOUNT_EMAIL_SUBJECT_PREFIX = f"[{SITE.hosts[0]}] "  # by default, the host of the request
ACCOUNT_RATE_LIMITS = {
    # Browsers that the user has not used before: the first two limit each address, and each name at an address.
    "login_failed": "10/m/ip,5/5m/key",
    "login_failed_name": "100/h/key",  # limits each name, against guesses from many addresses
    "login_failed_device": "5/5m/key",  # limits each browser that the user has used before
}
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if SITE.secure else "http"
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_USERNAME_MIN_LENGTH = 2
MFA_TOTP_ISSUER = SITE.hosts[0]

vars().update(environment.email())
DEFAULT_FROM_EMAIL = os.environ.get("DEFAULT_FROM_EMAIL") or f"chat@{SITE.hosts[0].strip('[]')}"

# ── Languages ──
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

# ── Static files ──
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "chatsite.storage.StaticStorage",
    },
}

# ── Logs: one line for each event. The loggers of all libraries use the same handler ──
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "chatsite.logs.LineFormatter"}},
    "filters": {"suspicious": {"()": "chatsite.logs.LimitSuspicious"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["suspicious"]}
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        # A 4xx is an error of the client.
        "django.request": {"handlers": [], "level": "ERROR", "propagate": True},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        "django-q": {"handlers": [], "level": "WARNING", "propagate": True},
        "uvicorn": {"handlers": [], "level": "WARNING", "propagate": True},
        # At INFO it writes a line for each socket.
        "uvicorn.error": {"handlers": [], "level": "WARNING", "propagate": True},
        "uvicorn.access": {"handlers": [], "level": "WARNING", "propagate": True},
    },
}
