"""The documents agree with the code: frames, codes, numbers, files, names, tests, commands, variables."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest
from django.urls import URLPattern, converters

from chatsite import environment
from messaging import errors, protocol, urls
from messaging.errors import MessagingError
from messaging.models import MissedRecipient, Notice
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.web import endpoint

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXPLANATION = DOCS / "explanation"
REFERENCE = DOCS / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
DECISIONS = EXPLANATION / "decisions"
ADRS = sorted(DECISIONS.glob("[0-9]*.md"))
MAX_PAGE_LINES = 200
MAX_ADR_LINES = 40
MAX_README_LINES = 60  # a screen and a half
MAX_TABLE_LINE = 200  # characters: longer lines make differences unreadable
# The fields of a frame are in one cell, and generated pages are not edited by hand.
WIDE_TABLES = {"protocol.md", "measurements.md", "measurements-results.md", "performance.md"}


# ── Reading a page ──


@cache
def text_of(path: Path) -> str:
    return path.read_text()


def section(path: Path, heading: str) -> str:
    """Return the text below a heading, up to the next heading of its level or above."""
    level = heading.partition(" ")[0]
    _, separator, rest = f"\n{text_of(path)}".partition(f"\n{heading}\n")
    assert separator, f"{path.name} has no {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield each table as rows of cells, without the header."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.strip().splitlines()
        ]
        yield rows[2:]


def table(path: Path, heading: str, number: int = 0) -> list[list[str]]:
    return list(tables(section(path, heading)))[number]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def fields_in(cell: str) -> dict[str, bool]:
    """Return {field: may be absent} of a cell. Text in brackets describes the kind of a field."""
    outside = cell
    while outside != (inner := re.sub(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}", "", outside)):
        outside = inner
    return {name: bool(mark) for name, mark in re.findall(r"`(\w+)`(\?)?", outside)}


# ── The wire contract ──

PROTOCOL = DOCS / "protocol.md"
LIMITS = REFERENCE / "protocol-limits.md"
HTTP = REFERENCE / "http.md"
OBJECTS = {
    "held room": protocol.Since,
    "acked room": protocol.RoomAck,
    "person": protocol.Person,
    "limits": protocol.Limits,
    "room object": protocol.RoomFields,
}


def fields_of(struct: type[msgspec.Struct]) -> dict[str, bool]:
    return {
        field.encode_name: field.default is not msgspec.NODEFAULT for field in msgspec.structs.fields(struct)
    }


def structs(base: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """Return the frames of one direction by their type on the wire."""
    return {str(struct.__struct_config__.tag): struct for struct in base.__subclasses__()}


SERVED = structs(protocol.ClientFrame)
SENT = structs(protocol.ServerFrame) | {"room": protocol.Room}


def documented(heading: str) -> dict[str, dict[str, bool]]:
    """Return the fields of each frame in a table; `those of x` includes the fields of object x."""
    objects = {name: fields_in(fields) for name, fields in table(PROTOCOL, "## Objects inside frames")}
    frames = {}
    for frame, cell, _ in table(PROTOCOL, heading):
        included = re.match(r"those of ([a-z ]+)", cell)
        frames[frame.strip("`")] = {**(objects[included[1]] if included else {}), **fields_in(cell)}
    return frames


@pytest.mark.parametrize(
    ("heading", "code"),
    [("## Client to server", SERVED), ("## Server to client", SENT)],
    ids=["from a client", "from the server"],
)
def test_every_frame_is_in_the_contract_and_each_one_there_is_served(
    heading: str, code: dict[str, type[msgspec.Struct]]
) -> None:
    assert set(documented(heading)) == set(code)


@pytest.mark.parametrize(
    ("heading", "code"),
    [("## Client to server", SERVED), ("## Server to client", SENT)],
    ids=["from a client", "from the server"],
)
def test_every_frame_has_the_fields_of_the_contract(
    heading: str, code: dict[str, type[msgspec.Struct]]
) -> None:
    frames = documented(heading)
    assert {name: frames[name] for name in code} == {name: fields_of(struct) for name, struct in code.items()}


def test_the_objects_inside_frames_have_the_fields_of_the_contract() -> None:
    rows = {name: fields_in(cell) for name, cell in table(PROTOCOL, "## Objects inside frames")}
    assert rows == {name: fields_of(struct) for name, struct in OBJECTS.items()}


def codes() -> dict[str, type[MessagingError]]:
    classes = [member for _, member in inspect.getmembers(errors, inspect.isclass)]
    return {member.code: member for member in classes if issubclass(member, MessagingError)}


def test_every_error_code_is_in_the_contract_with_its_retryability() -> None:
    wire = {names_in(row[0])[0]: row[1] == "yes" for row in table(PROTOCOL, "## Error codes")}
    known = codes()
    over_http = {code for row in table(HTTP, "## Statuses") for code in names_in(row[0])}
    nowhere = {"error", "bad_setting"}  # the base class; a wrong setting ends the start
    assert set(wire) | over_http == set(known) - nowhere
    assert wire == {code: known[code].retryable for code in wire}


def test_the_statuses_over_http_are_those_of_the_page() -> None:
    rows = table(HTTP, "## Statuses")
    statuses = {code: int(status) for cell, status in rows for code in names_in(cell)}
    assert statuses == {code: endpoint._STATUS.get(codes()[code], 400) for code in statuses}


def test_every_close_code_is_in_the_contract() -> None:
    rows = table(PROTOCOL, "## Close codes")
    assert {int(code) for code, by, *_ in rows if by == "server"} == {int(code) for code in Close}
    assert {int(code) for code, by, *_ in rows if by != "server"} == {1001, 1006}


def test_the_reasons_and_the_kinds_of_notices_are_those_of_the_page() -> None:
    reasons = {names_in(reason)[0]: of for reason, of, _ in table(PROTOCOL, "## Reasons")}
    assert {reason for reason, of in reasons.items() if of == "missed"} == set(MissedRecipient.Reason.values)
    [notice] = [row for row in table(PROTOCOL, "## Server to client") if row[0] == "`notice`"]
    assert set(re.findall(r"`kind` `(\w+)`", notice[2])) == set(Notice.Kind.values)


def test_only_codes_from_4500_on_forbid_to_reconnect() -> None:
    rows = table(PROTOCOL, "## Close codes")
    assert {code: again for code, _, again, _ in rows} == {
        code: "no" if int(code) >= 4500 else "yes" for code, *_ in rows
    }


def test_the_numbers_of_the_page_are_those_of_the_policy() -> None:
    rows = table(LIMITS, "# The limits of this server")
    policy = dataclasses.asdict(Policy())
    assert {name.strip("`"): float(value) for name, value, _ in rows} == {
        name.strip("`"): float(policy[name.strip("`")]) for name, *_ in rows
    }


def test_the_lifetimes_in_the_settings_are_those_of_the_policy() -> None:
    rows = table(REFERENCE / "settings.md", "## Limits of lifetimes")
    defaults = {
        name: int(value)
        for names, values, _ in rows
        for name, value in zip(names_in(names), values.split(", "), strict=True)
    }
    policy = dataclasses.asdict(Policy())
    assert {"grace_s", "dead_letter_retention_s"} <= set(defaults)
    assert defaults == {name: policy[name] for name in defaults}


def test_every_json_address_is_on_the_page_with_its_methods() -> None:
    documented = {names_in(row[0])[0]: set(row[1].split(", ")) for row in table(HTTP, "## Addresses")}
    served = {address(pattern): pattern for pattern in urls.urlpatterns if isinstance(pattern, URLPattern)}
    api = {name for name in served if name.startswith("/api/")}
    assert {name for name in documented if name.startswith("/api/")} == api
    assert set(documented) <= set(served)
    for name in api:
        handlers = inspect.getclosurevars(served[name].callback).nonlocals["handlers"]
        assert documented[name] == set(handlers), name


def address(pattern: URLPattern) -> str:
    assert converters  # the patterns name their converters: <room:room>
    return "/" + re.sub(r"<\w+:(\w+)>", r"<\1>", str(pattern.pattern))


# ── The architecture ──

ARCHITECTURE = EXPLANATION / "architecture.md"
# One entry: **failure.** Stored: ... Repeated: ... Repaired by: ... and its test on a line.
CRASH_POINT = re.compile(
    r"^- \*\*(.+?)\.\*\*\s+Stored:\s+(.+?)\.\s+Repeated:\s+(.+?)\.\s+Repaired\s+by:\s+(.+?)\.\n  `(tests/[^`]+)`$",
    re.MULTILINE | re.DOTALL,
)
CRASH_PAGES = [EXPLANATION / "crash-points.md", EXPLANATION / "crash-points-jobs.md"]
CRASH_POINTS = [entry for path in CRASH_PAGES for entry in CRASH_POINT.findall(text_of(path))]


@pytest.mark.parametrize("heading", ["## The walk of one message", "## The end of that message"])
def test_every_station_of_the_walk_is_a_file(heading: str) -> None:
    rows = table(ARCHITECTURE, heading)
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    for _, station, _ in rows:
        assert (ROOT / names_in(station)[0]).is_file(), station


@pytest.mark.parametrize("row", table(ARCHITECTURE, "## Where is ..."), ids=lambda row: row[0])
def test_every_name_of_where_is_stands_in_its_file(row: list[str]) -> None:
    _, file, name = row
    assert re.search(rf"\b{re.escape(names_in(name)[0])}\b", text_of(ROOT / names_in(file)[0]))


def test_every_test_that_a_page_names_exists() -> None:
    pages = "".join(text_of(path) for path in PAGES)
    assert [name for name in re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", pages) if not has_test(name)] == []


@pytest.mark.parametrize("entry", CRASH_POINTS, ids=lambda entry: entry[0])
def test_each_crash_point_is_covered_by_a_test_that_exists(entry: tuple[str, ...]) -> None:
    assert has_test(entry[-1])


def test_every_entry_of_the_crash_points_is_complete() -> None:
    entries = [
        failure for path in CRASH_PAGES for failure in re.findall(r"^- .+", text_of(path), re.MULTILINE)
    ]
    assert len(entries) == len(CRASH_POINTS)


def has_test(name: str) -> bool:
    """Return whether a test like `tests/unit/test_x.py::TestY::test_z` exists."""
    file, *path = name.split("::")
    inside: list[ast.stmt] = ast.parse(text_of(ROOT / file)).body
    for part in path:
        nodes = [
            node
            for node in inside
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == part
        ]
        if not nodes:
            return False
        inside = nodes[0].body
    return path[-1].startswith("test_")


FRAMEWORK_PACKAGES = {"management", "migrations", "templatetags"}  # Django looks for them
PACKAGES = sorted(
    {path.parent.name for path in (ROOT / "messaging").glob("*/__init__.py")} - FRAMEWORK_PACKAGES
)


def test_the_package_table_has_every_package_once() -> None:
    rows = [names_in(row[0])[0] for row in table(ARCHITECTURE, "## Packages")]
    assert sorted(rows) == sorted(["chatsite/", "messaging/", *(f"messaging/{name}/" for name in PACKAGES)])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_begins_with_its_purpose_and_its_life_story(package: str) -> None:
    doc = ast.get_docstring(ast.parse(text_of(ROOT / "messaging" / package / "__init__.py"))) or ""
    assert doc.splitlines()[0].endswith((".", ":"))


# ── Decisions and words ──


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_a_decision_is_short_and_has_its_four_parts_a_date_and_a_status(path: Path) -> None:
    text = text_of(path)
    assert len(text.splitlines()) <= MAX_ADR_LINES
    assert re.findall(r"^\*\*([A-Z][a-z ]+)\.\*\*", text, re.MULTILINE) == [
        "Context",
        "Decision",
        "Consequences",
        "Reconsider when",
    ]
    assert text.startswith(f"# {path.stem[:4]}. ")
    assert re.search(
        r"^Date: \d{4}-\d\d-\d\d\. Status: (accepted|superseded by \d{4})\.$", text, re.MULTILINE
    )


def test_the_index_of_decisions_has_every_decision_once_in_order() -> None:
    rows = table(DECISIONS / "README.md", "# Decisions")
    documented = [(f"[{path.stem[:4]}]({path.name})", *_title_date_status(path)) for path in ADRS]
    assert [tuple(row) for row in rows] == documented
    assert [path.stem[:4] for path in ADRS] == [f"{number:04}" for number in range(1, len(ADRS) + 1)]


def _title_date_status(path: Path) -> tuple[str, str, str]:
    match = re.match(r"# \d{4}\. (.+)\n\nDate: (\S+)\. Status: (.+)\.\n", text_of(path))
    assert match, path.name
    return match[1], match[2], match[3]


GLOSSARY = DOCS / "glossary.md"
# The words refused by the glossary that have no other meaning: a name with one of them is a second name.
REFUSED = {"nonce", "packet", "offset", "shard", "watermark", "broadcast", "participant"}


def glossary() -> tuple[list[str], set[str]]:
    """Return the words of the glossary, and the words that it refuses."""
    rows = [row for rows in tables(text_of(GLOSSARY)) for row in rows]
    words = [word for row in rows for word in row[0].split(", ")]
    return words, {word for row in rows for word in row[2].split(", ")}


def test_the_glossary_has_each_word_once() -> None:
    words, _ = glossary()
    assert len(words) == len(set(words))


def test_no_name_in_the_code_is_a_word_that_the_glossary_refuses() -> None:
    _, refused = glossary()
    assert refused >= REFUSED
    for path in (ROOT / "messaging").rglob("*.py"):
        parts = {part for name in defined(path) for part in name.lower().split("_")}
        assert not parts & REFUSED, path.name


def defined(path: Path) -> set[str]:
    """Return the names of functions, classes, arguments and fields that a module defines."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize(
    "word",
    [
        "seq",
        "epoch",
        "rev",
        "top",
        "outbox",
        "cursor",
        "receipt",
        "mark",
        "lease",
        "recovery",
        "heartbeat",
        "dead letter",
    ],
)
def test_the_glossary_explains_the_most_used_words(word: str) -> None:
    words, _ = glossary()
    assert word in words


# ── The README ──

README = ROOT / "README.md"


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len(text_of(README).splitlines()) <= MAX_README_LINES


def test_every_make_command_that_a_page_names_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {
        target
        for path in PAGES
        for target in re.findall(r"(?:`|^    )make ([a-z0-9]+)", text_of(path), re.MULTILINE)
    }
    assert {"run", "test", "check", "e2e", "bench"} <= named
    assert named <= targets


def test_every_command_that_a_page_names_is_there() -> None:
    commands = {path.stem for path in (ROOT / "messaging" / "management" / "commands").glob("[a-z]*.py")}
    commands |= {"migrate", "collectstatic", "check", "createsuperuser"}
    named = {command for path in PAGES for command in re.findall(r"manage\.py ([a-z_]+)", text_of(path))}
    assert {"serve", "doctor"} <= named
    assert named <= commands


def test_the_page_of_commands_has_every_command() -> None:
    rows = table(REFERENCE / "commands.md", "# Commands")
    named = {name.removeprefix("manage.py ") for row in rows for name in names_in(row[0])}
    assert named == {path.stem for path in (ROOT / "messaging" / "management" / "commands").glob("[a-z]*.py")}


def test_the_variables_of_the_settings_page_are_read() -> None:
    variables = [names_in(row[0])[0] for row in table(REFERENCE / "settings.md", "# Settings")]
    assert {"SITE_URL", "DJANGO_SECRET_KEY", "DATABASE_URL", "REDIS_URL", "DATA_DIR"} <= set(variables)
    read = inspect.getsource(environment) + text_of(ROOT / "chatsite" / "settings.py")
    assert [name for name in variables if f'"{name}"' not in read] == []


# ── Links and paths ──


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", text_of(path))
    local = [link.partition("#") for link in links if not re.match(r"[a-z]+:", link)]
    targets = [((path.parent / name).resolve() if name else path, anchor) for name, _, anchor in local]
    assert [str(target) for target, _ in targets if not target.exists()] == []
    assert [
        (target.name, anchor) for target, anchor in targets if anchor and anchor not in anchors(target)
    ] == []
    folders = "messaging|chatsite|static|templates|tests|docs|bench|locale|tools"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)(?:::[\w:]+)?`", text_of(path))
    assert [name for name in named if not (ROOT / name).exists()] == []


def anchors(path: Path) -> set[str]:
    """Return the anchors that a page's headings get on GitHub."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_short_and_its_tables_are_narrow(path: Path) -> None:
    lines = text_of(path).splitlines()
    assert len(lines) <= MAX_PAGE_LINES
    if path.name not in WIDE_TABLES:
        assert [line[:60] for line in lines if len(line) > MAX_TABLE_LINE] == []


def test_the_index_of_the_documents_has_every_page() -> None:
    index = DOCS / "README.md"
    links = re.findall(r"\]\(([^)#]+)", text_of(index))
    listed = {(DOCS / link).resolve() for link in links}
    assert [str(path) for path in DOCS.rglob("*.md") if path not in {index, *ADRS, *listed}] == []
