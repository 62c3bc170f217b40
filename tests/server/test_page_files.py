"""The page's files as they are shipped: readable, whole, and without anything that a strict policy would refuse."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import medsum_core

PAGE = Path(medsum_core.__file__).parent / "server" / "page"
FILES = sorted(PAGE.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
PAGES = [path for path in FILES if path.suffix == ".html"]
# Names, not addresses: XML's namespace, code systems, and in a comment the rules that a document follows.
NAMES = {"http://www.w3.org/1999/xhtml", "http://loinc.org", "https://hl7.org/fhir/R4/documents.html"}
PARSED = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser"  # text as HTML or code
STORED = r"localStorage|sessionStorage|indexedDB|document\.cookie|serviceWorker|caches\b"


class Attributes(HTMLParser):
    """The attributes of all elements, and the text inside of script and style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.inline = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.inline += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_short_and_names_no_other_server(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 350 and max(map(len, text.splitlines())) <= 120
    assert set(re.findall(r"\w+://[^\s\"')]+", text)) <= NAMES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_has_no_inline_script_or_style_and_its_files_are_there(path: Path) -> None:
    page = Attributes(path.read_text("utf-8"))
    assert page.inline == ""
    assert [found for found in page.found if found[1].startswith("on") or found[1] == "style"] == []
    linked = [value for tag, name, value in page.found if name in ("src", "href") and tag in ("script", "link")]
    assert len(linked) >= 4 and all(value == "data:," or (PAGE / value).is_file() for value in linked)
    ids = [value for _, name, value in page.found if name == "id"]
    assert len(ids) == len(set(ids))
    named = {value for _, name, values in page.found for value in values.split() if name in ("for", "aria-labelledby")}
    assert named <= set(ids)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_no_text_and_stores_nothing(path: Path) -> None:
    text = path.read_text("utf-8")
    assert re.findall(f"{PARSED}|{STORED}", text) == []
    assert all((PAGE / name).is_file() for name in re.findall(r'from "\./([^"]+)"', text))


def test_every_script_is_used() -> None:
    """Each file is imported or linked by another: none is left over."""
    everything = "".join(path.read_text("utf-8") for path in FILES)
    left = [path.name for path in (*SCRIPTS, *PAGE.glob("*.css")) if f'{path.name}"' not in everything]
    assert left == []


def test_every_id_that_a_script_asks_for_is_on_a_page() -> None:
    on_pages = set(re.findall(r'id="([^"]+)"', "".join(path.read_text("utf-8") for path in PAGES)))
    asked = set(re.findall(r'byId\("([^"]+)"\)', "".join(path.read_text("utf-8") for path in SCRIPTS)))
    assert asked and asked <= on_pages
