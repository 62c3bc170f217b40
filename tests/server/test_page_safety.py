"""The page's safety and accessibility: no text runs as a script, nothing is stored or fetched elsewhere; keyboard,
contrast and screen readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import DESKTOP, PHONE, Watched, serving
from fake_server import fake_server
from page_visit import COMPLAINT, DIALOGUE, HISTORY, NOTES, look_at_each_flag, plain, sign, write, write_whole

SCRIPT = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
STORED = """async () => [localStorage.length, sessionStorage.length, document.cookie.length,
    (await indexedDB.databases()).length, (await caches.keys()).length, history.length, location.search, location.hash]"""
# The least contrast of any visible text with its background, by WCAG 2.1, and the text.
CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => numbers(colour).slice(0, 3).map((part) => part / 255)
        .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if ((numbers(colour)[3] ?? 1) > 0) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
        found.push([(a + 0.05) / (b + 0.05), walk.currentNode.data.trim().slice(0, 30)]);
    }
    return found.sort((x, y) => x[0] - y[0])[0];
}"""
NAMELESS = """() => [...document.querySelectorAll('button, input, select, textarea, [role=button]')]
    .filter((one) => one.checkVisibility() && !(one.labels?.length || one.ariaLabel || one.innerText.trim()))
    .map((one) => one.outerHTML)"""
FOCUSED = """() => {
    const one = document.activeElement;
    const { outlineStyle, outlineWidth } = getComputedStyle(one);
    return [one.id || one.className || one.name || '', outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2];
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(fake_server(NOTES).app) as found:
        yield found


def test_markup_in_a_dialogue_a_speaker_or_a_note_is_shown_as_text(browser: Any) -> None:
    dialogue = (
        f"Doctor: How are you? {SCRIPT}\n[<b onclick='window.ran = 1'>Nurse</b>] Fine.\nPatient: {SCRIPT} 7 days."
    )
    with serving(fake_server(f"{SCRIPT} He has pain for 9 days. {SCRIPT}").app) as address:
        window = Watched(browser, address)
        page = window.page
        write_whole(page, [COMPLAINT], dialogue=dialogue)
        page.locator(".turn").first.click()
        page.locator(".sentence", has_text="He has pain").click()
        page.locator(".flag").first.click()
        assert page.locator("script").count() == 1  # the page's own
        assert page.locator("img, b, main script").count() == 0
        assert page.locator("#turns").inner_text().count("window.ran = 1") == 5
        assert plain(page.locator(".text").inner_text()).count(SCRIPT) == 2
        assert page.evaluate("window.ran") is None
        sign(page)
        window.close()


def test_nothing_is_stored_and_no_other_server_is_contacted(browser: Any, address: str) -> None:
    window = Watched(browser, address)
    page = window.page
    before = page.evaluate(STORED)
    write_whole(page)
    sign(page)
    page.get_by_role("button", name="Copy").click()
    page.locator("#told", has_text="Copied").wait_for()
    assert page.evaluate(STORED) == before
    assert before[:5] == [0] * 5 and before[6:] == ["", ""]
    assert window.context.cookies() == []
    page.reload()
    assert page.get_by_role("textbox", name="Dialogue").input_value() == ""
    window.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_and_all_controls_have_names(browser: Any, address: str, scheme: str) -> None:
    for size in (DESKTOP, PHONE):
        window = Watched(browser, address, size=size, color_scheme=scheme)
        page = window.page
        page.get_by_label(COMPLAINT, exact=True).wait_for()
        readings = [page.evaluate(CONTRAST)]
        assert page.evaluate(NAMELESS) == []
        write_whole(page)
        page.locator(".sentence", has_text="ibuprofen").click()
        readings.append(page.evaluate(CONTRAST))
        page.get_by_role("button", name="Next flag").click()
        page.get_by_role("button", name="Edit").first.click()
        page.get_by_label("Chief complaint: text").fill("Other.")
        readings.append(page.evaluate(CONTRAST))
        assert page.evaluate(NAMELESS) == []
        assert [reading for reading in readings if reading[0] < 4.5] == []
        window.close()


def test_no_word_is_wider_than_a_narrow_phone(browser: Any) -> None:
    """WCAG 2.1, 1.4.10: no scrolling sideways at 320 CSS pixels."""
    word = "pneumonoultramicroscopic" * 10
    fits = "document.documentElement.scrollWidth <= innerWidth"
    with serving(fake_server({COMPLAINT: f"{word} pain.", HISTORY: f"She takes {word} 20 mg."}).app) as address:
        window = Watched(browser, address, size={"width": 320, "height": 640})
        page = window.page
        page.locator("#model", has_text="tiny-run").evaluate(f"model => model.append('{word}')")  # a run of that name
        assert page.evaluate(fits)
        write_whole(page, dialogue=f"Doctor: Hello.\n{word}: I took {word}.")
        look_at_each_flag(page)
        page.get_by_label("Your name").fill(word)
        page.get_by_role("button", name="Sign off").click()
        page.locator("#seal", has_text=word).wait_for()
        assert page.evaluate(fits)
        page.goto(f"{address}/compare")
        page.locator("#section option").first.wait_for(state="attached")
        assert page.evaluate(fits)
        window.close()


def test_everything_can_be_done_with_the_keyboard(browser: Any, address: str) -> None:
    window = Watched(browser, address, reduced_motion="reduce")
    page = window.page
    page.get_by_label(COMPLAINT, exact=True).wait_for()
    page.keyboard.press("Tab")
    page.keyboard.insert_text(DIALOGUE)
    reach(page, "section")
    page.keyboard.press("Space")
    reach(page, "write")
    page.keyboard.press("Enter")
    page.locator("#told", has_text="Written:").wait_for()
    reach(page, "turn")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".turn.lit").get_attribute("data-turn") == "1"
    reach(page, "sentence")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    assert page.locator(".sentence.lit").count() == 1
    reach(page, "flag")
    page.keyboard.press("Enter")
    assert "seen" in page.evaluate("document.activeElement.innerText")
    reach(page, "next-flag")
    while page.locator("#next-flag").inner_text() == "Next flag":
        page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "signer"
    page.keyboard.insert_text("Dr. A. Example")
    reach(page, "sign")
    page.keyboard.press("Enter")
    page.locator("#seal").wait_for()
    assert page.evaluate("document.activeElement.id") == "seal"  # not on a button that is hidden now
    page.get_by_role("button", name="Change dialogue").press("Enter")
    reach(page, "back")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "written-title"
    window.close()


def reach(page: Any, name: str) -> None:
    """Tabs to a control by its id, class or name; each stop on the way has a visible focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        found, is_seen = page.evaluate(FOCUSED)
        assert is_seen or not found, f"no outline on {found}"
        if name in found.split():
            return
    raise AssertionError(f"{name} is not reached with Tab")


def test_progress_is_announced_to_screen_readers(browser: Any) -> None:
    server = fake_server(NOTES)
    server.engine.hold_after = 30
    with serving(server.app) as address:
        window = Watched(browser, address)
        write(window.page, [COMPLAINT, HISTORY])
        told = window.page.locator("#told", has_text="Chief complaint is written.")
        told.wait_for()
        assert told.get_attribute("role") == "status"
        busy = window.page.locator("article[aria-busy=true]")
        assert busy.locator("h3").all_inner_texts() == [HISTORY]
        server.engine.held.clear()
        window.page.locator("#told", has_text="Written:").wait_for()
        window.close()


def test_two_notes_are_compared_blind(browser: Any) -> None:
    server = fake_server(f"Tuned. {SCRIPT}", base_note="Base.")
    with serving(server.app) as address:
        window = Watched(browser, address, path="/compare")
        page = window.page
        page.get_by_role("textbox", name="Dialogue").fill(DIALOGUE)
        page.get_by_label("Section").select_option(label=HISTORY)
        page.get_by_role("button", name="Write two notes").click()
        page.locator("#pair").wait_for()
        notes = {letter: page.locator(f"#{letter}").inner_text() for letter in "ab"}
        assert sorted(notes.values()) == ["Base.", f"Tuned. {SCRIPT}"]
        better = next(letter for letter, note in notes.items() if note.startswith("Tuned"))
        page.get_by_role("button", name=f"{better.upper()} is better").click()
        page.locator("#told", has_text="Your vote is saved.").wait_for()
        assert not page.locator("#pair").is_visible()
        page.get_by_text("Votes so far").click()
        page.locator("#summary", has_text="1 vote: 1 for the tuned model, 0 for the base, 0 equal.").wait_for()
        assert page.evaluate(CONTRAST)[0] >= 4.5 and page.evaluate(NAMELESS) == []
        assert page.evaluate("window.ran") is None and page.evaluate(STORED)[:5] == [0] * 5
        window.close()
