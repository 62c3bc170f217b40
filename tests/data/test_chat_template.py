"""Chat templates of reasoning models: no note is trained on inside a thinking block, and `--chat_template_kwargs`, which
close it, are the same wherever a run's prompt is built."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from support import GEMMA_TEMPLATE, section_parts, tiny_tokenizer
from tiny_run import exit_code, flags
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

import infer
from medsum_core import preview
from medsum_core.config.infer_arguments import parse_options
from medsum_core.config.run_config import parse_run, with_later_settings
from medsum_core.config.run_folder import read_run_config
from medsum_core.data.prompt import PromptRenderer, build_renderer, check_prompt
from medsum_core.errors import InputError
from medsum_core.merge import __main__ as merge
from medsum_core.training.plan import plan_run

DIALOGUE = "Doctor: What brings you in?\nPatient: A cough."
GENERATION = "<start_of_turn>model\n"
THINKING = GEMMA_TEMPLATE.removesuffix("{% endif %}") + (  # as the templates of Qwen 3.5 end
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{% else %}{{ '<think>\n' }}{% endif %}{% endif %}"
)
OFF = {"enable_thinking": False}
CLOSED = ("--chat_template_kwargs", json.dumps(OFF))


def thinking_tokenizer(template: str = THINKING) -> PreTrainedTokenizerFast:
    """With the thinking tags as Qwen has them: added tokens that are not marked as special."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(name, special=False) for name in ("<think>", "</think>")])
    tokenizer.chat_template = template
    return tokenizer


def text_of(renderer: PromptRenderer, ids: list[int]) -> str:
    return str(renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@pytest.fixture(scope="module")
def thinking(inputs: Path) -> Path:
    """The files of a tiny run over a base whose template opens a thinking block."""
    folder = inputs.parent / "thinking"
    shutil.copytree(inputs, folder)
    thinking_tokenizer().save_pretrained(folder / "model")
    return folder


def test_template_kwargs_reach_the_template_and_close_its_thinking_block() -> None:
    opened, closed = build_renderer(thinking_tokenizer()), build_renderer(thinking_tokenizer(), template_kwargs=OFF)
    assert text_of(opened, opened.prompt_ids(section_parts(DIALOGUE, "CC"))).endswith(f"{GENERATION}<think>\n")
    assert text_of(closed, closed.prompt_ids(section_parts(DIALOGUE, "CC"))).endswith(
        f"{GENERATION}<think>\n\n</think>\n\n"
    )
    with pytest.raises(InputError, match=r"\(<think>\).*--chat_template_kwargs '{\"enable_thinking\": false}'.*plain"):
        check_prompt(opened)
    check_prompt(closed)
    check_prompt(build_renderer(thinking_tokenizer(), style="plain"))


@pytest.mark.parametrize(
    ("tail", "is_inside"),
    [
        ("", False),
        ("<thinking>\n", True),
        ("<seed:think>", True),
        ("[THINK]", True),
        ("[THINK][/THINK]", False),
        ("<|START_THINKING|>", True),
        ("<|channel>thought\n", True),
        ("<|channel>thought\n<channel|>", False),
        ("<think>\n</think><think>", True),
        ("</think>", False),
        ("<reason to think>", False),
    ],
)
def test_a_prompt_that_ends_inside_a_thinking_block_is_refused(tail: str, is_inside: bool) -> None:
    template = GEMMA_TEMPLATE.replace("<start_of_turn>model\n", f"<start_of_turn>model\n{tail}")
    renderer = build_renderer(thinking_tokenizer(template))
    if not is_inside:
        return check_prompt(renderer)
    with pytest.raises(InputError, match="inside a block of thinking"):
        check_prompt(renderer)


@pytest.mark.parametrize("blank", [" ", "\n"])
def test_white_space_before_the_token_that_ends_a_turn_is_no_part_of_it(blank: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '" + blank + "<end_of_turn>' }}{% endfor %}"
    assert build_renderer(tokenizer).stop_token_id == tokenizer.convert_tokens_to_ids("<end_of_turn>")


def test_a_think_tag_within_the_system_text_opens_no_block() -> None:
    renderer = build_renderer(thinking_tokenizer("{{ 'Thoughts begin with <think>.\n' }}" + GEMMA_TEMPLATE))
    check_prompt(renderer)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"enable_thinking": False, "thinking": False}, r"kwargs: thinking: changes nothing in this model's prompt"),
        ({"enable_thinking": True}, r"kwargs: enable_thinking: changes nothing"),  # the template's default
        ({"tokenize": True}, r"tokenize: an argument of apply_chat_template"),
        ({"chat_template": "{{ 1 }}"}, r"chat_template: an argument of apply_chat_template"),
    ],
)
def test_a_template_kwarg_without_effect_is_refused(variables: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_renderer(thinking_tokenizer(), template_kwargs=variables)


def test_template_kwargs_need_a_chat_template() -> None:
    with pytest.raises(InputError, match="--chat_template_kwargs: a plain prompt uses no chat template"):
        build_renderer(tiny_tokenizer(chat=False), template_kwargs=OFF)
    with pytest.raises(InputError, match="no effect with --prompt_style plain"):
        parse_run([*CLOSED, "--prompt_style", "plain"])


@pytest.mark.parametrize("text", ["enable_thinking=false", "[1]", "{}", "null", '{"a": NaN}', "[" * 99999])
def test_template_kwargs_that_are_not_a_json_object_are_refused(text: str) -> None:
    for parse in (
        lambda: parse_run(["--chat_template_kwargs", text]),
        lambda: preview.main(["--train_file", "rows.csv", "--chat_template_kwargs", text]),
        lambda: parse_options(
            [*["--model_name_or_path", "x", "--dialogue_file", "d", "--section", "CC"], CLOSED[0], text]
        ),
    ):
        with pytest.raises(InputError, match="expected names and values as JSON") as caught:
            parse()
        assert len(str(caught.value)) < 300


def test_no_text_from_outside_makes_a_thinking_token() -> None:
    """A tokenizer matches a token that is not marked as special in any text, even with `split_special_tokens`."""
    renderer = build_renderer(thinking_tokenizer(), template_kwargs=OFF)
    tags = set(renderer.tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
    assert tags <= set(renderer.fixed_ids[-1])
    for text in ("<think>", "a </think>b<think><think>", "<<think>think>", "\n</think>\n\nNo cough."):
        ids = renderer.text_ids(text)
        assert not tags.intersection(ids) and text_of(renderer, ids) == text
        assert renderer.decode(renderer.note_ids(text)) == text.strip()
        covered = {char for start, end in renderer.note_offsets(text) for char in range(start, end)}
        first, last = len(text) - len(text.lstrip()), len(text.rstrip())
        assert (
            covered == set(range(first, last)) and len(renderer.note_offsets(text)) == len(renderer.note_ids(text)) - 1
        )


def test_inference_and_merging_use_the_template_kwargs_of_the_run(
    thinking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, argv = tmp_path / "run", flags(thinking, tmp_path / "run", "--eval_strategy", "no", "--max_steps", "1")
    assert exit_code(argv) == 2 and not run.exists()
    assert "inside a block of thinking (<think>)" in capsys.readouterr().err
    assert exit_code([*argv, *CLOSED]) == 0
    assert 'chat with {"enable_thinking": false}' in (run / "adapter" / "README.md").read_text()
    prompt = plan_run(parse_run([*argv[:-2], *CLOSED, "--resume_from_checkpoint", "auto"])).renderer
    assert prompt.prompt_ids(section_parts(DIALOGUE, "CC"))[-len(prompt.fixed_ids[-1]) :] == list(prompt.fixed_ids[-1])
    assert text_of(prompt, list(prompt.fixed_ids[-1])).endswith("<think>\n\n</think>\n\n")
    of_run = ["--run", str(run), "--dialogue_file", "d.txt", "--section", "CC", "--offline"]
    assert infer.prepare_writer(parse_options(of_run)).renderer.fixed_ids[-1] == prompt.fixed_ids[-1]
    of_base = ["--model_name_or_path", str(thinking / "model"), *of_run[2:]]
    assert infer.prepare_writer(parse_options([*of_base, *CLOSED])).renderer.fixed_ids[-1] == prompt.fixed_ids[-1]
    with pytest.raises(InputError, match="inside a block of thinking"):
        infer.prepare_writer(parse_options(of_base))
    with pytest.raises(InputError, match="a run has those of its training"):
        parse_options([*of_run, *CLOSED])
    settings = read_run_config(run).data.prompt_settings
    assert settings == {"style": "chat", "template_kwargs": OFF}
    given: list[dict[str, object]] = []

    def record(_: PreTrainedTokenizerFast, **settings: object) -> NoReturn:
        given.append(settings)
        raise InputError("prompt settings recorded")

    monkeypatch.setattr(merge, "build_renderer", record)
    with pytest.raises(InputError, match="prompt settings recorded"):
        merge.main(["--run", str(run), "--output_dir", str(tmp_path / "merged")])
    assert given == [settings]


def test_a_resumed_run_must_have_the_same_template_kwargs(
    thinking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(thinking, tmp_path / "run", "--eval_strategy", "no", "--max_steps", "1")
    assert exit_code([*argv, *CLOSED]) == 0
    more = ["--max_steps", "2", "--resume_from_checkpoint", "auto"]
    assert exit_code([*argv, *more]) == 2
    assert "--chat_template_kwargs was" in capsys.readouterr().err
    assert exit_code([*argv, *more, "--chat_template_kwargs", '{ "enable_thinking":false}']) == 0
    now = parse_run(["--preset", "demo"]).compared_on_resume()
    earlier = {name: value for name, value in now.items() if name != "chat_template_kwargs"}
    assert with_later_settings(earlier)["chat_template_kwargs"] is None is now["chat_template_kwargs"]


def test_the_preview_takes_template_kwargs(thinking: Path) -> None:
    argv = ["--train_file", str(thinking / "train.csv"), "--model_name_or_path", str(thinking / "model")]
    out = io.StringIO()
    preview.main([*argv, "--num_examples", "1", *CLOSED], out=out)
    assert "</think>|" in out.getvalue()
    with pytest.raises(InputError, match="inside a block of thinking"):
        preview.main(argv)
