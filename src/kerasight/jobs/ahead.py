"""Work in other threads, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

__all__ = ["ahead"]

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(
    pool: Executor,
    work: Callable[[Item], Made],
    items: Iterable[Item],
    weigh: Callable[[Item], float],
    *,
    is_prompt: bool = False,
) -> Iterator[Made]:
    """The results of ``work`` on items, in order, while the caller does other things.

    Args:
        pool: Threads.
        work: The function for each item. Its exceptions are raised here, and end the iteration.
        items: The items; each is taken only once there is room for it.
        weigh: The room that an item occupies until its result is taken. All items together
            occupy at most 1, except that there is always room for one.
        is_prompt: Whether a result that is there is given before another item is begun, where
            there is room for both.

    Yields:
        The results.
    """
    running: deque[tuple[Future[Made], float]] = deque()
    taken = 0.0
    for item in items:
        weight = weigh(item)
        while running and (taken + weight > 1 or (is_prompt and running[0][0].done())):
            future, freed = running.popleft()
            yield future.result()
            taken -= freed
        running.append((pool.submit(work, item), weight))
        taken += weight
    while running:
        yield running.popleft()[0].result()
