from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kerasight.cam.inputs import Inputs

DOCS = np.arange(6.0).reshape(3, 2)
AGES = np.array([[30.0], [40.0], [50.0]])


def test_an_array_is_what_is_seen() -> None:
    inputs = Inputs(DOCS)
    assert len(inputs) == 3
    assert inputs.docs is DOCS
    np.testing.assert_array_equal(inputs[1:].structure, DOCS[1:])


@pytest.mark.parametrize("structure", [{"image": 0}, [0], (0,), {"a": [(0,)]}])
def test_docs_take_the_place_that_the_model_has_for_them(structure: Any) -> None:
    inputs = Inputs.like(structure, DOCS)
    assert type(inputs.structure) is type(structure)
    assert inputs.leaves == [DOCS] or inputs.leaves[0] is DOCS
    assert inputs.packed(["there"]) == _with(structure, "there")


def _with(structure: Any, value: Any) -> Any:
    if isinstance(structure, dict):
        return {name: _with(part, value) for name, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(_with(part, value) for part in structure)
    return value


def test_of_several_inputs_one_is_seen_and_all_are_sliced() -> None:
    inputs = Inputs({"image": DOCS, "age": AGES}, seen=1)  # in the order of their names
    assert inputs.docs is DOCS
    some = inputs[1:2]
    np.testing.assert_array_equal(some.structure["image"], DOCS[1:2])
    np.testing.assert_array_equal(some.structure["age"], [[40]])


def test_one_doc_may_be_repeated_with_all_that_belongs_to_it() -> None:
    inputs = Inputs([DOCS[:1], AGES[:1]]).repeated(3)
    np.testing.assert_array_equal(inputs.structure[0], [DOCS[0]] * 3)
    np.testing.assert_array_equal(inputs.structure[1], [[30]] * 3)


def test_what_is_seen_is_changed_alone() -> None:
    changed = Inputs({"image": DOCS, "age": AGES}, seen=1).with_docs(-DOCS)
    np.testing.assert_array_equal(changed.structure["image"], -DOCS)
    np.testing.assert_array_equal(changed.structure["age"], AGES)


def test_many_versions_of_one_doc_share_its_other_inputs() -> None:
    changed = Inputs((DOCS[:1], AGES[:1])).with_docs(DOCS)
    np.testing.assert_array_equal(changed.structure[1], [[30]] * 3)
