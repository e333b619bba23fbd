"""`manage.py dead_letters list|show|requeue|discard`: messages that some member missed. Data on stdout, other messages on stderr.

A dead letter is selected by its id or by ROOM:SEQ. The text of a message is never printed.
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
from messaging.bridge import run_async
from messaging.expiry import letters, requeue
from messaging.expiry.reports import Names
from messaging.expiry.requeue import Outcome, Result
from messaging.management.arguments import Stop, agreed, database_away, duration_s, positive, say, show_table
from messaging.models import DeadLetter, MissedRecipient, Room, epoch_ms, moment
from messaging.store import clock_ms

DEFAULT_LIMIT = 100  # rows of a list without --limit
MAX_NAMED = 3  # people named in a row of a list
MAX_SHOWN = 100  # people shown of a letter without --json
READ_BATCH = 500

Fields = dict[str, Any]


class Command(BaseCommand):
    help = "List, show, send again or discard dead letters: messages that expired before every member received them."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|requeue|discard")
        lister = verbs.add_parser("list", help="list dead letters, the newest first")
        lister.add_argument(
            "--state", choices=DeadLetter.State.values, help="only dead letters in this state (default: all)"
        )
        lister.add_argument(
            *("--quarantined", "--set-aside"),  # the second is an old name
            action="store_true",
            help="only quarantined messages, reported without their text",
        )
        show = verbs.add_parser(
            "show", help="show a dead letter and the members who missed it, without its text"
        )
        show.add_argument("letter", metavar="ID", help="ID of the dead letter, or ROOM:SEQ")
        requeue = verbs.add_parser(
            "requeue", help="send open dead letters again to the members who missed them"
        )
        discard = verbs.add_parser(
            "discard", help="discard open dead letters; can be undone in the admin for 10 minutes"
        )
        for verb in (requeue, discard):
            verb.add_argument(
                "letters",
                nargs="*",
                metavar="ID",
                help="IDs of dead letters, or ROOM:SEQ; without them, the options select open ones, the oldest first",
            )
        for verb in (lister, requeue, discard):
            verb.add_argument(
                "--room", metavar="ID", help="only dead letters of this room, which may be deleted"
            )
            verb.add_argument(
                "--older-than",
                type=duration_s,
                metavar="2h",
                help="only messages that expired longer ago than this",
            )
            default = f" (default: {DEFAULT_LIMIT})" if verb is lister else ""
            verb.add_argument("--limit", type=positive, metavar="N", help=f"at most N dead letters{default}")
        for verb in (requeue, discard):
            verb.add_argument("--yes", action="store_true", help="do not ask for confirmation")
            verb.add_argument(
                "--dry-run", action="store_true", help="show what would be done; change nothing"
            )
        for verb in (lister, show, requeue, discard):
            verb.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        verbs = {"list": self._list, "show": self._show, "requeue": self._requeue, "discard": self._discard}
        try:
            verbs[options["verb"]](options)
        except DatabaseError as error:
            raise CommandError(
                f"{database_away(error)} Dead letters that are not listed above are unchanged."
            ) from None

    # Reading

    def _list(self, options: Fields) -> None:
        selected = _selected(options)
        if options["state"]:
            selected = selected.filter(state=options["state"])
        if options["quarantined"]:
            selected = selected.exclude(fault="")
        limit = options["limit"] or DEFAULT_LIMIT
        total = selected.count()
        newest = selected.order_by("-expired_at", "-seq", "pk")[:limit]
        rows = [_row(letter) for letter in _with_names(newest)]
        if options["json"]:
            self._write_json({"dead_letters": rows, "total": total})
        else:
            show_table(
                sys.stdout,
                ("letter", "state", "room", "sender", "expired", "missed", "by"),
                (_cells(row) for row in rows),
            )
        if not rows:
            say("No dead letters match.")
        elif total > len(rows):
            say(f"Showing the newest {len(rows)} of {total}. Use --limit to show more.")

    def _show(self, options: Fields) -> None:
        letter = (
            DeadLetter.objects.defer("body").annotate(has_text=_HAS_TEXT).get(pk=_key_of(options["letter"]))
        )
        fields = _fields(letter)
        people = _people(letter)
        if options["json"]:
            self._write_json(fields | {"missing": people})
            return
        for name, value in fields.items():
            text = _time(value) if name.endswith(("_at", "_until")) and value else value
            self.stdout.write(f"{name:<19}{'' if text is None else text}".rstrip())
        if fields["text_kept_until"] is None:
            say("The text was deleted: the message cannot be sent again.")
        show_table(
            sys.stdout,
            ("missed by", "user", "reason", "attempts"),
            (
                (person["name"], f"#{person['user']}", person["reason"], str(person["attempts"]))
                for person in people[:MAX_SHOWN]
            ),
        )
        if len(people) > MAX_SHOWN:
            say(f"{len(people) - MAX_SHOWN} more missed it. Use --json to show all of them.")

    # Changing

    def _requeue(self, options: Fields) -> None:
        keys = self._chosen(options, with_text=True)
        if options["dry_run"]:
            self._preview(keys, options)
            return
        if not self._confirmed(keys, options, "Send {} dead letters again to the members who missed them?"):
            return
        with Stop() as stop, Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
            bar = progress.add_task("Sending again", total=len(keys))
            outcomes = run_async(
                requeue.requeue,
                keys,
                by=None,
                stopping=lambda: bool(stop),
                on_progress=lambda: progress.advance(bar),
            )
        self._report(outcomes, "sent again", left=len(keys) - len(outcomes), as_json=options["json"])

    def _discard(self, options: Fields) -> None:
        keys = self._chosen(options)
        if options["dry_run"]:
            outcomes = [_outcome(key, _discard_blocked_by(key)) for key in keys]
            self._report(outcomes, "would be discarded", as_json=options["json"])
            return
        question = "Discard {} dead letters? This can be undone in the admin for 10 minutes."
        if not self._confirmed(keys, options, question):
            return
        resolved = letters.discard(keys, None, run_async(clock_ms))
        outcomes = [_outcome(key, "") for key in resolved.done]
        outcomes += [_outcome(key, why) for key, why in resolved.skipped]
        self._report(outcomes, "discarded", as_json=options["json"])

    def _preview(self, keys: Sequence[UUID], options: Fields) -> None:
        plans = {key: letters.resend_plan(DeadLetter.objects.get(pk=key)) for key in keys}
        outcomes = [_outcome(key, plan.blocked_by, plan.left_out) for key, plan in plans.items()]
        self._report(outcomes, "would be sent again", as_json=options["json"])

    def _chosen(self, options: Fields, *, with_text: bool = False) -> list[UUID]:
        """Return the selected letters: the named ones, else the open ones that match, the oldest first."""
        selected = any(options[name] is not None for name in ("room", "older_than", "limit"))
        if options["letters"]:
            if selected:
                raise CommandError(
                    "Give IDs, or --room, --older-than and --limit, but not both.", returncode=2
                )
            return list(dict.fromkeys(_key_of(text) for text in options["letters"]))
        if not selected:
            raise CommandError(
                "Nothing is selected. Give IDs, or select open dead letters with --room, --older-than or --limit.",
                returncode=2,
            )
        matching = _selected(options).filter(state=DeadLetter.State.OPEN)
        if with_text:
            without_text = matching.filter(body__isnull=True).count()
            matching = matching.filter(body__isnull=False)
            if without_text:
                say(f"{without_text} more match, but cannot be sent again: their text was deleted.")
        oldest = matching.order_by("expired_at", "seq", "pk").values_list("pk", flat=True)
        return list(oldest[: options["limit"]])

    def _confirmed(self, keys: Sequence[UUID], options: Fields, question: str) -> bool:
        if len(keys) < 2 or options["yes"]:
            return True
        if agreed(self.stderr, question.format(f"{len(keys):,}")):
            return True
        say("Nothing was changed.")
        return False

    def _report(self, outcomes: Sequence[Outcome], done: str, *, as_json: bool, left: int = 0) -> None:
        """Print the outcomes and their sums; exit code 1 when any failed."""
        counts = Counter(outcome.result for outcome in outcomes)
        labels = _labels([UUID(outcome.key) for outcome in outcomes])
        rows = _outcome_rows(outcomes, labels)
        if as_json:
            sums = {str(result): counts[result] for result in Result}
            self._write_json(sums | {"left": left, "dead_letters": rows})
        else:
            show_table(
                sys.stdout,
                ("letter", "result", "why"),
                ((row["letter"], row["result"], _why(row)) for row in rows),
            )
        reasons = Counter(outcome.why for outcome in outcomes if outcome.why)
        details = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        suffix = f" ({details})" if details else ""
        say(
            f"{counts[Result.DONE]} {done}, {counts[Result.SKIPPED]} skipped, {counts[Result.FAILED]} failed{suffix}."
        )
        if left:
            say(f"{left} were not processed and are unchanged.")
        if counts[Result.FAILED]:
            raise CommandError(
                "Some could not be sent again. They are unchanged. Run `manage.py doctor` to see the cause, then run this"
                " command again. No message is sent twice."
            )

    def _write_json(self, data: Fields) -> None:
        self.stdout.write(json.dumps(data, ensure_ascii=False, indent=2))


_HAS_TEXT = Q(body__isnull=False)


def _key_of(text: str) -> UUID:
    """Return the key of a letter from its id or ROOM:SEQ."""
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
        raise CommandError(f"There is no dead letter {text}. To see all, run `manage.py dead_letters list`.")
    return key


def _selected(options: Fields) -> QuerySet[DeadLetter]:
    """Return the letters that match the options, without text."""
    matching = DeadLetter.objects.defer("body", "missing")
    room = options["room"]
    if room is not None:
        if not Room.objects.filter(pk=room).exists() and not matching.filter(room_key=room).exists():
            raise CommandError(
                f"There is no room {room}, and no dead letter of a deleted room with this ID.", returncode=2
            )
        matching = matching.filter(room_key=room)
    if options["older_than"] is not None:
        now_ms = run_async(clock_ms)
        matching = matching.filter(expired_at__lt=moment(now_ms) - timedelta(seconds=options["older_than"]))
    return matching


def _with_names(rows: QuerySet[DeadLetter]) -> Iterator[DeadLetter]:
    """Yield letters with their first recipients as `first`, and `shadowed` if ROOM:SEQ names a newer letter."""
    newer = DeadLetter.objects.filter(
        room_key=OuterRef("room_key"), seq=OuterRef("seq"), sent_at__gt=OuterRef("sent_at")
    )
    first = Prefetch("missed_recipients", MissedRecipient.objects.order_by("pk")[:MAX_NAMED], to_attr="first")
    return rows.annotate(shadowed=Exists(newer)).prefetch_related(first).iterator(READ_BATCH)


def _label(letter: Any) -> str:
    return str(letter.pk) if letter.shadowed else f"{letter.room_key}:{letter.seq}"


def _row(letter: Any) -> Fields:
    return {
        "id": str(letter.pk),
        "letter": _label(letter),
        "state": letter.state,
        "room": letter.room_key,
        "room_name": letter.room_name,
        "seq": letter.seq,
        "sender": letter.sender_key,
        "sender_name": letter.sender_name,
        "expired_at": epoch_ms(letter.expired_at),
        "missing_total": letter.missing_total,
        "total": letter.total,
        "first_missing": [member.name for member in letter.first],
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
    """Return all members who missed it; the first 100 with the names they had at that time."""
    missing = letters.missing_of(letter)
    old_names = dict(letter.missed_recipients.values_list("user_key", "name"))
    names = Names({member.user for member in missing} - old_names.keys())
    return [
        {
            "user": member.user,
            "name": old_names.get(member.user) or names.of(member.user),
            "reason": member.reason,
            "attempts": member.attempts,
        }
        for member in missing
    ]


def _labels(keys: Sequence[UUID]) -> dict[str, str]:
    """Return {letter: ROOM:SEQ} of the letters that the database has."""
    labels: dict[str, str] = {}
    with suppress(DatabaseError):
        for start in range(0, len(keys), READ_BATCH):
            rows = DeadLetter.objects.filter(pk__in=keys[start : start + READ_BATCH])
            labels |= {
                str(key): f"{room}:{seq}" for key, room, seq in rows.values_list("pk", "room_key", "seq")
            }
    return labels


def _outcome(key: UUID, why: str, left_out: Sequence[tuple[int, str]] = ()) -> Outcome:
    return Outcome(str(key), Result.SKIPPED if why else Result.DONE, why, left_out)


def _discard_blocked_by(key: UUID) -> str:
    letter = DeadLetter.objects.defer("body", "missing").annotate(has_text=_HAS_TEXT).get(pk=key)
    return letters.discard_blocked_by(letter)


def _outcome_rows(outcomes: Sequence[Outcome], labels: dict[str, str]) -> list[Fields]:
    names = _names({user for outcome in outcomes for user, _ in outcome.left_out})
    return [
        {
            "id": outcome.key,
            "letter": labels.get(outcome.key, outcome.key),
            "result": str(outcome.result),
            "why": outcome.why,
            "left_out": [{"user": user, "name": names[user], "why": why} for user, why in outcome.left_out],
        }
        for outcome in outcomes
    ]


def _names(users: Set[int]) -> dict[int, str]:
    """Return {user: name}; `#id` while the database is down, so that the outcomes are still printed."""
    try:
        names = Names(users)
    except DatabaseError:
        return {user: f"#{user}" for user in users}
    return {user: names.of(user) for user in users}


def _why(row: Fields) -> str:
    """Return the reason, and at most three of the members left out."""
    left_out = [f"{person['name']} ({person['why']})" for person in row["left_out"][:MAX_NAMED]]
    others = len(row["left_out"]) - len(left_out)
    people = f"left out: {', '.join(left_out)}" + (f" +{others}" if others else "") if left_out else ""
    return "; ".join(filter(None, [row["why"], people]))


def _time(ms: int) -> str:
    return f"{moment(ms):%Y-%m-%d %H:%M:%S}Z"
