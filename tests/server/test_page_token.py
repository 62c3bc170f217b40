"""The page of a server that wants a token: from the first request on, or in the middle of a visit after a restart."""

from __future__ import annotations

from typing import Any

from browser import PHONE, Watched, serving
from fake_server import TOKEN, fake_server, tokens_of
from page_visit import COMPLAINT, HISTORY, NOTES, card, sign, write, write_whole
from starlette.types import Receive, Scope, Send

STORED = (
    "async () => [localStorage.length, sessionStorage.length, document.cookie.length, history.length, location.hash]"
)


class Restarted:
    """A server without tokens, and after `restart()` one with; the address is the same."""

    def __init__(self) -> None:
        self._app = fake_server(NOTES).app

    def restart(self) -> None:
        self._app = fake_server(NOTES, tokens=tokens_of(f"ann:{TOKEN}")).app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def type_token(page: Any, token: str) -> None:
    page.get_by_label("Access token", exact=True).fill(token)
    page.keyboard.press("Enter")


def test_a_token_is_asked_for_and_kept_in_memory_only(browser: Any) -> None:
    with serving(fake_server(NOTES, tokens=tokens_of(f"ann:{TOKEN}")).app) as address:
        window = Watched(browser, address)
        page = window.page
        before = page.evaluate(STORED)
        page.locator("#token:focus").wait_for()
        assert page.get_by_role("alert").inner_text().startswith("The server wants an access token.")
        page.set_viewport_size({"width": 320, "height": 256})  # 1280 x 1024 at four times the size
        page.keyboard.press("Tab")
        button = page.get_by_role("button", name="Use this token").bounding_box()
        assert button["y"] >= 0 and button["y"] + button["height"] <= 256
        type_token(page, "not-the-token")
        page.get_by_role("alert").get_by_text("does not know this access token").wait_for()
        assert page.evaluate("document.activeElement.id") == "token"
        type_token(page, TOKEN)
        page.get_by_label(COMPLAINT, exact=True).wait_for()
        assert not page.locator("#access").is_visible()
        write_whole(page, [COMPLAINT])
        assert page.evaluate(STORED) == before and TOKEN not in page.url + page.content()
        page.reload()
        page.locator("#token:focus").wait_for()
        assert page.locator("#token").input_value() == ""
        window.close(expected=("401",))


def test_a_token_wanted_in_mid_visit_is_asked_for_where_the_reader_is(browser: Any) -> None:
    server = Restarted()
    with serving(server) as address:
        window = Watched(browser, address, size=PHONE)
        page = window.page
        write_whole(page)
        server.restart()
        card(page, HISTORY).get_by_role("button", name="Edit").click()
        page.keyboard.press("End")
        page.keyboard.type(" It is")  # and after a pause it is checked
        page.locator("#access").wait_for()
        page.keyboard.type(" new.")
        field = card(page, HISTORY).get_by_role("textbox")
        assert field.input_value() == NOTES[HISTORY] + " It is new."  # the field for the token took no keys
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        assert page.evaluate("scrollY") > 0 and page.locator("#access").bounding_box()["y"] >= 0
        card(page, HISTORY).get_by_role("button", name="Done").click()
        page.locator("#token:focus").wait_for()
        type_token(page, TOKEN)
        page.locator("#access").wait_for(state="hidden")
        assert page.evaluate("document.activeElement.innerText") == "Edit"  # where the reader was
        assert "It is new." in card(page, HISTORY).inner_text() and card(page, COMPLAINT).is_visible()
        page.get_by_role("button", name="Check again").press("Enter")
        page.locator("#told", has_text="Checked again").wait_for()
        assert page.evaluate("document.activeElement.id") == "signer"
        sign(page)
        window.close(expected=("401",))


def test_a_refused_request_for_notes_costs_neither_the_form_nor_the_notes_before(browser: Any) -> None:
    server = Restarted()
    with serving(server) as address:
        window = Watched(browser, address)
        page = window.page
        write_whole(page, [COMPLAINT])
        page.get_by_role("button", name="Copy").click()
        page.locator("#told", has_text="Copied").wait_for()
        server.restart()
        page.get_by_role("button", name="Change dialogue").click()
        write(page, [HISTORY], dialogue="Doctor: Another visit.")
        page.locator("#token:focus").wait_for()
        page.get_by_role("button", name="Back to the notes").click()
        assert page.locator(".text").inner_text().startswith(NOTES[COMPLAINT][:5])
        page.get_by_role("button", name="Change dialogue").click()
        assert page.get_by_role("textbox", name="Dialogue").input_value() == "Doctor: Another visit."
        page.get_by_role("button", name="Write notes").click()
        page.locator("#token:focus").wait_for()
        type_token(page, TOKEN)
        page.locator("#access").wait_for(state="hidden")
        assert page.evaluate("document.activeElement.id") == "write"
        page.keyboard.press("Enter")
        page.locator("#told", has_text="Written:").wait_for()
        assert page.get_by_role("article").count() == 2  # the ticks too are as they were
        window.close(expected=("401",))


def test_a_refused_vote_is_not_lost(browser: Any) -> None:
    server = Restarted()
    with serving(server) as address:
        window = Watched(browser, address, path="/compare")
        page = window.page
        page.get_by_label("Section").select_option(label=HISTORY)
        page.get_by_role("textbox", name="Dialogue").fill("Doctor: Hello.")
        server.restart()
        page.get_by_role("button", name="Write two notes").click()
        page.locator("#token:focus").wait_for()
        type_token(page, TOKEN)
        page.locator("#access").wait_for(state="hidden")
        page.keyboard.press("Enter")
        page.locator("#pair").wait_for()
        assert page.locator("#section").evaluate("one => one.selectedOptions[0].label") == HISTORY
        window.close(expected=("401",))
