"""Valid names of people and rooms: no invisible characters, and no characters that change the writing direction.

A name is shown next to messages. A name that looks empty or looks like another name would hide the author. So a new account also gets no
name that looks like that of another account, and no name of a role. Existing accounts keep their names.

`find` is the only rule by which a name leads to a user: at login, in rooms and in commands.
"""

from __future__ import annotations

import unicodedata

from django.contrib.auth.models import User
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _

from messaging.errors import BadName

from .lookalikes import LOOKALIKES

MAX_NAME = 80  # code points
MAX_TOPIC = 200
MAX_USERNAME = 150  # Django's field
# Names of roles, which readers would trust, and of everybody.
RESERVED = (
    *("admin", "administrator", "administration", "sysadmin", "superuser", "root", "system", "server"),
    *("mod", "moderator", "moderation", "owner", "operator", "staff", "team", "official", "chat", "bot"),
    *("support", "help", "helpdesk", "service", "security", "abuse", "webmaster", "postmaster", "noreply"),
    *("everyone", "all", "anonymous", "nobody"),
    *("管理员", "管理員", "系统管理员", "系統管理員", "超级管理员", "站长", "站長", "版主", "群主"),
    *("系统", "系統", "系统消息", "系统通知", "官方", "客服", "人工客服", "技术支持", "支持", "帮助", "幫助"),
    *("安全", "安全中心", "运营", "工作人员", "小助手", "所有人"),
)

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


def composed(name: str) -> str:
    """Return a username as new accounts store it: stripped, and in the form NFKC. It may be invalid."""
    return unicodedata.normalize("NFKC", name.strip())


def find(users: QuerySet[User], name: str) -> User | None:
    """Return the user with this name: exactly as given, else composed, else the only one that differs in upper and lower case.

    A name that is too long or has an invisible character belongs to nobody: PostgreSQL refuses to compare NUL.
    """
    given, normal = name.strip(), composed(name)
    if not is_visible(given) or not 0 < len(normal) <= MAX_USERNAME:
        return None
    found = list(users.filter(Q(username=given) | Q(username__iexact=normal)))
    by_name = {user.get_username(): user for user in found}
    return by_name.get(given) or by_name.get(normal) or (found[0] if len(found) == 1 else None)


def skeleton(name: str) -> str:
    """Return a text that is the same for usernames that look alike. It is for comparison only."""
    text = unicodedata.normalize("NFKC", name).translate(_SKELETONS).casefold()
    return text.replace("rn", "m").replace("vv", "w")


def looks_taken(users: QuerySet[User], name: str) -> bool:
    """Return whether the name of one of the users looks like `name`.

    Reads all names: 0.3 s for 100,000 users, which is less than the password hash of a new account takes.
    """
    wanted = skeleton(name)
    return any(skeleton(other) == wanted for other in users.values_list("username", flat=True).iterator())


def validate_username(name: str) -> None:
    """Refuse names that hide something: invisible letters, a dot or hyphen at an end, and names of roles. Raises ValidationError.

    Django's own validator (letters, digits, @.+-_) accepts them.
    """
    if not is_visible(name):
        raise ValidationError(_("A name has no invisible characters."), code="invisible")
    if name and not (name[0].isalnum() and name[-1].isalnum()):
        raise ValidationError(_("A name begins and ends with a letter or a digit."), code="edge")
    if _role_form(name) in _RESERVED_FORMS:
        raise ValidationError(_("This name is reserved. Choose another."), code="reserved")


def _role_form(name: str) -> str:
    """Return the skeleton without separators. `i` counts as `l`, for names such as adm1n."""
    return skeleton(name).translate(_NO_SEPARATORS).replace("i", "l")


_SKELETONS = str.maketrans(
    {other: letters for letters, others in LOOKALIKES.items() for other in others}
    | {"I": "l", "1": "l", "0": "o"}
)
_NO_SEPARATORS = str.maketrans("", "", "@.+-_")
_RESERVED_FORMS = frozenset(map(_role_form, RESERVED))

# The setting ACCOUNT_USERNAME_VALIDATORS has the path of this list.
USERNAME_VALIDATORS = [UnicodeUsernameValidator(), MaxLengthValidator(MAX_USERNAME), validate_username]
