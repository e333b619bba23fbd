"""The values with several fields in one text: read in one place in Python, and in one shared file in Lua."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from messaging.store import scripts
from messaging.store.entries import Attempts, Leaver, LiveEntry, Outcome, parse_index_entry

LUA = Path(scripts.__file__).parent / "lua"
DEFINED = {
    name: path.stem
    for path in (LUA / "shared").glob("*.lua")
    for name in re.findall(r"^local function (\w+)", path.read_text(), re.MULTILINE)
}


def test_live_entry_has_seq_sender_id_and_whether_it_is_owed() -> None:
    assert LiveEntry.parse("7|2|abc") == (7, 2, "abc", True)
    assert LiveEntry.parse("7|2|abc|u") == (7, 2, "abc", False)


def test_attempts_value_has_count_next_time_and_reason() -> None:
    assert Attempts.parse("3|1000|9000|waiting") == (3, 9000, "waiting")
    assert Attempts.parse("") == (0, 0, "")


def test_outcome_leaver_and_index_entry_have_their_fields() -> None:
    assert Outcome.parse("7|2|no_ack|8") == (7, 2, "no_ack", 8)
    assert Leaver.parse("2|1|5", 9) == (2, 1, 5, 9)
    assert parse_index_entry("room_1|7") == ("room_1", 7)


@pytest.mark.parametrize("path", sorted(LUA.rglob("*.lua")), ids=lambda path: path.stem)
def test_script_names_the_shared_files_and_functions_that_it_uses(path: Path) -> None:
    text = path.read_text()
    uses = re.findall(r"^-- Uses (?:(\w+): )?(.+)$", text, re.MULTILINE)
    named = {(file, name) for file, names in uses for name in names.split(", ")}
    single = {file for file, _ in named} - {""}
    called = set(re.findall(r"\b(\w+)\(", re.sub(r"--.*", "", text)))
    own = set(re.findall(r"local function (\w+)", text))
    used = {
        (DEFINED[name], name) if DEFINED[name] in single | {"entries"} else ("", DEFINED[name])
        for name in called - own
        if name in DEFINED
    }
    assert used <= named
    of_itself = {(path.stem, name) for name in own}  # functions of this file that another one needs
    assert (
        named - used <= {("", "messages")} | of_itself
    )  # `messages` also defines the constants of its functions


@pytest.mark.parametrize("path", sorted(LUA.glob("*.lua")), ids=lambda path: path.stem)
def test_script_names_each_key_and_argument_once_in_its_head(path: Path) -> None:
    numbers = re.findall(r"\b(KEYS|ARGV)\[(\d+)\]", path.read_text())
    assert len(numbers) == len(set(numbers))
