"""The Chinese catalogues are whole: every sentence of the sources is in them, translated, and compiled as it stands."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.template import engines
from django.template.base import NodeList, Token
from django.templatetags.i18n import BlockTranslateNode, TranslateNode

ROOT = Path(__file__).parents[2]
CATALOGUES = ROOT / "locale" / "zh_Hans" / "LC_MESSAGES"
DOMAINS = ("django", "djangojs")
GETTEXT = {
    "_",
    "gettext",
    "gettext_lazy",
    "gettext_noop",
    "ngettext",
    "ngettext_lazy",
    "pgettext",
    "pgettext_lazy",
}

Entry = dict[str, Any]


def entries(domain: str) -> Iterator[Entry]:
    """Yield {msgctxt, msgid, msgid_plural, msgstr..., flags} of each entry, the header left out."""
    for block in (CATALOGUES / f"{domain}.po").read_text(encoding="utf-8").split("\n\n"):
        entry: Entry = {"flags": re.findall(r"^#, (.*)$", block, re.MULTILINE)}
        for key, first, rest in re.findall(r'^(msg[\w\[\]]+) "(.*)"((?:\n".*")*)', block, re.MULTILINE):
            quoted = f'"{first}"' + rest
            entry[key] = "".join(ast.literal_eval(line) for line in quoted.split("\n"))
        if entry.get("msgid"):
            yield entry


def key_of(entry: Entry) -> str:
    context = entry.get("msgctxt")
    return f"{context}\x04{entry['msgid']}" if context else str(entry["msgid"])


def texts(entry: Entry) -> list[str]:
    return [text for key, text in entry.items() if key.startswith("msgstr")]


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_entry_is_translated_and_none_is_a_guess(domain: str) -> None:
    listed = list(entries(domain))
    assert listed
    assert not [e["msgid"] for e in listed if "fuzzy" in " ".join(e["flags"])]
    assert not [e["msgid"] for e in listed if not texts(e) or not all(texts(e))]


@pytest.mark.parametrize("domain", DOMAINS)
def test_compiled_catalogue_equals_its_source(domain: str) -> None:
    with (CATALOGUES / f"{domain}.mo").open("rb") as file:
        compiled = dict(gettext.GNUTranslations(file)._catalog)
    compiled.pop("", None)
    written: dict[Any, str] = {}
    for entry in entries(domain):
        if "msgid_plural" in entry:
            written |= {(key_of(entry), number): text for number, text in enumerate(texts(entry))}
        else:
            written[key_of(entry)] = texts(entry)[0]
    assert compiled == written


@pytest.mark.parametrize("domain", DOMAINS)
def test_translations_keep_the_places_for_values(domain: str) -> None:
    def places(text: str) -> set[str]:
        # English counts the others, Chinese counts all; the script provides both.
        return set(re.findall(r"%\(\w+\)\w|%[ds]|\{\w*\}", text.replace("%(all)s", "%(n)s")))

    for entry in entries(domain):
        wanted = places(entry.get("msgid_plural", entry["msgid"]))
        for text in texts(entry):
            assert places(text) == wanted, entry["msgid"]


def in_python() -> Iterator[str]:
    for path in (*ROOT.glob("chatsite/**/*.py"), *ROOT.glob("messaging/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in GETTEXT:
                words = [
                    a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
                ]
                if node.func.id.startswith("pgettext"):
                    yield "\x04".join(words[:2])
                elif words:
                    yield words[0]


def in_templates() -> Iterator[str]:
    engine = engines["django"].engine
    for path in sorted((ROOT / "templates").rglob("*.*")):
        template = (
            engine.from_string(path.read_text(encoding="utf-8")) if path.suffix in {".html", ".txt"} else None
        )
        for node in _nodes(template.nodelist) if template else ():
            if isinstance(node, TranslateNode):
                literal = node.filter_expression.var
                yield str(getattr(literal, "literal", None) or literal)
            else:
                yield _block_text(node, node.singular)


def _nodes(nodelist: NodeList) -> list[Any]:
    return [*nodelist.get_nodes_by_type(TranslateNode), *nodelist.get_nodes_by_type(BlockTranslateNode)]


def _block_text(node: BlockTranslateNode, tokens: list[Token]) -> str:
    text, _names = node.render_token_list(tokens)
    return " ".join(line.strip() for line in text.strip().splitlines()) if node.trimmed else str(text)


def in_scripts() -> Iterator[str]:
    literal = r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\$]|\\.)*`)"""
    for path in (ROOT / "static" / "js").rglob("*.js"):
        for name, first in re.findall(
            rf"\b(gettext|ngettext|_)\(\s*{literal}", path.read_text(encoding="utf-8")
        ):
            assert name
            yield ast.literal_eval(f'"""{first[1:-1]}"""')


@pytest.mark.parametrize(
    ("domain", "source"), [("django", in_python), ("django", in_templates), ("djangojs", in_scripts)]
)
def test_every_sentence_of_the_sources_is_in_the_catalogue(domain: str, source: Any) -> None:
    known = {key_of(entry) for entry in entries(domain)}
    sentences = {text.replace("%%", "%") if domain == "djangojs" else text for text in source()}
    assert sentences
    assert not sentences - known


def test_chinese_has_no_english_punctuation_left_over() -> None:
    """A comma or full stop from an ASCII keyboard stands too close to Chinese characters."""
    chinese = r"[\u4e00-\u9fff]"
    for domain in DOMAINS:
        for entry in entries(domain):
            for text in texts(entry):
                assert not re.search(rf"{chinese}[,;!?]|{chinese}\.(?!\.)", text), text
