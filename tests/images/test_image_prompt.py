"""Prompts with images: equal to those of transformers' processor, and never truncated within an image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from image_models import SIZE, image_config, image_processor_of_tiny, image_tokenizer, random_image
from support import section_record, tiny_config
from transformers import Gemma3Processor, PaliGemmaConfig

from medsum_core.data.columns import Columns
from medsum_core.data.image_tokens import BLANK_KEY, image_number, image_tokens
from medsum_core.data.masking import build_example, build_examples
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.question_only import question_only
from medsum_core.data.records import Record
from medsum_core.data.served_template import served_template
from medsum_core.data.truncation import prompt_within
from medsum_core.errors import InputError
from medsum_core.report.blind import Blind, blind_verdict, shuffled
from medsum_core.tasks.find import find_task
from medsum_core.tasks.task import Part, Truncation, task_problems

TASK = find_task("vqa-rad")
KEYS = tuple(f"{digit}" * 64 for digit in "1a5")


def renderer_of(task=TASK, *, style: str = "chat") -> PromptRenderer:
    tokenizer = image_tokenizer()
    return build_renderer(tokenizer, style=style, task=task, images=image_tokens(image_config(tokenizer), tokenizer))


def asking(question: str = "is the lung clear?", *, keys: tuple[str, ...] = KEYS[:1], id: str = "q") -> Record:
    return Record(id=id, parts={"image": ";".join(keys), "question": question}, note="no", source="question")


@pytest.mark.parametrize("style", ["chat", "plain"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_prompt_equals_that_of_transformers_processor(style: str, number: int) -> None:
    tokenizer = image_tokenizer()
    processor = Gemma3Processor(image_processor=image_processor_of_tiny(), tokenizer=tokenizer, image_seq_length=SIZE)
    text = f"{'<start_of_image>' * number}{TASK.instruction}\n\nQuestion: is the lung clear?"
    turns = {
        "chat": f"<bos><start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n",
        "plain": f"<bos>{text}\n\nAnswer:\n",
    }
    images = [random_image(seed) for seed in range(number)]
    own = processor(text=[turns[style]], images=[images], return_tensors="pt", add_special_tokens=False)
    ours = torch.tensor(renderer_of(style=style).prompt_ids(asking(keys=KEYS[:number]).parts))
    assert torch.equal(ours < 0, own["token_type_ids"][0] == 1)
    soft = tokenizer.convert_tokens_to_ids("<image_soft_token>")
    assert torch.equal(ours.masked_fill(ours < 0, soft), own["input_ids"][0])


def test_negative_ids_encode_the_image_and_the_position_in_it() -> None:
    ids = [token for token in renderer_of().prompt_ids(asking(keys=KEYS).parts) if token < 0]
    assert [(-1 - token) // SIZE for token in ids] == [image_number(key) for key in KEYS for _ in range(SIZE)]
    assert [(-1 - token) % SIZE for token in ids] == [*range(SIZE)] * 3


def test_the_prompt_without_images_is_the_question_alone() -> None:
    bare = question_only(renderer_of())
    assert bare.prompt_ids(asking().parts) == build_renderer(
        image_tokenizer(), style="chat", task=TASK.without_images()
    ).prompt_ids(asking().parts)


def test_images_are_never_truncated_and_a_row_that_is_too_long_is_set_aside() -> None:
    source = Part(name="history", label="History:", columns=("history",))
    task = replace(TASK, parts=(*TASK.parts, source), truncate=Truncation(part="history", unit="paragraphs"))
    renderer = renderer_of(task)
    history = "\n".join(f"He came in year {year} with a cough." for year in range(30))
    record = replace(asking(keys=KEYS), parts={**asking(keys=KEYS).parts, "history": history}, source="history")
    prompt = prompt_within(record, renderer, max_prompt_tokens=200)
    assert prompt.num_turns_dropped > 0
    assert len(prompt.ids) <= 200
    assert sum(token < 0 for token in prompt.ids) == 3 * SIZE
    examples, report = build_examples(
        [asking(id="one"), asking("why? " * 40, keys=KEYS, id="three")],
        renderer_of(),
        max_length=140,
        max_new_tokens=16,
    )
    assert [row.id for row in examples] == ["one"]
    assert [row.id for row in report.set_aside] == ["three"]


def test_no_position_of_an_image_is_a_target() -> None:
    example = build_example(asking(keys=KEYS), renderer_of(), max_length=400, max_new_tokens=16)
    assert example is not None
    assert all(target >= 0 or target == -100 for target in example.targets)
    assert example.num_targets == len(example.note_ids)


def test_a_text_cannot_forge_an_image() -> None:
    names = "<start_of_image><image_soft_token><end_of_image>"
    ids = renderer_of().prompt_ids(asking(f"{names} what is this?").parts)
    plain = renderer_of().prompt_ids(asking("what is this?").parts)
    controls = {image_tokenizer().convert_tokens_to_ids(name) for name in ("<start_of_image>", "<end_of_image>")}
    assert sum(token in controls for token in ids) == sum(token in controls for token in plain) == 2
    assert sum(token < 0 for token in ids) == SIZE


def test_images_are_refused_for_models_and_tasks_without_them() -> None:
    with pytest.raises(InputError, match="gemma3_text reads no images here; take a Gemma 3"):
        image_tokens(tiny_config("gemma3_text"), image_tokenizer())
    with pytest.raises(InputError, match=r"paligemma reads no images here; take a Gemma 3 .* google/medgemma-4b-it"):
        image_tokens(PaliGemmaConfig(), image_tokenizer())
    with pytest.raises(InputError, match="pass build_renderer `images`"):
        build_renderer(image_tokenizer(), task=TASK)
    with pytest.raises(InputError, match="the task section shows no images"):
        Columns(image="images")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": TASK.parts[::-1]}, "images are the first part"),
        ({"parts": (replace(TASK.parts[0], name="scan"), TASK.parts[1])}, "which is named 'image'"),
        ({"parts": TASK.parts[:1]}, "images alone ask nothing"),
        ({"parts": TASK.parts[1:]}, "blind is of a task that shows images"),
    ],
)
def test_faults_of_an_image_task_are_named(changes: dict, message: str) -> None:
    assert task_problems(TASK) == task_problems(find_task("findings")) == []
    assert any(message in problem for problem in task_problems(replace(TASK, **changes)))


def test_shuffled_rows_have_images_of_other_rows() -> None:
    records = [
        asking(keys=keys, id=str(n)) for n, keys in enumerate([KEYS[:1], KEYS[1:2], KEYS[2:], KEYS[:2], KEYS[:1]])
    ]
    moved = shuffled(records)
    assert all(new.parts["image"] != old.parts["image"] for new, old in zip(moved, records, strict=True))
    assert moved[3].parts["image"] == f"{BLANK_KEY};{BLANK_KEY}"  # no other row has two
    assert {row.parts["image"] for row in moved[:3]} == set(KEYS)
    assert [row.parts["question"] for row in moved] == [row.parts["question"] for row in records]


def test_the_verdict_requires_that_every_blind_variant_is_beaten() -> None:
    seen, blind = (1.0,) * 30, (0.0,) * 30
    ways = ("question only", "images shuffled", "images blank")
    beaten = Blind(scores={"base": blind, "tuned": seen, **{f"tuned, {way}": blind for way in ways}})
    assert blind_verdict(beaten).startswith("The tuned model uses the images")
    level = Blind(scores={**beaten.scores, "tuned, images shuffled": seen})
    assert "does no better than blind** (images shuffled)" in blind_verdict(level)
    for rows, claim in ((6, "The tuned model uses the images"), (5, "**Too few rows (5, not 6) to tell")):
        assert blind_verdict(beaten.select(range(rows))).startswith(claim)


def test_a_prompt_of_a_text_task_has_no_image_ids() -> None:
    record = section_record(id="1", section_header="PLAN", dialogue="Doctor: Hi.", note="Rest.")
    renderer = build_renderer(image_tokenizer(), style="chat")
    assert min(renderer.prompt_ids(record.parts)) >= 0
    assert renderer.images is None


def test_a_served_template_for_images_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="by the base's own template and image processor"):
        served_template(renderer_of())
