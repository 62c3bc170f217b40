"""The rules of the house: short files and functions, a loop that fits on a screen."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "train_loop.py",
    ROOT / "infer.py",
    *(ROOT / "medsum_core").rglob("*.py"),
    *(ROOT / "benchmarks").glob("*.py"),
]


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def test_files_and_functions_are_short() -> None:
    assert [path.name for path in SOURCES if len(path.read_text().splitlines()) > 350] == []
    assert [(path.name, f.name, length(f)) for path in SOURCES for f in functions(path) if length(f) > 60] == []


def test_the_loop_and_its_step_fit_on_a_screen() -> None:
    page = ROOT / "train_loop.py"
    assert len(page.read_text().splitlines()) < 250
    by_name = {function.name: function for function in functions(page)}
    (loop,) = [node for node in ast.walk(by_name["train"]) if isinstance(node, ast.While)]
    assert length(loop) <= 45
    assert length(by_name["train_step"]) <= 40
