"""The Django application: registers system checks and signals, and installs the schedules of the jobs after every `migrate`."""

from typing import Any

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class MessagingConfig(AppConfig):
    name = "messaging"
    verbose_name = _("Messaging")

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers them)
        from .rooms import signals  # noqa: F401  (registers them)

        post_migrate.connect(_install_schedules, sender=apps.get_app_config("django_q"))


def _install_schedules(**_: Any) -> None:
    from . import jobs

    jobs.install_schedules()
