from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kerasight.jobs.ahead import ahead


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def test_results_come_in_the_order_of_their_items(pool: ThreadPoolExecutor) -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(10)  # the first is done after the second
        if item == 1:
            second.set()
        return item * item

    assert list(ahead(pool, work, range(9), lambda item: 0.25)) == [n * n for n in range(9)]


@pytest.mark.parametrize(
    ("weights", "begun"),
    [([0.25] * 9, 4), ([0.5, 0.5, 0.5], 2), ([3.0, 0.1], 1), ([0.2, 0.2, 3.0], 2), ([0.1] * 3, 3)],
)
def test_no_more_is_begun_than_there_is_room_for(
    pool: ThreadPoolExecutor, weights: list[float], begun: int
) -> None:
    done: list[float] = []
    results = ahead(pool, done.append, weights, lambda weight: weight)
    next(results)
    pool.shutdown()
    assert len(done) == begun


def test_an_error_ends_it_in_its_turn(pool: ThreadPoolExecutor) -> None:
    results = ahead(pool, lambda item: 1 // item, [1, 0, 1], lambda item: 0.3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
