"""Django's admin application with the site of `chatsite.admin`."""

from django.contrib.admin.apps import AdminConfig


class StaffConfig(AdminConfig):
    default_site = "chatsite.admin.StaffSite"
