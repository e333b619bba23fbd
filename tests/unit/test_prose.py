"""The check of the project's English: what it reads, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tools import prose

Check = Callable[[str, str], list[tuple[int, str]]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Return a function that writes a file and returns the line and kind of each finding."""
    monkeypatch.setattr(prose, "ROOT", tmp_path)

    def check(name: str, text: str) -> list[tuple[int, str]]:
        path = tmp_path / name
        path.write_text(text)
        return [
            (int(line), kind.strip())
            for _, line, kind, *_ in (finding.split(":") for finding in prose.check(path))
        ]

    return check


def test_markdown_outside_code_is_read(write: Check) -> None:
    text = "A site of its\nown.\n\n    it goes on\n\n```\nhe goes\n```\n`whoever` and [a link](of_his.md)\n\nEach minute.\n"
    assert write("page.md", text) == [(1, "own"), (11, "each")]


def test_docstrings_comments_and_test_names_of_python_are_read(write: Check) -> None:
    # `\x23` is a number sign: with the sign itself the check would read the text as a comment of this file.
    text = (
        '"""What is due is claimed."""\n\n\ndef test_what_is_due_is_claimed():\n    x = "he"  \x23 it goes\n'
        "    # a row of\n    # its own\n"
    )
    assert sorted(write("test_x.py", text)) == [
        (1, "headless-subject"),
        (4, "test-name"),
        (5, "goes"),
        (6, "own"),
    ]


def test_messages_are_read_and_short_values_are_not(write: Check) -> None:
    text = 'HELP = "one sweep, and then each minute"\nKEY = "of its own"\n'
    assert write("command.py", text) == [(1, "each")]


def test_comments_of_scripts_are_read(write: Check) -> None:
    assert write("x.lua", "-- deleted by itself\nlocal s = 'of its own'\n") == [(1, "by-itself")]
    assert write("x.js", "const s = 'goes';  // his page\n") == [(1, "he")]


def test_translated_messages_are_read_and_their_translations_are_not(write: Check) -> None:
    text = 'msgid ""\n"Whoever missed "\n"it"\nmsgstr "goes"\n\nmsgid "A message"\nmsgid_plural "so many"\n'
    assert write("django.po", text) == [(1, "headless"), (7, "so-many")]


def test_plain_text_has_no_findings(write: Check) -> None:
    text = "# Title\n\nOffline members need no retry. What does it cost? Every minute the job runs.\n"
    assert write("page.md", text) == []


def test_the_style_guide_lists_every_kind_of_fault() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "style-guide.md").read_text()
    assert guide.count("| ✓ |") == 12
    for word in (
        "of its own",
        "whoever",
        "each minute",
        "by itself",
        "goes",
        "his",
        "says",
        "for an ack",
        "crowd",
    ):
        assert word in guide
