"""Shapes in annotations: where they must stand, and that kerasight is checked by them in tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float, Int
from shapes import ShapeError, fits

import kerasight
from kerasight.cam import maps, methods

SOURCE = Path(kerasight.__file__).parent
FOLDERS = ("cam", "formatters", "keras", "metrics")


def hints_of(node: ast.AST) -> list[ast.expr]:
    """The annotations of a function, or of the public fields and methods of a class."""
    if isinstance(node, ast.FunctionDef):
        arguments = [one.annotation for one in ast.walk(node.args) if isinstance(one, ast.arg)]
        return [hint for hint in (*arguments, node.returns) if hint is not None]
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    assert isinstance(node, ast.ClassDef)
    members = [one for one in node.body if isinstance(one, (ast.FunctionDef, ast.AnnAssign))]
    return [
        hint
        for one in members
        if not (
            one.name if isinstance(one, ast.FunctionDef) else ast.unparse(one.target)
        ).startswith("_")
        for hint in hints_of(one)
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_functions_say_the_shapes_of_their_arrays(folder: str) -> None:
    without = []
    for path in sorted((SOURCE / folder).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                for hint in map(ast.unparse, hints_of(node)):
                    if re.search(r"np\.ndarray(?!, ')", hint):
                        without.append(f"{path.relative_to(SOURCE)}: {node.name}: {hint}")
    assert not without


def test_arrays_of_another_shape_or_type_are_found() -> None:
    with pytest.raises(ShapeError, match=r"maps.weighted_sum: weights must be .*float64\(2, 1\)"):
        maps.weighted_sum(np.ones((2, 1)), np.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"maps.normalised: evidence must be .*bool\(2,\)"):
        maps.normalised(np.array([True, False]))


def test_results_are_looked_at_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "weighted_sum", lambda weights, activations: weights)
    with pytest.raises(ShapeError, match=r"methods.grad_cam: return must be .*float64\(2,\)$"):
        methods.grad_cam(np.ones((4, 3, 2)), np.ones((4, 3, 2)))


def test_what_a_function_refuses_is_refused_in_its_own_words() -> None:
    with pytest.raises(ValueError, match="activations must have shape"):
        methods.grad_cam(np.ones((4, 3, 2)), np.ones((4, 3, 5)))


def test_arrays_within_others_are_looked_at() -> None:
    row, table = np.ones(3), np.ones((2, 3))
    one = Float[np.ndarray, " columns"]
    assert fits(row, one | None)
    assert fits(None, one | None)
    assert not fits(table, one | None)
    assert not fits(row, Int[np.ndarray, " columns"] | float)
    assert fits([row, row], list[one])
    assert not fits([row, table], list[one])
    assert not fits([row, table], list[one] | None)
    assert fits((row, 3, table), tuple[one, int, Float[np.ndarray, "rows columns"]])
    assert not fits((table, 3), tuple[one, int])
    assert not fits((row, table), tuple[one, ...])
    assert fits({"a": row}, dict[str, one])
    assert not fits({"a": row, "b": table}, dict[str, one])
    assert fits(table, Iterable[one])
    assert not fits(table, Float[np.ndarray, "_ _ _"] | Iterable[Int[np.ndarray, " columns"]])
