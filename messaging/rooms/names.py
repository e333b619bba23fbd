"""Valid names of people and rooms: no invisible characters, and no characters that change the writing direction.

A name is shown next to messages. A name that looks empty or looks like another name would hide the author.
"""

from __future__ import annotations

import unicodedata

from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from messaging.errors import BadName

MAX_NAME = 80  # code points
MAX_TOPIC = 200

# Cc control, Cf format (bidi controls, zero-width, soft hyphen, tags), Cs lone surrogates, Zl and Zp line separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Unicode calls these letters, but they are blank on every screen.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# Joiners inside words: Persian and Indic spelling and joined emoji need them.
_JOINERS = frozenset("\u200c\u200d")


def clean_name(text: str) -> str:
    """Return a room's name, stripped and composed (NFC). Raises BadName."""
    return _clean(text, minimum=1, maximum=MAX_NAME)


def clean_topic(text: str) -> str:
    """Return a room's topic, stripped and composed (NFC); it may be empty. Raises BadName."""
    return _clean(text, minimum=0, maximum=MAX_TOPIC)


def _clean(text: str, *, minimum: int, maximum: int) -> str:
    if len(text) > 4 * maximum:
        raise BadName(f"At most {maximum} characters.")
    if any(_is_invisible(character) for character in text.replace("\u200c", "").replace("\u200d", "")):
        raise BadName()
    name = unicodedata.normalize("NFC", text).strip()
    if not minimum <= len(name) <= maximum:
        raise BadName(f"Between {minimum} and {maximum} characters.")
    if minimum and all(character in _JOINERS or character.isspace() for character in name):
        raise BadName()
    return name


def _is_invisible(character: str) -> bool:
    return character in _BLANK or unicodedata.category(character) in _REFUSED_CATEGORIES


def is_visible(name: str) -> bool:
    """Return whether a username has no invisible character."""
    return not any(_is_invisible(character) for character in name)


def validate_username(name: str) -> None:
    """Refuse invisible letters. Django's own validator (letters, digits, @.+-_) accepts them. Raises ValidationError."""
    if not is_visible(name):
        raise ValidationError(_("A name has no invisible characters."), code="invisible")


# The setting ACCOUNT_USERNAME_VALIDATORS has the path of this list.
USERNAME_VALIDATORS = [UnicodeUsernameValidator(), validate_username]
