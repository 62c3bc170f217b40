"""Rules for the code: short files and functions, a loop that fits on a screen, imports that point downwards only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "medsum_core").rglob("*.py"))
SCRIPTS = [ROOT / "train_loop.py", ROOT / "infer.py"]
SOURCES = [*SCRIPTS, *PACKAGE, *(ROOT / "benchmarks").glob("*.py")]
# Lowest layer first: a package or module imports from lower layers and from itself, never from its own layer's others.
LAYERS = (
    ("errors", "quiet_libraries"),
    ("device", "files", "tasks"),
    ("process", "data", "config", "checkpoint"),
    ("model", "score"),
    ("grounding", "images"),
    ("generation",),
    ("kernels",),
    ("training",),
    ("report", "merge"),
    ("preview", "train_loop", "infer"),
    ("server",),
)
LAYER_OF = {package: number for number, packages in enumerate(LAYERS) for package in packages}


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def imported(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports, at its top or inside of a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "medsum_core")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medsum_core":
            yield from [node.module] if node.module != "medsum_core" else [f"medsum_core.{a.name}" for a in node.names]


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "medsum_core").parts[0].removesuffix(".py") if path in PACKAGE else path.stem


def test_files_and_functions_are_short() -> None:
    assert [path.name for path in SOURCES if len(path.read_text().splitlines()) > 350] == []
    assert [(path.name, f.name, length(f)) for path in SOURCES for f in functions(path) if length(f) > 60] == []


def test_the_loop_and_its_step_fit_on_a_screen() -> None:
    path = ROOT / "train_loop.py"
    assert len(path.read_text().splitlines()) < 220
    by_name = {function.name: function for function in functions(path)}
    (loop,) = [node for node in ast.walk(by_name["train"]) if isinstance(node, ast.While)]
    assert length(loop) <= 45
    assert length(by_name["train_step"]) <= 40
    assert length(by_name["accumulate_gradients"]) <= 25


def test_at_most_seven_files_at_the_top_of_the_package() -> None:
    assert len(list((ROOT / "medsum_core").glob("*.py"))) <= 7


@pytest.mark.parametrize("path", [*SCRIPTS, *PACKAGE], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards_only(path: Path) -> None:
    package = package_of(path)
    if package == "__init__":
        assert set(imported(path)) <= {"medsum_core.quiet_libraries"}
        return
    for module in imported(path):
        other = module.split(".")[1]
        if other.startswith("__"):  # medsum_core.__version__
            continue
        assert other == package or LAYER_OF[other] < LAYER_OF[package], f"{path.name} imports {module}"
        assert other != "kernels" or package == "kernels" or module == "medsum_core.kernels", (
            f"{path.name} imports {module}: from outside of kernels/ only kernels/__init__.py may be imported"
        )


def test_the_reference_path_imports_no_file_of_the_kernels() -> None:
    """Module-level imports of the scripts, followed through the project, never lead below kernels/__init__.py."""
    seen: set[str] = set()
    todo = ["train_loop", "infer"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = ROOT / f"{name.replace('.', '/')}.py"
        path = path if path.exists() else ROOT / name.replace(".", "/") / "__init__.py"
        if path.exists():
            top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
            todo += [node.module for node in top if (node.module or "").startswith("medsum_core")]
    assert [name for name in seen if name.startswith("medsum_core.kernels.")] == []
    assert "medsum_core.training.loss" in seen  # imports were followed
