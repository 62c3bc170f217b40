"""Functions that may compute different values have different identities; the same one has the same in another process."""

from __future__ import annotations

import subprocess
import sys
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest

from medsum_core.checkpoint.code_identity import code_identity, is_own
from medsum_core.data.collator import split_window

ROOT = Path(__file__).parents[2]


def loss(x: float, *, scale: float = 1.0) -> float:
    return x * scale


def scaled(scale: Any) -> Any:
    def inner(x: float) -> Any:
        return x * scale

    return inner


class Loss:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, x: float) -> float:
        return x * self.scale

    def method(self, x: float) -> float:
        return x


@wraps(loss)
def wrapped(x: float) -> float:
    return loss(x)


DIFFERENT = {
    "a function": loss,
    "with an argument bound": partial(loss, scale=2.0),
    "with another argument bound": partial(loss, scale=3.0),
    "with a positional argument bound": partial(loss, 1.0),
    "a closure": scaled(1.0),
    "over another number": scaled(2.0),
    "over a list": scaled([1, {"a": (2.0,)}]),
    "over a function": scaled(loss),
    "over another function": scaled(scaled(1.0)),
    "an object": Loss(1.0),
    "with another value": Loss(2.0),
    "its method": Loss(1.0).method,
    "its method with another value": Loss(2.0).method,
    "a class": Loss,
    "a built-in": len,
    "another built-in": abs,
    "without source": eval("lambda x: x"),
    "another without source": eval("lambda x: -x"),
    "a lambda": lambda x: x,
    "of this project": split_window,
}


def test_different_functions_have_different_identities_and_equal_ones_the_same() -> None:
    found = {name: tuple(code_identity(function).values()) for name, function in DIFFERENT.items()}
    assert len(set(found.values())) == len(DIFFERENT), found
    for same in (partial(loss, scale=2.0), scaled(2.0), Loss(2.0)):
        assert tuple(code_identity(same).values()) in found.values()
    assert code_identity(wrapped) == code_identity(loss)
    assert is_own(code_identity(split_window)) and not is_own(code_identity(loss))


def test_the_name_is_fully_qualified() -> None:
    assert code_identity(split_window)["name"] == "medsum_core.data.collator.split_window"
    assert code_identity(scaled(1.0))["name"].endswith("test_code_identity.scaled.<locals>.inner")


@pytest.mark.parametrize("start", ["import loss_of_mine as m; show(m.loss)", None])
def test_a_function_has_one_identity_as_script_and_as_import_and_another_when_changed(
    tmp_path: Path, start: str | None
) -> None:
    def shown(body: str) -> str:
        text = f"from medsum_core.checkpoint.code_identity import code_identity\ndef loss(x):\n    return {body}\n"
        show = "def show(f):\n    print(code_identity(f))\n"
        (tmp_path / "loss_of_mine.py").write_text(f"{text}{show}if __name__ == '__main__':\n    show(loss)\n")
        command = [
            sys.executable,
            *(["-c", f"from loss_of_mine import show\n{start}"] if start else ["loss_of_mine.py"]),
        ]
        environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert shown("x") == shown("x") != shown("2 * x")
    assert "'loss_of_mine.loss'" in shown("x")
