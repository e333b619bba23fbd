"""Check the English of the project against the rules in `prose.toml`.

    python tools/prose.py             the paths that `prose.toml` lists under `checked`
    python tools/prose.py PATH ...    these files and folders
    python tools/prose.py --count     the number of findings in each folder of the project

Read are Markdown outside code; docstrings, comments and messages of Python, and names of tests; comments of Lua,
JavaScript, CSS, TOML and make; the English of translations (`msgid`). Exit code 0: no findings, 1: findings.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = tomllib.loads((ROOT / "tools" / "prose.toml").read_text())
# A space in a pattern also matches a line break.
RULES = [
    (kind, re.compile(rule["pattern"].replace(" ", r"\s+"), re.IGNORECASE | re.MULTILINE), rule["use"])
    for kind, rule in CONFIG["rules"].items()
]

CODE = re.compile(r"```.*?```|``.+?``|`[^`\n]+`|<!--.*?-->|\]\([^)\s]*\)|https?://\S+", re.DOTALL)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
COMMENT = {  # by the end of a file's name
    **dict.fromkeys([".py", ".toml", ".txt", "Makefile"], r"#:? ?(.*)"),
    ".lua": r"--+(?!\[) ?(.*)",
    ".js": r"(?://|/\*+|^ *\*) ?(.*)",
    ".css": r"(?:/\*+) ?(.*)",
}

Passage = tuple[int, str]  # the number of its first line, its text


def documentation(text: str) -> Iterator[Passage]:
    """Yield the docstrings and the names of tests of a Python file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node, clean=False)):
            yield node.body[0].lineno, docstring
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")


def sentences(text: str) -> Iterator[Passage]:
    """Yield the texts in code that have at least four words: messages to users, help of commands."""
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from [(node.lineno, node.value)] if node.value.count(" ") >= 3 else []


def comments(text: str, pattern: str) -> Iterator[Passage]:
    """Yield the comments; those on consecutive lines are one passage."""
    sign = re.compile(rf"(?:^|\s){pattern}")
    first = 0
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if match := sign.search(line):
            first, lines = first or number, [*lines, match[1]]
        elif lines:
            yield first, "\n".join(lines)
            first, lines = 0, []


def messages(text: str) -> Iterator[Passage]:
    for match in re.finditer(r'^msgid(?:_plural)? ((?:".*"\n)+)', text, re.MULTILINE):
        yield text.count("\n", 0, match.start()) + 1, re.sub(r'"\n"|^"|"$', "", match[1])


def passages(path: Path) -> Iterator[Passage]:
    text = path.read_text()
    if path.suffix == ".md":
        yield 1, re.sub(r"^ {4}(?! *[-*]).*", "`code`", text, flags=re.MULTILINE)
    if path.suffix == ".po":
        yield from messages(text)
    if path.suffix == ".py":
        yield from documentation(text)
        if "tests" not in path.parts:
            yield from sentences(text)
    if pattern := COMMENT.get(path.suffix or path.name):
        yield from comments(text, pattern)


def check(path: Path) -> Iterator[str]:
    for first, text in passages(path):
        # In the place of code stand as many line breaks as it has, so that the numbers of lines stay right.
        prose = CODE.sub(lambda match: "\0" + "\n\0" * match[0].count("\n"), text)
        for kind, pattern, use in RULES:
            for match in pattern.finditer(prose):
                line = first + prose.count("\n", 0, match.start())
                words = " ".join(match[0].split()).replace("\0", "…")
                yield f"{path.relative_to(ROOT)}:{line}: {kind}: {words!r}: {use}"


def tracked(wanted: Iterable[str]) -> list[Path]:
    """Return the files of these paths, folders with all that is in them, except what `prose.toml` skips."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *wanted]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in output.splitlines() if not name.startswith(tuple(CONFIG["skipped"]))]
    paths = [ROOT / name for name in names if name.endswith((".md", ".po", *COMMENT))]
    return [path for path in paths if path.is_file()]


def main(arguments: list[str]) -> int:
    if arguments == ["--count"]:
        folders = Counter(path.parent.relative_to(ROOT) for path in tracked(["."]) for _ in check(path))
        print("\n".join(f"{count:6} {folder}" for folder, count in folders.most_common()))
        return 0
    findings = [finding for path in tracked(arguments or CONFIG["checked"]) for finding in check(path)]
    print("\n".join([*findings, f"prose: {len(findings)} findings"]))
    return min(len(findings), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
