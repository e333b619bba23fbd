"""The Django application: registers the system checks and the signals."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MessagingConfig(AppConfig):
    name = "messaging"
    verbose_name = _("Messaging")

    def ready(self) -> None:
        from . import checks, signals  # noqa: F401  (registers them)
