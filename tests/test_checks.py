from __future__ import annotations

import re

import numpy as np
import pytest

from kerasight.checks import flag, integer, is_real, nearest, one_of, plural


def test_an_integer_is_one_and_large_enough() -> None:
    found = integer("steps", np.int64(3), least=3)
    assert found == 3
    assert type(found) is int
    with pytest.raises(ValueError, match="steps must be at least 3, got 2"):
        integer("steps", 2, least=3)
    for value, kind in ((2.0, "float"), (True, "bool"), ("2", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"steps must be an integer, got {kind}"):
            integer("steps", value, least=0)
    assert integer("steps", -(2**100)) == -(2**100)


def test_a_flag_is_true_or_false() -> None:
    assert flag("relu", np.True_) is True
    assert flag("relu", False) is False
    for value, kind in ((1, "int"), (None, "NoneType"), ("no", "str")):
        with pytest.raises(TypeError, match=f"relu must be True or False, got {kind}"):
            flag("relu", value)


@pytest.mark.parametrize("name", ["grad-cam++", "GradCAM++", "Grad CAM++", "grad_cam++"])
def test_a_name_is_found_however_it_is_spelled(name: str) -> None:
    assert one_of("method", name, ["grad-cam", "grad-cam++"]) == "grad-cam++"


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    names = {"layercam": 1, "hirescam": 2}
    message = "unknown method 'layrcam'; the nearest name is layercam; known are layercam, hirescam"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        one_of("method", "layrcam", names)
    with pytest.raises(ValueError, match=r"^unknown method 'ridge'; known are layercam, hirescam$"):
        one_of("method", "ridge", names)
    with pytest.raises(TypeError, match=r"^method must be the name of one \(str\), got int$"):
        one_of("method", 3, names)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scor", "; the nearest names are Core, Score-CAM"),
        ("LATER", "; the nearest name is Layer"),
        ("zzz", ""),
    ],
)
def test_the_nearest_names_are_told(name: str, text: str) -> None:
    assert nearest(name, ["Score-CAM", "Core", "Layer"]) == text


def test_in_the_place_of_a_name_another_text_may_be_told_once() -> None:
    known = {"conv": "'body/conv'", "body/conv": "'body/conv'", "pool": "'pool'"}
    assert nearest("conv_", known) == "; the nearest name is 'body/conv'"


def test_arrays_of_real_numbers_are_real() -> None:
    for dtype in ("bool", "uint8", "int64", "float16", "float64"):
        assert is_real(np.zeros(1, dtype))
    for dtype in ("complex64", "U1", "O", "datetime64[s]", "timedelta64[s]"):
        assert not is_real(np.zeros(1, dtype))


def test_a_number_of_things_is_put_in_words() -> None:
    assert [plural(number, "doc") for number in (0, 1, 2)] == ["0 docs", "1 doc", "2 docs"]
    assert [plural(number, "class") for number in (1, 2)] == ["1 class", "2 classes"]
