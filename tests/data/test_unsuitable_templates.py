"""Chat templates that depend on the date or can't be used are refused by one message that names the remedy.

The dated ones imitate those of the models that they are named for. A run that an earlier version of this project began
with a dated template may continue.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import GEMMA_TEMPLATE, section_parts, tiny_tokenizer
from tiny_run import exit_code, flags

import infer
from medsum_core.config.infer_arguments import parse_options
from medsum_core.config.run_config import parse_run
from medsum_core.data.prompt import build_renderer, check_prompt, prompt_faults
from medsum_core.errors import InputError
from medsum_core.training import plan as planning

TURNS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}<eos>{% endfor %}"
TODAY = "{{ bos_token }}Today is {{ strftime_now('%d %B %Y') }}.\n"
DATED = {
    "granite-3": "{%- if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}{%- else %}"
    "{% set told = 'Knowledge Cutoff Date: April 2024.\nToday\\'s Date: ' + strftime_now('%B %d, %Y') + '.' %}"
    "{%- endif %}{{ told }}<eos>",
    "mistral-small-3": "{%- set today = strftime_now('%Y-%m-%d') %}{{ bos_token }}The current date is {{ today }}.",
    "gpt-oss": "{%- macro told() %}{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}{% endmacro %}{{ told() }}<eos>",
    "by-the-hour": "{{ 'Good evening' if strftime_now('%H') | int > 17 or strftime_now('%H') | int < 5 else 'Hello' }}",
    "mentions-a-time": "{% set some_time = strftime_now('%x') %}{{ some_time }}",
    "adds-to-a-time": "{{ (time_zone or 0) * 2 + 1 }}{{ strftime_now('%j') }}",  # not a date variable: setting it to a date would be an error
}
UNUSABLE: list[tuple[Any, str]] = [
    ({"tool_use": TURNS, "rag": TURNS}, r"templates by name \(tool_use, rag\) and no `default` among them"),
    ("{% for m in messages %}{{ m['content'] }", r"unexpected '}'"),
    ("Hello {% world %}", "unknown tag 'world'"),
    ("{{ datetime.now() }}" + TURNS, "'datetime' is undefined"),
    ("{{ today() }}" + TURNS, "'today' is undefined"),
    ("{{ raise_exception('only for tools') }}", "only for tools"),
    (7, "chat template can't be used"),
]


def faults(template: str, **variables: Any) -> list[str]:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return list(map(str, prompt_faults(build_renderer(tokenizer, template_kwargs=variables))))


@pytest.mark.parametrize("form", DATED)
def test_a_prompt_that_depends_on_the_day_is_refused(form: str) -> None:
    (message,) = faults(DATED[form] + TURNS)
    assert "today's date" in message and message.endswith(": use --prompt_style plain")


def test_a_plain_prompt_is_the_remedy_for_a_dated_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = DATED["granite-3"] + TURNS
    check_prompt(build_renderer(tokenizer, style="plain"))


def test_a_template_with_a_date_variable_is_refused_naming_the_variable() -> None:
    dated = (
        "{% if today_date is not defined %}{% set today_date = strftime_now('%d %b %Y') %}{% endif %}{{ today_date }}"
    )
    (message,) = faults(dated + TURNS)
    given = message.partition("--chat_template_kwargs '")[2].partition("'")[0]
    assert json.loads(given) == {"today_date": "26 Jul 2024"} and message.endswith("or --prompt_style plain")
    assert faults(dated + TURNS, **json.loads(given)) == []
    (message,) = faults(
        "{{ greeting }}" + dated + TURNS, greeting="Hello"
    )  # variables that were given are kept in the remedy
    assert '{"greeting": "Hello", "today_date": "26 Jul 2024"}' in message


@pytest.mark.parametrize(
    "template",
    [
        TURNS,
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ 'Today Date: ' + date_string }}<eos>" + TURNS,  # Llama 3.2: this project sets date_string
        "{% if tools %}{{ strftime_now('%d') }}{% endif %}" + TURNS,  # never called: prompts here have no tools
    ],
)
def test_a_prompt_that_is_the_same_every_day_is_accepted(template: str) -> None:
    assert faults(template) == []


@pytest.fixture(scope="module")
def dated(inputs: Path) -> Path:
    """The files of a tiny run over a base whose template writes today's date."""
    folder = inputs.parent / "dated"
    shutil.copytree(inputs, folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TODAY + TURNS
    tokenizer.save_pretrained(folder / "model")
    return folder


def test_a_run_begun_by_an_earlier_version_continues_with_a_notice(
    dated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = flags(dated, run, "--eval_strategy", "no", "--max_steps", "1")
    assert exit_code(argv) == 2 and not run.exists()
    assert capsys.readouterr().err.count("writes today's date") == 1
    of_row = ["--dialogue_file", "d.txt", "--section", "CC", "--offline"]
    of_base = ["--model_name_or_path", str(dated / "model"), *of_row]
    with pytest.raises(InputError, match=r"today's date.*plain"):
        infer.prepare_writer(parse_options(of_base))
    assert infer.prepare_writer(parse_options([*of_base, "--prompt_style", "plain"])).renderer.style == "plain"

    with monkeypatch.context() as earlier:
        earlier.setattr(planning, "check_prompt", lambda *_, **__: None)
        assert exit_code(argv) == 0
    capsys.readouterr()
    renderer = planning.plan_run(parse_run([*argv, "--resume_from_checkpoint", "auto"])).renderer
    again = infer.prepare_writer(parse_options(["--run", str(run), *of_row])).renderer
    assert again.prompt_ids(section_parts("D: a", "CC")) == renderer.prompt_ids(section_parts("D: a", "CC"))
    notice = "writes today's date, so that tomorrow's prompt would not be the one of today; this run was started"
    assert capsys.readouterr().err.count(notice) == 2  # one from planning the resumed run, one from infer
    with pytest.raises(InputError, match="a run has that of its training"):
        parse_options(["--run", str(run), *of_row, "--prompt_style", "plain"])


@pytest.mark.parametrize(("template", "cause"), UNUSABLE)
def test_a_template_that_cannot_be_used_is_one_message(template: Any, cause: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=cause) as caught:
        build_renderer(tokenizer)
    assert "use --prompt_style plain" in str(caught.value) and "\n" not in str(caught.value)
    assert build_renderer(tokenizer, style="plain").style == "plain"


def test_of_several_named_templates_the_default_is_used() -> None:
    tokenizer = tiny_tokenizer()
    expected = build_renderer(tokenizer).fixed_ids
    tokenizer.chat_template = {"tool_use": TURNS, "default": GEMMA_TEMPLATE}
    assert build_renderer(tokenizer).fixed_ids == expected


@pytest.mark.parametrize(
    "template", [UNUSABLE[0][0], UNUSABLE[1][0]], ids=["no default among named templates", "invalid Jinja"]
)
def test_a_run_with_an_unusable_template_ends_before_it_writes_anything(
    template: Any, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stored as on the hub: in `tokenizer_config.json`, several templates as a list."""
    shutil.copytree(inputs / "model", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    path = tmp_path / "model" / "tokenizer_config.json"
    named = [{"name": k, "template": v} for k, v in template.items()] if isinstance(template, dict) else template
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    argv = flags(inputs, tmp_path / "run", "--model_name_or_path", str(tmp_path / "model"))
    assert exit_code(argv) == 2 and not (tmp_path / "run").exists()
    message = capsys.readouterr().err
    assert message.count("use --prompt_style plain") == 1 and "Traceback" not in message
