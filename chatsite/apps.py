"""The admin application with the product's own site."""

from django.contrib.admin.apps import AdminConfig


class StaffConfig(AdminConfig):
    default_site = "chatsite.admin.StaffSite"
