from __future__ import annotations

import numpy as np
import pytest

from kerasight.cam.layout import CHANNELS_FIRST, CHANNELS_LAST, Layout


def test_a_layout_has_the_name_that_keras_gives_it() -> None:
    assert Layout.of("channels_first") == CHANNELS_FIRST
    assert Layout.of("channels_last") == CHANNELS_LAST
    assert Layout.of(None) is None
    assert CHANNELS_FIRST.other == CHANNELS_LAST
    assert CHANNELS_LAST.other == CHANNELS_FIRST


@pytest.mark.parametrize("spatial", [(5,), (5, 6), (5, 6, 7)])
def test_any_number_of_axes_is_unfolded_and_folded_again(spatial: tuple[int, ...]) -> None:
    first = np.arange(2 * 3 * np.prod(spatial)).reshape(2, 3, *spatial)
    last = CHANNELS_FIRST.unfold(first)
    assert last.shape == (2, *spatial, 3)
    np.testing.assert_array_equal(last[1, ..., 2], first[1, 2])
    np.testing.assert_array_equal(CHANNELS_FIRST.fold(last), first)
    assert CHANNELS_FIRST.fold(last).flags.c_contiguous
    assert CHANNELS_LAST.unfold(last) is last
    assert CHANNELS_LAST.fold(last) is last
    for layout, values in ((CHANNELS_FIRST, first), (CHANNELS_LAST, last)):
        assert layout.spatial(values.shape) == spatial
        assert layout.channels(values.shape) == 3


def test_axes_before_the_docs_stay_where_they_are() -> None:
    assert CHANNELS_FIRST.unfold(np.zeros((4, 2, 3, 5, 6)), axis=1).shape == (4, 2, 5, 6, 3)
