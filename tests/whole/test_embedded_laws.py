"""The laws of rows, loss and gradient on real models, the embedded ones, with a few short rows."""

from __future__ import annotations

import hashlib

import pytest
import torch
from peft import PeftModel
from support import needs_package, section_parts, section_record
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel
from windows import Recorder, make_run, reference_gradient, relative, tuned

from medsum_core.data.masking import IGNORE_INDEX, Example, build_example, build_examples
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.truncation import GAP
from medsum_core.generation.generate import generate
from medsum_core.model.base import load_base, load_tokenizer
from medsum_core.model.embedded import EMBEDDED_MODELS, EMBEDDED_NAME
from medsum_core.training.loss import note_nll
from medsum_core.training.validation import evaluate_loss
from train_loop import train_step

RECORDS = [
    ("GENHX", "Doctor: Any pain?\nPatient: My left knee, for two weeks.", "Left knee pain for two weeks."),
    ("ALLERGY", "Doctor: Allergies?\nPatient: Penicillin.", "Penicillin."),
    ("MEDICATIONS", "Doctor: What do you take?\nPatient: Just aspirin.", "Aspirin, daily dose not stated."),
]
NUM_LAYERS = 6  # of 18 and 30, which repeat themselves: the sixth is Gemma's first of full attention
NUM_BOS = {"plain": 1, "chat": 3}  # SmolLM2's BOS begins its turns: the system's, the user's and the note's


@pytest.fixture(
    scope="module", params=[pytest.param(each.name, marks=needs_package(each.name)) for each in EMBEDDED_MODELS]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def renderer(name: str) -> PromptRenderer:
    return build_renderer(load_tokenizer(name, offline=True))


@pytest.fixture(scope="module")
def window(renderer: PromptRenderer) -> list[Example]:
    found = []
    for index, (header, dialogue, note) in enumerate(RECORDS):
        record = section_record(id=str(index), section_header=header, dialogue=dialogue, note=note)
        example = build_example(record, renderer, max_length=128, max_new_tokens=32)
        assert example is not None
        found.append(example)
    return found


@pytest.fixture(scope="module", params=["reference", "fast"])
def kernels(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str, kernels: str) -> PeftModel:
    base = load_base(name, precision="fp32", offline=True)
    del base.model.layers[NUM_LAYERS:]
    base.config.num_hidden_layers = NUM_LAYERS
    if name == EMBEDDED_NAME:
        base.config.layer_types = base.config.layer_types[:NUM_LAYERS]
        assert base.config.layer_types.count("full_attention") == 1
    return tuned(base, kernels=kernels)


def gradient(model: PeftModel, window: list[Example], kernels: str, **settings: int) -> list[Tensor]:
    run = make_run(model, kernels=kernels, **settings)  # type: ignore[arg-type]
    train_step(run, window, learning_rate=0.0)
    assert isinstance(run.optimizer, Recorder)
    return run.optimizer.gradients


def test_a_row_is_the_decoding_prompt_and_exactly_the_note(renderer: PromptRenderer, window: list[Example]) -> None:
    for (header, dialogue, note), row in zip(RECORDS, window, strict=True):
        prompt = renderer.prompt_ids(section_parts(dialogue, header))
        labels = [target for target in row.targets if target != IGNORE_INDEX]
        assert list(row.input_ids) == prompt + labels
        assert prompt.index(renderer.tokenizer.bos_token_id) == 0
        assert prompt.count(renderer.tokenizer.bos_token_id) == NUM_BOS[renderer.style]
        assert renderer.tokenizer.decode(labels[:-1]) == note
        assert labels[-1] == renderer.tokenizer.eos_token_id and labels.count(labels[-1]) == 1
        assert row.num_tokens <= 104


def test_the_note_stays_whole_and_the_dialogue_loses_whole_turns(renderer: PromptRenderer) -> None:
    header, _, note = RECORDS[0]
    turns = [f"{speaker}: It is {number}." for number in range(6) for speaker in ("Doctor", "Patient")]
    kept = renderer.prompt_ids(section_parts("\n".join([*turns[:2], GAP, *turns[-2:]]), header))
    notes = {"fits": note, "too long": "Left knee pain. " * 60}
    records = [
        section_record(id=name, section_header=header, dialogue="\n".join(turns), note=text)
        for name, text in notes.items()
    ]
    [row], report = build_examples(records, renderer, max_length=len(kept) + 32, max_new_tokens=32)
    assert list(row.prompt_ids) == kept and list(row.note_ids) == renderer.note_ids(note)
    assert report.num_turns_dropped == {"fits": 8} and [aside.id for aside in report.set_aside] == ["too long"]


def test_the_note_only_loss_equals_that_of_the_full_logits(model: PeftModel, window: list[Example]) -> None:
    row = window[1]
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    targets = torch.tensor([row.targets])
    with torch.no_grad():
        hidden = base.model(input_ids=torch.tensor([row.input_ids]), use_cache=False).last_hidden_state
    for dtype, bound in ((torch.float32, 2e-3), (torch.float64, 1e-9)):
        head = base.lm_head.weight.detach().to(dtype)
        found_hidden, full_hidden = (hidden.detach().to(dtype).requires_grad_() for _ in range(2))
        logits = linear(full_hidden, head)
        expected = cross_entropy(logits[0], targets[0], ignore_index=IGNORE_INDEX, reduction="sum")
        found = note_nll(found_hidden, targets, head)
        assert relative(found, expected) <= bound
        expected_gradient = torch.autograd.grad(expected, full_hidden)
        assert relative(torch.autograd.grad(found, found_hidden), expected_gradient) <= bound


def test_every_split_has_the_gradient_of_full_logits_and_the_base_does_not_change(
    model: PeftModel, kernels: str, window: list[Example], renderer: PromptRenderer
) -> None:
    bits, single = base_bits(model), gradient(model, window, kernels)
    _, expected = reference_gradient(model, window)
    assert relative(single, expected) <= 2e-3
    assert relative(gradient(model, window, kernels, batch_size=3), expected) <= 2e-3
    assert relative(gradient(model, window, kernels, pack_tokens=512), expected) <= 2e-3
    if kernels == "fast":
        assert relative(gradient(model, window, kernels, pack_tokens=120, num_concurrent=2), expected) <= 2e-3
    run = make_run(model, kernels=kernels)
    result = evaluate_loss(
        model, window, accelerator=run.accelerator, kernels=run.kernels, attention=run.attention, **run.collate_settings
    )
    assert result.num_targets == sum(row.num_targets for row in window)
    prompts = [row.input_ids[: row.num_prompt_tokens] for row in window[:1]]
    generate(model, prompts, stop_token_ids=renderer.stop_token_ids, max_new_tokens=2, decoder=run.kernels.decoder)
    after = gradient(model, window, kernels)
    assert all(torch.equal(one, other) for one, other in zip(after, single, strict=True))
    assert base_bits(model) == bits


def test_a_packed_window_has_the_gradient_of_its_rows_alone_in_fp64(
    model: PeftModel, kernels: str, window: list[Example]
) -> None:
    rows = sorted(window, key=lambda row: row.num_tokens)[:2]
    model.double()  # must be the last test of this model: it stays in fp64
    assert relative(gradient(model, rows, kernels, pack_tokens=512), gradient(model, rows, kernels)) <= 1e-9


def base_bits(model: PeftModel) -> str:
    """sha256 over the weights of the base."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
