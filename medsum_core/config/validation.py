"""Checks of a configuration: values out of range, contradictory combinations, files that do not exist.

Every function returns a list of messages and raises nothing, so that the user sees all faults at once.
"""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from medsum_core.config.arguments import (
    ALL_LINEAR,
    AUTO_TARGETS,
    LORA_INITS,
    MAX_RANK,
    PATHS,
    REFUSED_LORA_INITS,
    SPLIT_SETTINGS,
    TRACKERS,
    DataArguments,
    LoraArguments,
    ModelArguments,
    OutputArguments,
    TrainArguments,
)
from medsum_core.config.report_parts import report_was_interrupted
from medsum_core.errors import InputError
from medsum_core.tasks.find import find_task, task_text

LARGEST = 4_000_000_000  # numpy's seeds end at 2 ** 32, and each process adds its number to the run's
PROMPT_MINIMUM = 64  # tokens: the instruction alone takes some 40

# fmt: off
AT_LEAST_ONE = (
    "lora_r", "max_length", "max_new_tokens", "per_device_train_batch_size", "gradient_accumulation_steps",
    "logging_steps", "eval_steps", "save_steps", "parallel_micro_batches",
)
NOT_NEGATIVE = (
    "lora_dropout", "pack_tokens", "learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "adam_beta1",
    "adam_beta2", "eval_generate", "early_stopping_patience", "seed", "no_repeat_ngram_size", "save_minutes",
)
# fmt: on
ABOVE_ZERO = ("lora_alpha", "num_train_epochs", "adam_epsilon")
BELOW_ONE = ("lora_dropout", "adam_beta1", "adam_beta2")


def setting_problems(
    *, model: ModelArguments, lora: LoraArguments, data: DataArguments, train: TrainArguments, output: OutputArguments
) -> list[str]:
    """Problems with the values and their combinations, independent of the machine and its files."""
    values = {name: value for section in (model, lora, data, train, output) for name, value in vars(section).items()}
    checks = _data_checks(data) + _model_checks(model, lora) + _cadence_checks(train, output)
    checks += _packing_checks(train, data) + _tracker_checks(model, output)
    problems = _range_problems(values) + template_kwargs_problems(data.chat_template_kwargs)
    problems += _task_problems(data)
    problems += [text for wrong, text in checks if wrong]
    if data.validation_file is None and data.dataset_name is None:
        problems += no_validation_problems(train, output)
    return problems


def path_problems(data: DataArguments, output: OutputArguments) -> list[str]:
    """Missing files and unusable folders. Nothing is created.

    Only the first process of a launch checks the run folder: it may already be writing when the others check.
    """
    if problems := _name_problems(data, output):
        return problems
    for flag, paths in (("--train_file", data.train_file), ("--validation_file", data.validation_file)):
        for path in paths or ():
            if not Path(path).is_file():
                problems.append(f"{flag} {path}: there is no such file")
        if len({Path(path).resolve() for path in paths or ()}) < len(paths or ()):
            problems.append(f"{flag}: names a file twice")
    if os.environ.get("RANK", "0") == "0":
        problems += _output_problems(output)
    return problems


def _name_problems(data: DataArguments, output: OutputArguments) -> list[str]:
    """Paths that no file can have. They are not repeated: a long one may be the text of a file instead of its name."""
    values = {**vars(data), **vars(output)}
    given = {name: values[name] if isinstance(values[name], list) else [values[name]] for name in PATHS}
    named = [(name, path) for name, paths in given.items() for path in paths if path is not None]
    return [f"--{name}: {reason}" for name, path in named if (reason := _name_problem(path))]


def _name_problem(path: str) -> str | None:
    if not path.strip():
        return "an empty value; give a path"
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:  # ValueError: with a NUL
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            return f"no file or folder can have such a name ({len(path):,} characters)"
    return None


def key_path(examples_file: str | Path) -> Path:
    """The path of a blinded sheet's key: `notes.csv` -> `notes.key.csv`."""
    path = Path(examples_file)
    return path.with_name(f"{path.stem}.key.csv")


def examples_file_problems(examples_file: str | Path, *, may_exist: bool = False) -> list[str]:
    """Why a blinded sheet can't be written there: its folder is absent, or a sheet or key exists.

    An existing sheet is never replaced, since it may have been filled in. `may_exist`: an interrupted report may have
    written it; then it is compared with the new content.
    """
    path = Path(examples_file)
    if not path.name:
        return [f"--examples_file {path}: a folder, not a file"]
    problems = [
        f"--examples_file: {taken} exists already; name another file or move it away"
        for taken in (path, key_path(path))
        if taken.exists() and not may_exist
    ]
    folder = path.absolute().parent
    if not folder.is_dir():
        return [*problems, f"--examples_file: there is no folder {path.parent}; make it first"]
    return problems + [f"--examples_file {path}: {reason}" for reason in _folder_problems(folder)]


def template_kwargs_problems(text: str | None) -> list[str]:
    """Why the value of `--chat_template_kwargs` can't be used."""
    if text is None:
        return []
    try:
        if isinstance(values := json.loads(text, parse_constant=_refuse), dict) and values:
            return []
    except (ValueError, RecursionError):
        pass
    return ["--chat_template_kwargs: expected names and values as JSON, such as '{\"enable_thinking\": false}'"]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _range_problems(values: dict[str, Any]) -> list[str]:
    problems = []
    rules = (
        (AT_LEAST_ONE, lambda value: value >= 1, "must be at least 1"),
        (NOT_NEGATIVE, lambda value: value >= 0, "must not be negative"),
        (ABOVE_ZERO, lambda value: value > 0, "must be above 0"),
        (BELOW_ONE, lambda value: value < 1, "must be below 1"),
        (("lora_r",), lambda value: value <= MAX_RANK, f"must be at most {MAX_RANK}: no larger adapter is read again"),
        (("save_total_limit",), lambda value: value >= 2, "must be at least 2: the newest checkpoint may be damaged"),
        (("report_rows",), lambda value: value >= -1, "must be a number of rows, 0 for none or -1 for all"),
        (("max_steps",), lambda value: value == -1 or value >= 1, "must be at least 1, or -1 to go by epochs"),
    )
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(f"--{name} {value}: must be a finite number")
            continue
        if isinstance(value, (int, float)) and abs(value) > LARGEST:
            problems.append(f"--{name}: must be at most {LARGEST:,} in size")
            continue
        broken = [text for names, holds, text in rules if name in names and value is not None and not holds(value)]
        problems += [f"--{name} {value}: {text}" for text in broken[:1]]
    return problems


def _data_checks(data: DataArguments) -> list[tuple[bool, str]]:
    prompt_tokens = data.max_prompt_tokens
    has_file, has_dataset = data.train_file is not None, data.dataset_name is not None
    return [
        (not has_file and not has_dataset, "no training data: give --train_file or --dataset_name"),
        (
            data.chat_template_kwargs is not None and data.prompt_style == "plain",
            "--chat_template_kwargs has no effect with --prompt_style plain: leave one of them out",
        ),
        (has_file and has_dataset, "--train_file and --dataset_name both name training data: give one"),
        *_split_checks(data),
        (
            prompt_tokens < PROMPT_MINIMUM,
            f"--max_length {data.max_length} less --max_new_tokens {data.max_new_tokens} leaves {prompt_tokens} tokens "
            f"for the prompt: at least {PROMPT_MINIMUM} are needed",
        ),
    ]


def _task_problems(data: DataArguments) -> list[str]:
    try:
        task = find_task(task_text(data.task))
    except InputError as error:
        return [str(error)]
    if data.grounded and task.facts_from is None:
        return [f"--grounded: the task {task.name} gives no text that facts could be looked up in"]
    return []


def _split_checks(data: DataArguments) -> list[tuple[bool, str]]:
    defaults = DataArguments()
    chosen = [f"--{name}" for name in SPLIT_SETTINGS if getattr(data, name) != getattr(defaults, name)]
    return [
        (bool(chosen) and data.dataset_name is None, f"{', '.join(chosen)}: a choice within --dataset_name: give it"),
        (
            data.validation_split is not None and data.validation_file is not None,
            "--validation_split and --validation_file both name validation data: give one",
        ),
        (
            data.section is not None and data.section_column is not None,
            "--section and --section_column both say where the section comes from: give one",
        ),
    ]


def _model_checks(model: ModelArguments, lora: LoraArguments) -> list[tuple[bool, str]]:
    init = lora.init_lora_weights
    reason = REFUSED_LORA_INITS.get(init.lower().split("_")[0], "not known")
    return [
        (
            model.dequantize == "on" and not model.load_in_4bit,
            "--dequantize on: there is nothing to unpack with --load_in_4bit false",
        ),
        (init not in LORA_INITS, f"--init_lora_weights {init}: {reason}; choose from {', '.join(LORA_INITS)}"),
        (not lora.lora_target_modules, "--lora_target_modules: name at least one projection"),
        (
            len(lora.lora_target_modules) > 1 and not {AUTO_TARGETS, ALL_LINEAR}.isdisjoint(lora.lora_target_modules),
            "--lora_target_modules: auto and all-linear stand alone",
        ),
        (
            any("," in name for name in lora.lora_target_modules),
            "--lora_target_modules: separate the names by spaces, not commas",
        ),
    ]


def _tracker_checks(model: ModelArguments, output: OutputArguments) -> list[tuple[bool, str]]:
    names = output.report_to
    unknown = [name for name in names if name not in ("none", *TRACKERS)]
    elsewhere = [name for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL") if os.environ.get(name)]
    return [
        (
            bool(unknown),
            f"--report_to {' '.join(unknown)}: choose from {', '.join(TRACKERS)}, by their names"
            + (": what happens to be installed decides nothing here" if "all" in unknown else ""),
        ),
        ("none" in names and len(names) > 1, "--report_to none: not with the name of a tracker"),
        (
            model.offline and "trackio" in names and bool(elsewhere),
            f"--report_to trackio: {', '.join(elsewhere)} in the environment sends to another machine, which --offline "
            "forbids; unset it",
        ),
    ]


def _packing_checks(train: TrainArguments, data: DataArguments) -> list[tuple[bool, str]]:
    return [
        (
            train.gradient_checkpointing == "long" and not 0 < (train.pack_tokens or 0) < data.max_length,
            "--gradient_checkpointing long: no row is longer than --pack_tokens: give it less than --max_length "
            f"({data.max_length})",
        )
    ]


def _cadence_checks(train: TrainArguments, output: OutputArguments) -> list[tuple[bool, str]]:
    evaluates = train.eval_strategy != "no"
    return [
        (train.eval_strategy == "steps" and train.eval_steps is None, "--eval_strategy steps: give --eval_steps"),
        (
            train.eval_strategy != "steps" and train.eval_steps is not None,
            f"--eval_steps has no effect with --eval_strategy {train.eval_strategy}: add --eval_strategy steps",
        ),
        (output.save_strategy == "steps" and output.save_steps is None, "--save_strategy steps: give --save_steps"),
        (
            output.save_strategy != "steps" and output.save_steps is not None,
            f"--save_steps has no effect with --save_strategy {output.save_strategy}: add --save_strategy steps",
        ),
        (train.load_best_model_at_end and not evaluates, "--load_best_model_at_end: not with --eval_strategy no"),
        (train.early_stopping_patience > 0 and not evaluates, "--early_stopping_patience: not with --eval_strategy no"),
        (train.eval_generate > 0 and not evaluates, "--eval_generate: not with --eval_strategy no"),
        (
            output.examples_file is not None and output.report_rows == 0,
            "--examples_file: not with --report_rows 0: the sheet holds the report's rows",
        ),
        (
            output.baseline_file is not None and output.report_rows == 0,
            "--baseline_file: not with --report_rows 0: its notes are compared in the report",
        ),
        (
            train.metric_for_best_model == "eval_rouge1" and train.eval_generate == 0,
            "--metric_for_best_model eval_rouge1: give --eval_generate, the number of rows to score",
        ),
    ]


def no_validation_problems(train: TrainArguments, output: OutputArguments) -> list[str]:
    """The settings that need validation rows; for a data set of the hub it is known late whether it has some."""
    wanted = {
        "--eval_strategy steps": train.eval_strategy == "steps",
        "--eval_generate": train.eval_generate > 0,
        "--load_best_model_at_end": train.load_best_model_at_end,
        "--early_stopping_patience": train.early_stopping_patience > 0,
        "--examples_file": output.examples_file is not None,
        "--baseline_file": output.baseline_file is not None,
    }
    return [f"{flag}: needs validation rows: give --validation_file" for flag, wrong in wanted.items() if wrong]


def _output_problems(output: OutputArguments) -> list[str]:
    resume, problems = output.resume_from_checkpoint, []
    if resume is not None and output.output_dir is None:
        problems.append("--resume_from_checkpoint: give --output_dir, the folder of the run to go on with")
    if resume not in (None, "auto") and not Path(resume).is_dir():
        problems.append(f"--resume_from_checkpoint {resume}: there is no such folder")
    if output.examples_file is not None:
        interrupted = output.output_dir is not None and report_was_interrupted(Path(output.output_dir))
        problems += examples_file_problems(output.examples_file, may_exist=interrupted)
    run_path = output.output_dir or "runs"
    problems += [f"--output_dir {run_path}: {reason}" for reason in _folder_problems(Path(run_path))]
    run_folder = Path(output.output_dir) if output.output_dir else None
    if run_folder and not _continues(resume, run_folder) and run_folder.is_dir() and any(run_folder.iterdir()):
        problems.append(
            f"--output_dir {run_folder}: not empty; name a new one, or continue its run: --resume_from_checkpoint auto"
        )
    return problems


def _continues(resume: str | None, run_folder: Path) -> bool:
    """Whether the run in this folder is resumed; a checkpoint of another run begins a new one."""
    if resume is None:
        return False
    is_elsewhere = Path(resume).is_dir() and run_folder.resolve() not in Path(resume).resolve().parents
    return resume == "auto" or not is_elsewhere


def _folder_problems(folder: Path) -> list[str]:
    """Why the folder cannot be written to or made, judged by the nearest part of the path that exists."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return [f"{existing} is a file"]
    return [] if os.access(existing, os.W_OK | os.X_OK) else [f"{existing} is not writable"]
