"""The package as it is installed: its requirements, its data files, and that no flag is dead."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import medsum_core
from medsum_core.config.parser import SECTIONS

ROOT = Path(__file__).parents[2]
SETTINGS_FILES = {"arguments.py", "parser.py", "run_config.py", "validation.py"}  # they define and check settings


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [*found, ROOT / "train_loop.py", ROOT / "infer.py"]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def listed(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {Requirement(line).name: Requirement(line) for line in lines if line and not line.startswith("#")}


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", [field.name for section in SECTIONS.values() for field in fields(section)])
def test_every_setting_is_read_by_something_that_acts_on_it(name):
    settings = {ROOT / "medsum_core" / "config" / name for name in SETTINGS_FILES}
    users = [path for path in python_files("medsum_core") if path not in settings]
    # These two are read through a method of the settings.
    reads = {"num_train_epochs": "num_updates", "report_to": "output.trackers"}.get(name, name)
    assert any(re.search(rf"\.{reads}\b", path.read_text()) for path in users), f"--{name} is read nowhere"


def test_every_requirement_is_pinned_and_in_range():
    options = setup_cfg()
    texts = [options["options"]["install_requires"], *options["options.extras_require"].values()]
    wanted = [requirement for text in texts for requirement in listed(text) if requirement.name != "medsum-core"]
    assert len(wanted) > 20
    for requirement in wanted:
        pin = pins()[canonical(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "==" and requirement.specifier.contains(exact.version), requirement


def test_pins_name_no_build_and_no_package_that_downloads_code():
    found = pins()
    assert not [name for name, pin in found.items() if "+" in str(pin.specifier)]
    assert "kernels" not in found and str(found["torch"].specifier) == "==2.13.0"


def test_every_import_is_a_declared_requirement():
    """Also if another requirement would install it."""
    options = setup_cfg()
    asked = {canonical(requirement.name) for requirement in listed(options["options"]["install_requires"])}
    for extra in ("cpu", "demo", "dicom", "serve"):
        asked |= {canonical(requirement.name) for requirement in listed(options["options.extras_require"][extra])}
    asked.add("triton")  # installed with torch for CUDA; `--kernels triton` checks for it first
    imported = set()
    for path in python_files("medsum_core"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported.add(node.module.split(".")[0])
    names = {
        "yaml": "pyyaml",
        "rouge_score": "rouge-score",
        "text_to_num": "text2num",
        "huggingface_hub": "huggingface-hub",
        "PIL": "pillow",
    }
    own = {"medsum_core", "train_loop", "infer", *sys.stdlib_module_names}
    missing = {names.get(name, canonical(name)) for name in imported - own} - asked
    assert missing == set()


def test_data_files_are_packaged():
    patterns = setup_cfg()["options.package_data"]["medsum_core"].split()
    folder = Path(medsum_core.__file__).parent
    subs = ("data/sample", "config/presets", "server/page")
    files = [path for sub in subs for path in (folder / sub).glob("*") if path.is_file()]
    assert {path.name for path in files} >= {"gemma-2b.yaml", "demo.yaml", "demo_train.csv", "index.html", "review.js"}
    assert [
        path.name for path in files if not any(path.relative_to(folder).match(pattern) for pattern in patterns)
    ] == []


def test_presets_use_only_plain_yaml():
    for path in (ROOT / "medsum_core" / "config" / "presets").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())) <= set(SECTIONS)


def test_ci_runs_the_readme_s_test_command():
    command = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert command.endswith("python -m pytest -q")
    assert command in (ROOT / "README.md").read_text()


def test_the_version_is_defined_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", medsum_core.__version__)
    assert setup_cfg()["metadata"]["version"] == "attr: medsum_core.__version__"


def test_no_file_names_the_machines_paths_or_trusts_remote_code():
    """The texts are split so that this file does not have them."""
    forbidden = ["/ro" + "ot/", "/wo" + "rk/", "/tm" + "p/", "trust_remote_code=" + "True"]
    files = [*python_files("medsum_core", "tests", "benchmarks"), ROOT / "setup.cfg", ROOT / ".ci" / "run"]
    found = [(path.name, text) for path in files for text in forbidden if text in path.read_text()]
    assert found == []
