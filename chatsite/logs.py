"""One log line for each event on stderr: time, level, logger, message, then `name=value` for each `extra`.

Names and ids come from users, so all characters that could forge a line or control a terminal are escaped. Callers never log the text
of a message.
"""

from __future__ import annotations

import json
import logging
import time
import unicodedata

_STANDARD = set(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
    "request",
}
# C0 and C1 controls, line and paragraph separators, format characters (including bidi overrides), lone surrogates.
_UNSAFE_CATEGORIES = {"Cc", "Zl", "Zp", "Cf", "Cs"}


# Django logs each suspicious request (a foreign Host, too many fields) as an error with a traceback. Anybody can cause one.
SUSPICIOUS = ("django.security.", "chatsite.security.")
SUSPICIOUS_INTERVAL_S = 60


class LimitSuspicious(logging.Filter):
    """Turn records of suspicious requests into warnings without traceback: of each kind, one a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped: dict[str, int] = {}
        self._next_mono_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(SUSPICIOUS):
            return True
        now_mono_s = time.monotonic()
        if now_mono_s < self._next_mono_s.get(record.name, 0):
            self._dropped[record.name] = self._dropped.get(record.name, 0) + 1
            return False
        self._next_mono_s[record.name] = now_mono_s + SUSPICIOUS_INTERVAL_S
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = record.exc_text = None
        record.dropped = self._dropped.pop(record.name, 0)
        return True


class LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [
            f"{moment}.{int(record.msecs):03d}Z",
            record.levelname,
            record.name,
            escape(record.getMessage()),
        ]
        parts += [f"{name}={_value(value)}" for name, value in vars(record).items() if name not in _STANDARD]
        if record.exc_info:
            parts.append(f"traceback={_value(self.formatException(record.exc_info))}")
        return " ".join(parts)


def escape(text: str) -> str:
    """Return `text` on one line, with every invisible or control character as an escape sequence."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(char) if unicodedata.category(char) in _UNSAFE_CATEGORIES else char for char in text
    )


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _value(value: object) -> str:
    if isinstance(value, (bool, int, float)) or value is None:
        return str(value)
    return escape(json.dumps(str(value), ensure_ascii=False))
