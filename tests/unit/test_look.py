"""The rules of the look: contrast on every surface, tokens only, nothing inline, no missing class or icon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSS = sorted((ROOT / "static" / "css").glob("*.css"))
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOT / "static" / "js").rglob("*.js"))
ADMIN_ONLY = {"admin.css"}  # Django's own rules are in no layer and would win over one

PAGES = ("shelf", "paper", "card", "well", "bubble")
ON_PAGE = (*PAGES, "bubble-own", "selected", "hover")
TINTS = tuple(f"tint-{number}" for number in range(6))
# (ink, its surface, least contrast): 4.5 for text, 3 for borders and signs (WCAG 1.4.3, 1.4.11).
CONTRASTS = [
    ("ink", (*ON_PAGE, "fill", "amber-soft", "red-soft", "accent-soft", *TINTS), 4.5),
    ("ink-2", (*ON_PAGE, "room"), 4.5),
    ("ink-3", (*PAGES, "selected", "hover"), 4.5),
    ("accent", (*ON_PAGE, "accent-soft"), 4.5),
    ("accent-strong", ("accent-soft",), 4.5),
    ("amber", (*PAGES, "bubble-own", "amber-soft"), 4.5),
    ("red", (*PAGES, "selected", "hover", "red-soft"), 4.5),
    ("on-solid", ("solid", "solid-hover", "solid-red"), 4.5),
    ("edge", ("shelf", "paper", "card", "well", "bubble", "bubble-own"), 3.0),
    ("green", ("shelf", "card", "selected", "hover"), 3.0),
    ("focus", ON_PAGE, 3.0),
]


def tokens() -> dict[str, tuple[str, str]]:
    """Return {name: (light, dark)} of every opaque colour."""
    text = (ROOT / "static" / "css" / "tokens.css").read_text()
    both = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", text.split("@media")[0])
    same = re.findall(r"--([\w-]+): (#\w{6});", text)
    return {name: (light, dark) for name, light, dark in both} | {name: (one, one) for name, one in same}


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(("ink", "surfaces", "least"), CONTRASTS, ids=[row[0] for row in CONTRASTS])
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_ink_is_readable_on_every_surface_it_stands_on(
    theme: int, ink: str, surfaces: tuple[str, ...], least: float
) -> None:
    colours = tokens()
    faint = {
        surface: round(found, 2)
        for surface in surfaces
        if (found := contrast(colours[ink][theme], colours[surface][theme])) < least
    }
    assert not faint, f"--{ink} needs {least} and has {faint}"


def without_comments(path: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


def outermost(text: str) -> list[str]:
    """Return the text before every outermost brace or semicolon."""
    found, depth, begin = [], 0, 0
    for at, character in enumerate(text):
        if character in "{;" and depth == 0:
            found.append(text[begin:at].strip())
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character in ";}" and depth == 0:
            begin = at + 1
    return found


@pytest.mark.parametrize("path", CSS, ids=lambda path: path.name)
def test_style_sheets_hold_to_the_rules(path: Path) -> None:
    text = without_comments(path)
    assert "!important" not in text
    selectors = re.findall(r"([^{};]+)\{", text)
    assert not [s for s in selectors if "#" in s], "no rule may select an id"
    assert not re.search(
        r"\b(?:margin|padding|border)-(?:left|right|top|bottom)\b|\b(?:left|right):", text
    ), "logical only"
    if path.name not in ADMIN_ONLY:
        assert all(rule.startswith("@layer ") for rule in outermost(text)), "every rule belongs to a layer"
    if path.name not in ADMIN_ONLY | {"tokens.css"}:
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b|\brgb\(", text), (
            "colours are spelled out in tokens.css alone"
        )


def test_every_custom_property_that_is_used_is_a_token() -> None:
    defined = set(re.findall(r"(--[\w-]+):", "".join(without_comments(path) for path in CSS)))
    for path in CSS:
        if path.name in ADMIN_ONLY:
            continue
        used = set(re.findall(r"var\((--[\w-]+)", without_comments(path)))
        assert used <= defined, f"{path.name} uses {used - defined}"


def test_every_style_sheet_is_linked_once_and_the_tokens_come_first() -> None:
    linked = re.findall(r"css/([\w.-]+)'", (ROOT / "templates" / "_styles.html").read_text())
    assert linked[0] == "tokens.css"
    assert len(linked) == len(set(linked))
    assert set(linked) == {path.name for path in CSS} - ADMIN_ONLY


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT / "templates")))
def test_no_template_holds_inline_style_or_script(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\sstyle\s*=", text)
    assert not re.search(r"<style\b", text)
    assert not re.search(r"\son\w+\s*=", text)
    assert not re.search(r"javascript:", text)
    inline = [tag for tag in re.findall(r"<script\b[^>]*>", text) if "src=" not in tag]
    assert all('type="application/json"' in tag for tag in inline)


def test_every_class_in_use_has_a_rule() -> None:
    ruled = set(re.findall(r"\.([a-z][\w-]*)", "".join(without_comments(path) for path in CSS)))
    own = [path for path in TEMPLATES if "admin" not in path.parts]  # Django's admin has its own rules
    for path in (*own, *SCRIPTS):
        text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", path.read_text())
        used = {
            name for names in re.findall(r"""\bclass(?:=|: )"([^"]*)\"""", text) for name in names.split()
        }
        assert used <= ruled, f"{path.name} uses {used - ruled}"


def test_every_icon_in_use_is_in_the_sprite() -> None:
    drawn = set(re.findall(r'<symbol id="([\w-]+)"', (ROOT / "static" / "img" / "icons.svg").read_text()))
    in_html = r"""(?:icons\.svg' %\}|\{\{ sprite \}\})#([a-z][\w-]*)"""
    in_js = r"""\b(?:icon|iconButton|setIcon)\((?:\w+, )?"([\w-]+)\""""
    used = {
        path.name: set(re.findall(f"{in_html}|{in_js}", path.read_text())) for path in (*TEMPLATES, *SCRIPTS)
    }
    names = {file: {name for pair in found for name in pair if name} for file, found in used.items()}
    assert any(names.values())
    assert not {file: missing for file, found in names.items() if (missing := found - drawn)}
