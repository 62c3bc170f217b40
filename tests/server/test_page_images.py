"""Images on the page: attached, shown beside the answer, sent with the form only, dropped with the visit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from browser import DESKTOP, PHONE, Watched, serving
from fake_server import fake_server

from medsum_core.images.drawn import draw_row

QUESTION = "how many opacities are there?"


def image_file(number: int) -> dict[str, Any]:
    """A drawn image as a file that the reader chooses."""
    file = io.BytesIO()
    draw_row(number, seed=0)[0].resize((512, 512)).save(file, "PNG")
    return {"name": "Jane Doe.png", "mimeType": "image/png", "buffer": file.getvalue()}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(fake_server("two", task="vqa-rad", compare=False).app) as found:
        yield found


def attach(page: Any, *numbers: int) -> None:
    page.locator("#images").wait_for()
    before = page.locator("#attached img").count()
    page.locator("#image").set_input_files([image_file(number) for number in numbers])
    page.locator("#attached img").nth(before + len(numbers) - 1).wait_for()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_an_image_is_asked_about_and_shown_beside_the_answer(browser: Any, address: str, size: dict[str, int]) -> None:
    window = Watched(browser, address, size=size)
    page = window.page
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    attach(page, 2, 6)
    page.get_by_role("button", name="Remove image 1").click()
    assert page.locator("#attached img").count() == 1
    page.get_by_role("textbox", name="Question").fill(QUESTION)
    assert sent == []
    page.get_by_role("button", name="Write notes").click()
    page.locator("#told", has_text="Written: not checked").wait_for()
    (body,) = sent
    (url,) = body["images"]
    assert (body["dialogue"], url[:22]) == (QUESTION, "data:image/png;base64,")
    assert "Jane" not in json.dumps(body) and "Jane" not in page.content()
    shown = page.get_by_role("img", name="Image 1 of 1")
    assert shown.get_attribute("src") == url and shown.evaluate("image => image.naturalWidth") == 512
    assert page.locator(".text").inner_text() == "two" and page.locator("#unchecked").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    asked, answer = shown.bounding_box(), page.locator("#notes").bounding_box()
    assert (asked["x"] < answer["x"]) if size is DESKTOP else (asked["y"] < answer["y"])
    assert not page.locator("#omissions, #sees, #flag-bar, .of-checks").filter(visible=True).count()
    window.close()


def test_attached_images_are_dropped_with_the_visit(browser: Any, address: str) -> None:
    window = Watched(browser, address)
    page = window.page
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("textbox", name="Question").fill(QUESTION)
    page.get_by_role("button", name="Write notes").click()
    assert page.locator("#error").inner_text() == "Attach the image that is asked about."
    attach(page, 2)
    page.get_by_role("button", name="Write notes").click()
    page.locator("#told", has_text="Written:").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save file").click()
    assert download.value.path().read_text().startswith("DRAFT, not signed: to be checked, as nothing of it was\n")
    page.get_by_label("Export as").select_option(label="JSON")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save file").click()
    assert json.loads(download.value.path().read_text())["check_is_current"] is False
    page.get_by_role("button", name="Change question").click()
    assert page.locator("#attached img").count() == 1
    page.get_by_role("button", name="Back to the notes").click()
    page.get_by_role("button", name="New visit").click()
    assert page.locator("img").count() == 0 and "data:image/png" not in page.content()
    window.close()


def test_other_files_and_too_many_are_refused_by_the_page(browser: Any, address: str) -> None:
    window = Watched(browser, address)
    page = window.page
    attach(page, 1, 2, 3)
    page.locator("#image").set_input_files([image_file(4), image_file(5)])
    page.locator("#error", has_text="At most 4 images").wait_for()
    page.locator("#image").set_input_files([{"name": "x.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"}])
    page.locator("#error", has_text="must be a JPEG or a PNG").wait_for()
    assert page.locator("#attached img").count() == 3
    window.close()


def test_a_run_on_text_has_no_controls_for_images_and_its_own_name_for_the_text(browser: Any) -> None:
    with serving(fake_server(task="medquad").app) as address:
        window = Watched(browser, address)
        window.page.get_by_role("textbox", name="Question").wait_for()
        assert not window.page.locator("#images").is_visible()
        window.close()
