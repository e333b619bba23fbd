"""E-mails of the site: the addresses that can be used, the links, and the backend that prints e-mails instead of sending them."""

from __future__ import annotations

import io
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends import console
from django.core.mail.message import sanitize_address

from chatsite.logs import escape


def is_usable(address: str) -> bool:
    """Return whether an e-mail can be sent to a valid address. A domain that IDNA refuses, and a control character, are errors."""
    try:
        sanitize_address(address, "utf-8")
    except (UnicodeError, ValueError):
        return False
    return address.isprintable()


def on_site(url: str) -> str:
    """Return an absolute URL with the first address in SITE_URL. The port of the `Host` header is any text of a client."""
    origin = urlsplit(settings.SITE_ORIGINS[0])
    return urlunsplit(urlsplit(url)._replace(scheme=origin.scheme, netloc=origin.netloc))


class ConsoleBackend(console.EmailBackend):
    """Django's backend that prints e-mails, with control characters escaped, because an attacker can choose parts of an e-mail."""

    def write_message(self, message: EmailMessage) -> None:
        terminal, self.stream = self.stream, io.StringIO()
        try:
            super().write_message(message)
            printed = self.stream.getvalue()
        finally:
            self.stream = terminal
        terminal.write("".join(f"{escape(line)}\n" for line in printed.rstrip("\n").split("\n")))
