"""The review page in a real browser: from a pasted conversation to signed notes, at desktop and phone size."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from browser import DESKTOP, PHONE, Watched, serving
from fake_server import FakeServer, fake_server
from page_visit import (
    COMPLAINT,
    DIALOGUE,
    HISTORY,
    MEDICINES,
    NOTES,
    SIGNER,
    card,
    look_at_each_flag,
    plain,
    sign,
    write,
    write_whole,
)


@pytest.fixture
def server() -> FakeServer:
    return fake_server(NOTES)


@pytest.fixture
def address(server: FakeServer) -> Iterator[str]:
    with serving(server.app) as found:
        yield found


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    window = Watched(browser, address)
    yield window
    window.close(expected=("503",))


def lit(page: Any, kind: str) -> list[str]:
    return [plain(text) for text in page.locator(f".{kind}.lit").all_inner_texts()]


def actions(server: FakeServer) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.audit.splitlines()]
    return [line for line in lines if line["event"] in ("edited", "signed", "exported")]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_notes_are_written_side_by_side_with_their_flags(
    browser: Any, server: FakeServer, address: str, size: dict[str, int]
) -> None:
    window = Watched(browser, address, size=size)
    page = window.page
    server.engine.hold_after = 8
    write(page)
    page.wait_for_function("() => [...document.querySelectorAll('.text')].every((text) => text.innerText)")
    assert page.locator("#progress-text").inner_text().startswith("0 of 2 sections, ")
    assert page.locator("#notice").is_visible() and page.get_by_role("button", name="Stop", exact=True).is_visible()
    first, second = page.locator(".text").all_inner_texts()
    assert NOTES[COMPLAINT].startswith(first) and NOTES[HISTORY].startswith(second)
    server.engine.held.clear()
    page.locator("#told", has_text="Written:").wait_for()
    assert plain(card(page, HISTORY).locator(".text").inner_text()).split() == NOTES[HISTORY].split()
    assert page.locator("mark.contradicted .marked").all_inner_texts() == ["left", "ibuprofen"]
    assert page.locator("mark.not-said .marked").all_inner_texts() == ["omeprazole", "20 mg"]
    assert {"Penicillin", "rash"} <= set(page.locator("#turns mark.left-out .marked").all_inner_texts())
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    said, written = page.locator("#said").bounding_box(), page.locator("#written").bounding_box()
    assert (said["x"] < written["x"]) if size is DESKTOP else (said["y"] < written["y"])
    assert page.locator("#notice").is_visible()
    window.close()


def test_a_sentence_highlights_its_turns_and_a_turn_its_sentences(watched: Watched) -> None:
    page = watched.page
    write_whole(page)
    card(page, HISTORY).get_by_text("It is worse when lifting.").click()
    assert any("even the kettle" in turn for turn in lit(page, "turn"))
    assert lit(page, "sentence") == ["It is worse when lifting."]
    page.locator(".turn", has_text="My right elbow").click()
    assert "Right elbow pain." in lit(page, "sentence")
    assert [turn.splitlines()[-1].split(":")[0] for turn in lit(page, "turn")] == ["Patient"]
    card(page, HISTORY).locator(".flag", has_text="“ibuprofen”").click()
    assert [text.splitlines()[-1] for text in lit(page, "turn")] == ["Patient: Ibuprofen, 400 milligrams, twice a day."]
    assert page.locator(".turn.against").count() == 1 and lit(page, "sentence") == ["She denies ibuprofen."]
    assert page.locator("#announce").inner_text().startswith("The source text says otherwise. Turn 8, Patient")


def test_on_a_phone_the_turns_are_quoted_below_the_sentence(browser: Any, address: str) -> None:
    window = Watched(browser, address, size=PHONE)
    write_whole(window.page)
    card(window.page, HISTORY).get_by_text("It is worse when lifting.").click()
    quote = window.page.locator(".quote")
    assert "even the kettle" in quote.inner_text() and quote.is_visible()
    window.close()


def test_an_edit_marks_the_check_as_out_of_date_until_it_has_run_again(server: FakeServer, watched: Watched) -> None:
    page = watched.page
    write_whole(page)
    held: list[Any] = []
    page.route("**/check", lambda route: held.append(route))
    note = card(page, HISTORY)
    note.get_by_role("button", name="Edit").click()
    field = note.get_by_role("textbox")
    field.fill(NOTES[HISTORY].replace("left", "right"))
    assert note.locator(".state").inner_text() == "changed: check out of date"
    assert page.locator("#flag-count").inner_text() == "Check out of date"
    note.get_by_role("button", name="Done").click()
    assert page.locator("#blocked").inner_text() == "A note was changed: its check must run again first."
    while not held:
        page.wait_for_timeout(5)
    for route in held:
        route.continue_()
    page.locator("#told", has_text="Checked again").wait_for()
    assert page.locator("mark.contradicted").count() == 1 and page.locator("mark.not-said").count() == 2
    assert "edited" in note.locator(".state").inner_text()
    while not actions(server):
        page.wait_for_timeout(5)
    (edit,) = actions(server)
    start = NOTES[HISTORY].index("left")
    assert (edit["event"], edit["section"], edit["spans"]) == ("edited", "GENHX", [[start, start + len("righ")]])
    assert len(edit["note_sha256"]) == 64


@pytest.mark.parametrize("press", [["New visit"], ["Change dialogue", "Write notes"]])
def test_the_check_of_an_edit_is_not_run_on_another_visit(
    press: list[str], server: FakeServer, watched: Watched
) -> None:
    """The edit's check is due 0.8 s later: of no visit it failed, of one being written it said "no flag"."""
    page = watched.page
    page.on("dialog", lambda dialog: dialog.accept())
    write_whole(page)
    page.clock.install()
    card(page, COMPLAINT).get_by_role("button", name="Edit").click()
    page.keyboard.type("x")
    server.engine.held.set()
    checks: list[str] = []
    page.on("request", lambda request: checks.append(request.url) if request.url.endswith("/check") else None)
    for name in press:
        page.get_by_role("button", name=name).click()
    page.clock.run_for(2_000)
    assert checks == []


def test_cancel_and_escape_restore_the_text(watched: Watched) -> None:
    page = watched.page
    write_whole(page, [COMPLAINT])
    for leave in (lambda: page.get_by_role("button", name="Cancel").click(), lambda: page.keyboard.press("Escape")):
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Chief complaint: text").fill("Something else.")
        leave()
        page.locator("#told", has_text="Checked again").wait_for()
        assert page.locator(".text").inner_text() == NOTES[COMPLAINT]


def test_no_signature_before_each_flag_was_seen(server: FakeServer, watched: Watched) -> None:
    page = watched.page
    write_whole(page)
    button = page.get_by_role("button", name="Sign off")
    page.get_by_label("Your name").fill(SIGNER)
    total = page.locator(".flag").count()
    assert total >= 5 and page.locator("#blocked").inner_text() == f"{total} flags were not looked at yet."
    button.click(force=True)  # a reader can: it says why not
    assert button.get_attribute("aria-disabled") == "true" and not page.locator("#seal").is_visible()
    assert look_at_each_flag(page) == total
    assert page.locator(".seen", has_text="✓ seen").count() == total
    assert page.locator("#flag-count").inner_text() == f"{total} of {total} flags seen"
    page.get_by_label("Your name").fill(" ")
    assert page.locator("#blocked").inner_text() == "Type your name to sign."
    assert actions(server) == []
    sign(page)
    assert [line["event"] for line in actions(server)] == ["signed"]
    card(page, COMPLAINT).get_by_role("button", name="Edit").click()
    card(page, COMPLAINT).get_by_role("textbox").fill("Left elbow pain.")
    assert not page.locator("#seal").is_visible()
    page.get_by_role("button", name="Done").click()
    page.locator("#told", has_text="Checked again").wait_for()
    unseen = page.locator(".flag:not(:has-text('✓'))").all_inner_texts()  # what was seen stays seen
    assert [text.split("“")[1] for text in unseen] == ["Left”", "right”"]
    assert page.locator("#blocked").inner_text() == "2 flags were not looked at yet."


def test_an_edit_that_the_log_missed_is_in_it_before_the_signature(server: FakeServer, watched: Watched) -> None:
    page = watched.page
    write_whole(page, [COMPLAINT])
    page.route("**/audit", lambda route: route.fulfill(status=503, json={"error": {"message": "the log is full"}}))
    card(page, COMPLAINT).get_by_role("button", name="Edit").click()
    page.keyboard.type("x")
    page.get_by_role("button", name="Done").click()
    page.locator("#error", has_text="the log is full").wait_for()
    look_at_each_flag(page)
    page.get_by_label("Your name").fill(SIGNER)
    page.get_by_role("button", name="Sign off").click()
    assert not page.locator("#seal").is_visible() and actions(server) == []
    page.unroute("**/audit")
    page.get_by_role("button", name="Sign off").click()
    page.locator("#seal", has_text=SIGNER).wait_for()
    assert [action["event"] for action in actions(server)] == ["edited", "signed"]
    page.get_by_role("button", name="Copy").click()
    page.locator("#told", has_text="Copied").wait_for()
    assert [action["event"] for action in actions(server)] == ["edited", "signed", "exported"]


def test_a_double_click_signs_once_and_a_late_answer_does_not_sign_the_next_visit(
    server: FakeServer, watched: Watched
) -> None:
    page = watched.page
    page.on("dialog", lambda dialog: dialog.accept())
    write_whole(page, [COMPLAINT])
    look_at_each_flag(page)
    page.get_by_label("Your name").fill(SIGNER)
    held: list[Any] = []
    page.route("**/audit", lambda route: held.append(route))
    page.get_by_role("button", name="Sign off").dblclick()
    page.get_by_role("button", name="New visit").click()
    write_whole(page, [])
    with page.expect_response("**/audit"):
        for route in held:
            route.continue_()
    page.wait_for_timeout(50)  # the page has read the answer
    assert [action["event"] for action in actions(server)] == ["signed"]
    assert not page.locator("#seal").is_visible()


def test_stop_keeps_what_is_written_and_frees_the_model(server: FakeServer, watched: Watched) -> None:
    page = watched.page
    server.engine.hold_after = 20
    write(page, [HISTORY])
    page.locator(".text", has_text="The").wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#told", has_text="Checked again").wait_for()
    while server.engine.stats().num_running:
        time.sleep(0.005)
    text = plain(page.locator(".text").inner_text())
    assert text and len(text) < len(NOTES[HISTORY])
    assert page.locator(".chip.unfinished").count() == 1
    assert "edited" not in page.locator(".state").inner_text()  # the reader changed nothing
    assert not page.get_by_role("button", name="Stop", exact=True).is_visible()


def test_a_note_that_was_cut_and_a_conversation_that_did_not_fit_are_flags(browser: Any) -> None:
    short = fake_server(NOTES, max_new_tokens=20, max_prompt_tokens=260)
    with serving(short.app) as address:
        window = Watched(browser, address)
        write_whole(window.page, [HISTORY])
        assert window.page.locator(".chip.unfinished, .chip.shortened").all_inner_texts() == ["unfinished", "shortened"]
        window.close()


def test_a_dead_worker_is_reported_and_no_text_is_lost(server: FakeServer, watched: Watched) -> None:
    page = watched.page
    server.engine.hold_after = 20
    write(page, [HISTORY])
    page.locator(".text", has_text="The").wait_for()
    server.engine.fail(RuntimeError("words of a patient"))
    page.get_by_role("alert").wait_for()
    assert "worker has failed" in page.get_by_role("alert").inner_text()
    assert page.locator(".text").inner_text().startswith("The")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Change dialogue").click()
    page.get_by_role("button", name="Write notes").click()
    page.get_by_role("alert").get_by_text("Your text is still on this page").wait_for()
    assert page.get_by_role("textbox", name="Dialogue").input_value() == DIALOGUE
    page.locator("#write:focus").wait_for()  # and not the hidden button: the next Tab would begin at the top
    assert "words of a patient" not in page.content()


def test_a_file_is_opened_and_speakers_are_swapped(watched: Watched) -> None:
    page = watched.page
    field = page.get_by_role("textbox", name="Dialogue")
    page.get_by_label("Open a text file").set_input_files(
        {"name": "visit.txt", "mimeType": "text/plain", "buffer": DIALOGUE.encode()}
    )
    page.wait_for_function("() => document.querySelector('#dialogue').value !== ''")
    assert field.input_value() == DIALOGUE
    page.get_by_role("button", name="Swap speakers").click()
    assert field.input_value().splitlines()[0] == "Patient: How can I help you today, Missus Corvane?"
    page.get_by_role("button", name="Swap speakers").click()
    assert field.input_value() == DIALOGUE
    page.get_by_label("Open a text file").set_input_files(
        {"name": "visit.txt", "mimeType": "text/plain", "buffer": b"\xff\xfe\x00"}
    )
    page.get_by_role("alert").get_by_text("no text in UTF-8").wait_for()
    assert field.input_value() == DIALOGUE


def test_a_run_that_writes_visits_offers_its_divisions(browser: Any) -> None:
    with serving(fake_server("No complaints.", task="visit").app) as address:
        window = Watched(browser, address)
        window.page.get_by_label("Whole visit").wait_for()
        write_whole(window.page, [])
        assert window.page.get_by_role("article").count() == 4
        window.close()


def test_several_sections_can_be_ticked_at_once_and_one_must_be(watched: Watched) -> None:
    page = watched.page
    page.get_by_label("Whole visit").check()
    assert page.locator("[name=section]:checked").count() == page.locator("[name=section]").count() == 20
    page.get_by_label(MEDICINES, exact=True).uncheck()
    assert not page.get_by_label("Whole visit").is_checked()
    page.get_by_label("Whole visit").check()
    page.get_by_label("Whole visit").uncheck()
    write(page, [])
    page.get_by_role("alert").get_by_text("Tick at least one section.").wait_for()
