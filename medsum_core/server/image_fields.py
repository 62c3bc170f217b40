"""Images in a body: data URLs, in a field `images` or as OpenAI's parts of a message.

No other URL is accepted: fetching it would give a client access to addresses that only this machine can reach.
"""

from __future__ import annotations

import base64

from medsum_core.server.fields import Fields
from medsum_core.server.limits import Limits
from medsum_core.server.refusal import bad_request

HEADS = ("data:image/jpeg;base64", "data:image/png;base64")


def read_images(fields: Fields, limits: Limits) -> tuple[bytes, ...]:
    """The files of the images in the field `images`, none where it is not given. Raises Refusal."""
    urls = fields.items("images", most=limits.max_images, default=())
    return tuple(_bytes_of(url, f"images[{number}]") for number, url in enumerate(urls))


def read_content(message: Fields, limits: Limits) -> tuple[str, tuple[bytes, ...]]:
    """The text of a message and the files of its images: `content` is a text, or one part of text and images.

    Raises Refusal.
    """
    if not message.is_list("content"):
        return message.text("content", longest=limits.max_dialogue_characters), ()
    texts: list[str] = []
    images: list[bytes] = []
    for number, value in enumerate(message.items("content", most=1 + limits.max_images)):
        where = f"messages[0].content[{number}]"
        part = Fields(value, known=("type", "text", "image_url"), where=f"{where}.")
        kind = part.option("type", ("text", "image_url"))
        if part.has("text") and part.has("image_url"):
            raise bad_request(f"{where}: a part is text or an image, not both")
        if kind == "text":
            texts.append(part.text("text", longest=limits.max_dialogue_characters))
        else:
            image = part.inner("image_url", known=("url", "detail"))
            if image.has("detail"):
                image.option("detail", ("auto",))  # every image is read in one way
            url = image.text("url", longest=limits.max_body_bytes)
            images.append(_bytes_of(url, f"{where}.image_url.url"))
    if len(texts) != 1:
        raise bad_request("messages[0].content: expected one part of text, and a part for each image")
    return texts[0], tuple(images)


def _bytes_of(url: object, where: str) -> bytes:
    head, _, text = url.partition(",") if isinstance(url, str) else ("", "", "")
    if head.lower() not in HEADS:
        raise bad_request(
            f"{where}: expected a data URL, {HEADS[0]},... or {HEADS[1]},...: nothing is fetched and no file is opened "
            "here, so send the image itself",
            code="not_a_data_url",
        )
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise bad_request(f"{where}: what follows the comma is not base64: send the file's bytes so") from None
