"""Which names people and rooms may have: no character that hides, or that turns the writing of what stands beside it.

A name is shown beside other people's words; one that looks empty, or like somebody else's, is a lie about who wrote them.
"""

from __future__ import annotations

import unicodedata

from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from messaging.errors import BadName

NAME_MOST = 80  # code points
TOPIC_MOST = 200

# Cc control, Cf format (bidi controls, zero-width, soft hyphen, tags), Cs lone surrogates, Zl and Zp line separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Letters by category, and blank on every screen.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# Joiners inside words: Persian and Indic spelling and joined emoji need them.
_JOINERS = frozenset("\u200c\u200d")


def clean_name(text: str) -> str:
    """Return a room's name, stripped and composed (NFC). Raises BadName."""
    return _clean(text, least=1, most=NAME_MOST)


def clean_topic(text: str) -> str:
    """Return a room's topic, stripped and composed (NFC); it may be empty. Raises BadName."""
    return _clean(text, least=0, most=TOPIC_MOST)


def _clean(text: str, *, least: int, most: int) -> str:
    if len(text) > 4 * most:
        raise BadName(f"At most {most} characters.")
    if any(_hides(character) for character in text.replace("\u200c", "").replace("\u200d", "")):
        raise BadName()
    name = unicodedata.normalize("NFC", text).strip()
    if not least <= len(name) <= most:
        raise BadName(f"Between {least} and {most} characters.")
    if least and all(character in _JOINERS or character.isspace() for character in name):
        raise BadName()
    return name


def _hides(character: str) -> bool:
    return character in _BLANK or unicodedata.category(character) in _REFUSED_CATEGORIES


def shows(name: str) -> bool:
    """Say whether a log-in name has no character that hides."""
    return not any(_hides(character) for character in name)


def validate_username(name: str) -> None:
    """Refuse what Django's own rule (letters, digits, @.+-_) lets through: letters that show nothing."""
    if not shows(name):
        raise ValidationError(_("A name has no invisible characters."), code="invisible")


# What settings.ACCOUNT_USERNAME_VALIDATORS names.
USERNAME_VALIDATORS = [UnicodeUsernameValidator(), validate_username]
