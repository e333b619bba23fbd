"""`manage.py dead_letters list|show|requeue|discard`: what expired before everybody had it. Data on stdout, talk on stderr.

A letter is named by its id or by ROOM:SEQ. No text of a message is ever printed.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet
from rich.progress import Progress

from messaging import policy as policies
from messaging.bridge import run_verb
from messaging.expiry import letters, requeue
from messaging.expiry.reports import Names
from messaging.expiry.requeue import Outcome, Result
from messaging.management.arguments import Stop, agreed, database_away, duration_s, positive, say, show_table
from messaging.models import DeadLetter, MissedRecipient, Room, epoch_ms, moment
from messaging.store import clock_ms

LISTED = 100  # rows of a list that nobody limited
NAMED = 3  # people named in a row of a list
SHOWN = 100  # people shown of a letter, where not as JSON
READ_AT_ONCE = 500

Fields = dict[str, Any]


class Command(BaseCommand):
    help = "List and show messages that expired before everybody had them; send them again, or discard them."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|requeue|discard")
        lister = verbs.add_parser("list", help="list dead letters, the newest first")
        lister.add_argument("--state", choices=DeadLetter.State.values, help="only these; default: all")
        lister.add_argument("--set-aside", action="store_true", help="only what could not be reported whole")
        show = verbs.add_parser("show", help="show one, and who missed it, without its text")
        show.add_argument("letter", metavar="ID", help="its id, or ROOM:SEQ")
        again = verbs.add_parser("requeue", help="send open ones again to just those who missed them")
        discard = verbs.add_parser(
            "discard", help="give open ones up; the admin takes it back for 10 minutes"
        )
        for verb in (again, discard):
            verb.add_argument("letters", nargs="*", metavar="ID", help="an id, or ROOM:SEQ")
        for verb in (lister, again, discard):
            verb.add_argument("--room", metavar="ID", help="only of this room, also of one that is gone")
            verb.add_argument(
                "--older-than", type=duration_s, metavar="2h", help="only what expired longer ago than this"
            )
            verb.add_argument("--limit", type=positive, metavar="N", help="at most so many")
        for verb in (again, discard):
            verb.add_argument("--yes", action="store_true", help="do not ask")
            verb.add_argument("--dry-run", action="store_true", help="say what would be done; change nothing")
        for verb in (lister, show, again, discard):
            verb.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        verbs = {"list": self._list, "show": self._show, "requeue": self._requeue, "discard": self._discard}
        try:
            verbs[options["verb"]](options)
        except DatabaseError as error:
            raise CommandError(f"{database_away(error)} What was not said to be done is as it was.") from None

    # Reading

    def _list(self, options: Fields) -> None:
        found = _selected(options)
        if options["state"]:
            found = found.filter(state=options["state"])
        if options["set_aside"]:
            found = found.exclude(fault="")
        most = options["limit"] or LISTED
        total = found.count()
        rows = [_row(letter) for letter in _with_names(found.order_by("-expired_at", "-seq", "pk")[:most])]
        if options["json"]:
            self._write_json({"dead_letters": rows, "total": total})
        else:
            show_table(
                sys.stdout,
                ("letter", "state", "room", "sender", "expired", "missed", "by"),
                (_cells(row) for row in rows),
            )
        if not rows:
            say("There is none: everybody had everything in time, or nothing fits.")
        elif total > len(rows):
            say(f"{len(rows)} of {total} shown, the newest; --limit shows more.")

    def _show(self, options: Fields) -> None:
        letter = (
            DeadLetter.objects.defer("body").annotate(has_text=_HAS_TEXT).get(pk=_named(options["letter"]))
        )
        fields = _fields(letter)
        people = _people(letter)
        if options["json"]:
            self._write_json(fields | {"missing": people})
            return
        for name, value in fields.items():
            shown = _time(value) if name.endswith(("_at", "_until")) and value else value
            self.stdout.write(f"{name:<19}{'' if shown is None else shown}".rstrip())
        if fields["text_kept_until"] is None:
            say("Its text is not kept any more: it cannot be sent again.")
        show_table(
            sys.stdout,
            ("missed by", "user", "reason", "attempts"),
            ((one["name"], f"#{one['user']}", one["reason"], str(one["attempts"])) for one in people[:SHOWN]),
        )
        if len(people) > SHOWN:
            say(f"{len(people) - SHOWN} more missed it; --json shows all.")

    # Changing

    def _requeue(self, options: Fields) -> None:
        keys = self._chosen(options, with_text=True)
        if options["dry_run"]:
            self._foresee(keys, options)
            return
        if not self._may(keys, options, "Send {} messages again to those who missed them?"):
            return
        shown = sys.stderr.isatty()
        with Stop() as stop, Progress(disable=not shown, transient=True) as progress:
            bar = progress.add_task("Sending again", total=len(keys))
            outcomes = run_verb(
                requeue.requeue,
                keys,
                by=None,
                stopping=lambda: bool(stop),
                told=lambda: progress.advance(bar),
            )
        self._tell(outcomes, "sent again", left=len(keys) - len(outcomes), as_json=options["json"])

    def _discard(self, options: Fields) -> None:
        keys = self._chosen(options)
        if options["dry_run"]:
            outcomes = [_outcome(key, _hindrance(key)) for key in keys]
            self._tell(outcomes, "would be discarded", as_json=options["json"])
            return
        if not self._may(keys, options, "Discard {} messages? Nobody can send them again then."):
            return
        resolved = letters.discard(keys, None, run_verb(clock_ms))
        outcomes = [_outcome(key, "") for key in resolved.done]
        outcomes += [_outcome(key, why) for key, why in resolved.skipped]
        self._tell(outcomes, "discarded", as_json=options["json"])

    def _foresee(self, keys: Sequence[UUID], options: Fields) -> None:
        found = [(key, letters.prospect(DeadLetter.objects.get(pk=key))) for key in keys]
        outcomes = [_outcome(key, one.obstacle, one.left_out) for key, one in found]
        self._tell(outcomes, "would be sent again", as_json=options["json"])

    def _chosen(self, options: Fields, *, with_text: bool = False) -> list[UUID]:
        """Return which letters are meant: those named, else open ones that fit, the oldest first."""
        selected = any(options[name] is not None for name in ("room", "older_than", "limit"))
        if options["letters"]:
            if selected:
                raise CommandError("Give ids, or --room, --older-than and --limit, not both.", returncode=2)
            return list(dict.fromkeys(_named(text) for text in options["letters"]))
        if not selected:
            raise CommandError(
                "Say which: ids, or --room, --older-than or --limit for open ones.", returncode=2
            )
        fits = _selected(options).filter(state=DeadLetter.State.OPEN)
        if with_text:
            without = fits.filter(body__isnull=True).count()
            fits = fits.filter(body__isnull=False)
            if without:
                say(f"{without} more fit, but their text is not kept any more.")
        return list(fits.order_by("expired_at", "seq", "pk").values_list("pk", flat=True)[: options["limit"]])

    def _may(self, keys: Sequence[UUID], options: Fields, question: str) -> bool:
        if len(keys) < 2 or options["yes"]:
            return True
        if agreed(self.stderr, question.format(f"{len(keys):,}")):
            return True
        say("Nothing was changed.")
        return False

    def _tell(self, outcomes: Sequence[Outcome], done: str, *, as_json: bool, left: int = 0) -> None:
        """Print what became of each and the sums; exit code 1 when something failed."""
        counts = Counter(outcome.result for outcome in outcomes)
        called = _calls([UUID(outcome.key) for outcome in outcomes])
        rows = _outcome_rows(outcomes, called)
        if as_json:
            sums = {str(result): counts[result] for result in Result}
            self._write_json(sums | {"left": left, "dead_letters": rows})
        else:
            show_table(
                sys.stdout,
                ("letter", "result", "why"),
                ((row["letter"], row["result"], _why(row)) for row in rows),
            )
        whys = Counter(outcome.why for outcome in outcomes if outcome.why)
        said = f" ({', '.join(f'{why} {count}' for why, count in sorted(whys.items()))})" if whys else ""
        say(
            f"{counts[Result.DONE]} {done}, {counts[Result.SKIPPED]} skipped, {counts[Result.FAILED]} failed{said}."
        )
        if left:
            say(f"{left} were not reached and are as they were.")
        if counts[Result.FAILED]:
            raise CommandError(
                "Not all could be sent again. Those that failed are as they were, and no message is ever sent twice:"
                " see `manage.py doctor`, then run this again."
            )

    def _write_json(self, data: Fields) -> None:
        self.stdout.write(json.dumps(data, ensure_ascii=False, indent=2))


_HAS_TEXT = Q(body__isnull=False)


def _named(text: str) -> UUID:
    """Return the key of a letter by its id or ROOM:SEQ."""
    room, _, seq = text.rpartition(":")
    if room and re.fullmatch(r"\d{1,16}", seq):
        letter = letters.letter_of(room, int(seq))
        if letter is not None:
            return letter.pk
    try:
        key = UUID(text)
    except ValueError:
        key = None
    if key is None or not DeadLetter.objects.filter(pk=key).exists():
        raise CommandError(f"There is no dead letter {text}; `manage.py dead_letters list` shows them.")
    return key


def _selected(options: Fields) -> QuerySet[DeadLetter]:
    """Return the letters that the options leave, without text."""
    found = DeadLetter.objects.defer("body", "missing")
    room = options["room"]
    if room is not None:
        if not Room.objects.filter(pk=room).exists() and not found.filter(room_key=room).exists():
            raise CommandError(f"There is no room {room}, nor a dead letter of one.", returncode=2)
        found = found.filter(room_key=room)
    if options["older_than"] is not None:
        now_ms = run_verb(clock_ms)
        found = found.filter(expired_at__lt=moment(now_ms) - timedelta(seconds=options["older_than"]))
    return found


def _with_names(found: QuerySet[DeadLetter]) -> Iterator[DeadLetter]:
    """Yield letters with their first recipients as `first`, and `shadowed` where ROOM:SEQ means a newer one."""
    newer = DeadLetter.objects.filter(
        room_key=OuterRef("room_key"), seq=OuterRef("seq"), sent_at__gt=OuterRef("sent_at")
    )
    first = Prefetch("missed_recipients", MissedRecipient.objects.order_by("pk")[:NAMED], to_attr="first")
    return found.annotate(shadowed=Exists(newer)).prefetch_related(first).iterator(READ_AT_ONCE)


def _called(letter: Any) -> str:
    return str(letter.pk) if letter.shadowed else f"{letter.room_key}:{letter.seq}"


def _row(letter: Any) -> Fields:
    return {
        "id": str(letter.pk),
        "letter": _called(letter),
        "state": letter.state,
        "room": letter.room_key,
        "room_name": letter.room_name,
        "seq": letter.seq,
        "sender": letter.sender_key,
        "sender_name": letter.sender_name,
        "expired_at": epoch_ms(letter.expired_at),
        "missing_total": letter.missing_total,
        "total": letter.total,
        "first_missing": [one.name for one in letter.first],
        "fault": letter.fault,
    }


def _cells(row: Fields) -> tuple[str, ...]:
    others = row["missing_total"] - len(row["first_missing"])
    return (
        row["letter"],
        row["state"],
        row["room_name"] or "?",
        row["sender_name"],
        _time(row["expired_at"]),
        f"{row['missing_total']} of {row['total']}",
        ", ".join(row["first_missing"]) + (f" +{others}" if others > 0 else ""),
    )


def _fields(letter: Any) -> Fields:
    kept_s = policies.current().dead_letter_retention_s
    kept_until = letter.expired_at + timedelta(seconds=kept_s)
    return {
        "id": str(letter.pk),
        "state": letter.state,
        "room": letter.room_key,
        "room_name": letter.room_name,
        "room_is_there": letter.room_id is not None,
        "epoch": letter.epoch,
        "seq": letter.seq,
        "message": letter.message_id,
        "sender": letter.sender_key,
        "sender_name": letter.sender_name,
        "sent_at": epoch_ms(letter.sent_at),
        "expired_at": epoch_ms(letter.expired_at),
        "reported_at": epoch_ms(letter.processed_at),
        "reply_to": letter.reply_to,
        "resends": letter.resends,
        "delivered": letter.delivered,
        "total": letter.total,
        "missing_total": letter.missing_total,
        "text_kept_until": epoch_ms(kept_until) if letter.has_text else None,
        "resolved_at": letter.resolved_at and epoch_ms(letter.resolved_at),
        "resolved_by": letter.resolved_by and letter.resolved_by.get_username(),
        "resend_begun_at": letter.resend_started_at and epoch_ms(letter.resend_started_at),
        "sent_again_as_seq": letter.answer and letter.answer["seq"],
        "fault": letter.fault,
    }


def _people(letter: DeadLetter) -> list[Fields]:
    """Return all who missed it; the first 100 by the names they had then."""
    missing = letters.missing_of(letter)
    then = dict(letter.missed_recipients.values_list("user_key", "name"))
    now = Names({one.user for one in missing} - then.keys())
    return [
        {
            "user": one.user,
            "name": then.get(one.user) or now.of(one.user),
            "reason": one.reason,
            "attempts": one.attempts,
        }
        for one in missing
    ]


def _calls(keys: Sequence[UUID]) -> dict[str, str]:
    """Return {letter: ROOM:SEQ}, as far as the database says it."""
    found: dict[str, str] = {}
    with suppress(DatabaseError):
        for at in range(0, len(keys), READ_AT_ONCE):
            rows = DeadLetter.objects.filter(pk__in=keys[at : at + READ_AT_ONCE])
            found |= {
                str(key): f"{room}:{seq}" for key, room, seq in rows.values_list("pk", "room_key", "seq")
            }
    return found


def _outcome(key: UUID, why: str, left_out: Sequence[tuple[int, str]] = ()) -> Outcome:
    return Outcome(str(key), Result.SKIPPED if why else Result.DONE, why, left_out)


def _hindrance(key: UUID) -> str:
    letter = DeadLetter.objects.defer("body", "missing").annotate(has_text=_HAS_TEXT).get(pk=key)
    return letters.hindrance_to_discard(letter)


def _outcome_rows(outcomes: Sequence[Outcome], called: dict[str, str]) -> list[Fields]:
    names = _names({user for outcome in outcomes for user, _ in outcome.left_out})
    return [
        {
            "id": outcome.key,
            "letter": called.get(outcome.key, outcome.key),
            "result": str(outcome.result),
            "why": outcome.why,
            "left_out": [{"user": user, "name": names[user], "why": why} for user, why in outcome.left_out],
        }
        for outcome in outcomes
    ]


def _names(users: Set[int]) -> dict[int, str]:
    """Return {user: name}; numbers for names while the database is away, so that what was done is still said."""
    try:
        names = Names(users)
    except DatabaseError:
        return {user: f"#{user}" for user in users}
    return {user: names.of(user) for user in users}


def _why(row: Fields) -> str:
    """Return why, and up to three of those who are left out."""
    out = [f"{one['name']} {one['why']}" for one in row["left_out"][:NAMED]]
    others = len(row["left_out"]) - len(out)
    people = f"without {', '.join(out)}" + (f" +{others}" if others else "") if out else ""
    return "; ".join(filter(None, [row["why"], people]))


def _time(ms: int) -> str:
    return f"{moment(ms):%Y-%m-%d %H:%M:%S}Z"
