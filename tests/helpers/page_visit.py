"""A fictional visit with notes that have each sort of flag, and a person at the page: writes, looks, edits, signs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

DIALOGUE = """Doctor: How can I help you today, Missus Corvane?
Patient: My right elbow is giving me grief 😀. It's been about four weeks.
Doctor: What makes it worse?
Patient: Lifting anything, even the kettle.
Doctor: On a scale of one to ten, how bad is it?
Patient: Maybe a five.
Doctor: Do you take anything for it?
Patient: Ibuprofen, 400 milligrams, twice a day.
Doctor: Are you allergic to anything?
Patient: Penicillin gives me a rash."""
COMPLAINT, HISTORY, MEDICINES = "Chief complaint", "History of present illness", "Medications"
NOTES = {  # by the section's name in the prompt
    COMPLAINT: "Right elbow pain.",
    HISTORY: (
        "The patient has left elbow pain for 4 weeks. It is worse when lifting. She takes omeprazole 😀 20 mg. She "
        "denies ibuprofen."
    ),
    MEDICINES: "Ibuprofen 400 mg twice daily.",
}
SIGNER = "Dr. A. Example"


def write(page: Any, sections: Sequence[str] = (COMPLAINT, HISTORY), *, dialogue: str = DIALOGUE) -> None:
    """Fills in the form and has notes written; returns at once."""
    page.get_by_role("textbox", name="Dialogue").fill(dialogue)
    for section in sections:
        page.get_by_label(section, exact=True).check()
    page.get_by_role("button", name="Write notes").click()


def write_whole(page: Any, sections: Sequence[str] = (COMPLAINT, HISTORY), *, dialogue: str = DIALOGUE) -> None:
    """`write`, and waits until the notes are written and checked."""
    write(page, sections, dialogue=dialogue)
    page.locator("#told", has_text="Written:").wait_for()


def look_at_each_flag(page: Any) -> int:
    """Presses "Next flag" until each was seen; how often that was."""
    total = int(re.findall(r"\d+", page.locator("#flag-count").inner_text())[1])
    for count in range(total + 1):
        if page.locator("#next-flag").inner_text() != "Next flag":
            return count
        page.get_by_role("button", name="Next flag").click()
    raise AssertionError("flags are left that can't be seen")


def sign(page: Any) -> None:
    """Looks at each flag, then signs."""
    look_at_each_flag(page)
    page.get_by_label("Your name").fill(SIGNER)
    page.get_by_role("button", name="Sign off").click()
    page.locator("#seal", has_text=SIGNER).wait_for()


def card(page: Any, section: str) -> Any:
    """The note of a section on the page."""
    return page.get_by_role("article", name=section)


def plain(text: str) -> str:
    """The text of an element without the words of its signs."""
    return re.sub(r"not said|contradicted|left out|little support", "", text)
