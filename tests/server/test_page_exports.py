"""The page's exports: text, Markdown, JSON and a FHIR R4 document, copied or saved as a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

import pytest
from browser import Watched, serving
from fake_server import FakeServer, fake_server
from page_visit import COMPLAINT, HISTORY, MEDICINES, SIGNER, sign, write_whole

MARKUP = 'Pain <b>5</b> & *worse* in "right" elbow.\n1. <script>window.ran = 1</script> \x01]]> # rest'
NOTES = {COMPLAINT: MARKUP, HISTORY: "The patient takes omeprazole 20 mg.", MEDICINES: ""}
XHTML = "{http://www.w3.org/1999/xhtml}"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def server() -> FakeServer:
    return fake_server(NOTES)


@pytest.fixture(scope="module")
def watched(browser: Any, server: FakeServer) -> Iterator[Watched]:
    """One visit with three notes, the last of them empty; not signed yet."""
    with serving(server.app) as address:
        window = Watched(browser, address, permissions=["clipboard-read", "clipboard-write"])
        write_whole(window.page, [COMPLAINT, HISTORY, MEDICINES])
        yield window
        window.close()


@pytest.fixture(scope="module")
def draft(watched: Watched) -> dict[str, str]:
    return {label: saved(watched.page, label) for label in ("Text", "Markdown", "JSON", "FHIR R4 document")}


@pytest.fixture(scope="module")
def signed(draft: dict[str, str], watched: Watched) -> dict[str, Any]:
    """The FHIR document after the signature; `draft` was saved before it."""
    sign(watched.page)
    return json.loads(saved(watched.page, "FHIR R4 document"))


def saved(page: Any, label: str) -> str:
    page.get_by_label("Export as").select_option(label=label)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save file").click()
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        return file.read()


def test_text_and_markdown_say_that_they_are_drafts(draft: dict[str, str]) -> None:
    head = "DRAFT, not signed: to be checked against the source text"
    assert draft["Text"].startswith(f"{head}\n\nChief complaint\n{MARKUP}\n\nHistory of present illness\n")
    assert draft["Markdown"].startswith(f"# Visit notes\n\n*{head}*\n\n## Chief complaint\n\n")
    assert r"Pain \<b\>5\</b\> \& \*worse\* in" in draft["Markdown"]
    assert "\n\n1\\. \\<script\\>" in draft["Markdown"]


def test_json_holds_notes_and_flags(draft: dict[str, str]) -> None:
    record = json.loads(draft["JSON"])
    assert (record["status"], record["signed_by"], record["check_is_current"]) == ("draft", None, True)
    assert [note["note"] for note in record["notes"]] == [MARKUP, *list(NOTES.values())[1:]]
    assert {"flag": "not said", "kind": "medication", "start": 18, "end": 28, "text": "omeprazole", "seen": False} in (
        record["notes"][1]["flags"]
    )
    assert {flag["text"] for flag in record["left_out"]} >= {"Penicillin", "rash"}


def test_copy_puts_the_same_on_the_clipboard(watched: Watched, draft: dict[str, str]) -> None:
    watched.page.get_by_label("Export as").select_option("markdown")
    watched.page.get_by_role("button", name="Copy").click()
    watched.page.locator("#told", has_text="Copied as a draft.").wait_for()
    assert watched.page.evaluate("navigator.clipboard.readText()") == draft["Markdown"]


def test_each_export_is_in_the_audit_log(server: FakeServer, draft: dict[str, str]) -> None:
    lines = [json.loads(line) for line in server.audit.splitlines()]
    formats = [line["format"] for line in lines if line["event"] == "exported"]
    assert formats[:4] == ["text", "markdown", "json", "fhir"]


def test_a_draft_is_a_preliminary_fhir_document(draft: dict[str, str]) -> None:
    document = json.loads(draft["FHIR R4 document"])
    resources = check_document(document)
    composition = document["entry"][0]["resource"]
    assert composition["status"] == "preliminary" and "attester" not in composition
    assert [resources[author["reference"]]["resourceType"] for author in composition["author"]] == ["Device"]
    titles = [section["title"] for section in composition["section"]]
    assert titles == [COMPLAINT, HISTORY]  # FHIR wants text in each section: an empty note has none
    paragraphs = ElementTree.fromstring(composition["section"][0]["text"]["div"]).findall(f"{XHTML}p")
    assert [paragraph.text for paragraph in paragraphs] == MARKUP.replace("\x01", "").split("\n")


def test_a_signed_document_is_final_and_names_the_signer(signed: dict[str, Any]) -> None:
    resources = check_document(signed)
    composition = signed["entry"][0]["resource"]
    assert composition["status"] == "final"
    (attester,) = composition["attester"]
    assert attester["mode"] == "professional" and INSTANT.fullmatch(attester["time"])
    signer = resources[attester["party"]["reference"]]
    assert (signer["resourceType"], signer["name"]) == ("Practitioner", [{"text": SIGNER}])
    assert composition["author"][0]["reference"] == attester["party"]["reference"]


def check_document(bundle: dict[str, Any]) -> dict[str, Any]:
    """What FHIR R4 (4.0.1) asks of a document: bdl-9 to bdl-11, Composition, Narrative. Its resources by fullUrl."""
    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "document")
    assert bundle["identifier"]["system"] == "urn:ietf:rfc:3986" and UUID.fullmatch(bundle["identifier"]["value"])
    assert INSTANT.fullmatch(bundle["timestamp"])
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert all(UUID.fullmatch(url) for url in urls) and len(set(urls)) == len(urls)
    resources = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    composition = bundle["entry"][0]["resource"]
    assert composition["resourceType"] == "Composition"
    assert {"status", "type", "subject", "date", "author", "title"} <= set(composition)
    assert INSTANT.fullmatch(composition["date"]) and datetime.fromisoformat(composition["date"].replace("Z", "+00:00"))
    assert composition["type"]["coding"][0]["system"] == "http://loinc.org" and composition["title"]
    assert resources[composition["subject"]["reference"]]["resourceType"] == "Patient"
    references = re.findall(r'"reference": "([^"]+)"', json.dumps(bundle))
    assert set(references) == set(urls[1:])  # all that is referred to is in the document, and nothing else
    for resource in (*composition["section"], *resources.values()):
        if "text" in resource:
            check_narrative(resource["text"])
    assert all(set(section) == {"title", "text"} for section in composition["section"])
    assert_no_empty_values(bundle)
    return resources


def check_narrative(text: dict[str, str]) -> None:
    """A status of FHIR's, a `div` in XHTML with basic formatting only (txt-1) and something to read (txt-2)."""
    assert text["status"] in ("generated", "extensions", "additional", "empty")
    div = ElementTree.fromstring(text["div"])
    assert div.tag == f"{XHTML}div" and "".join(div.itertext()).strip()
    assert all(element.tag == f"{XHTML}p" and not element.attrib for element in div)


def assert_no_empty_values(value: Any) -> None:
    """FHIR's JSON has no null, no empty text, list or object (json.html)."""
    assert value not in (None, "", [], {})
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        assert_no_empty_values(part)
