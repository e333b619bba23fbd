"""The admin with the product's site of it."""

from django.contrib.admin.apps import AdminConfig


class StaffConfig(AdminConfig):
    default_site = "messaging.admin_site.StaffSite"
