"""Work in threads beside the main one, in order and in bounded memory."""

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
) -> Iterator[Made]:
    """What work makes of items, in their order, while the caller does other things.

    Args:
        pool: Threads.
        work: What is done to each item. What it raises is raised here, and ends it all.
        items: The items; the next is taken only once there is room for one.
        weigh: What an item takes of the room from when it is taken until its result is: of all
            items, no more than 1 in sum, but always one.

    Yields:
        The results.
    """
    running: deque[tuple[Future[Made], float]] = deque()
    taken = 0.0
    for item in items:
        weight = weigh(item)
        while running and taken + weight > 1:
            future, freed = running.popleft()
            yield future.result()
            taken -= freed
        running.append((pool.submit(work, item), weight))
        taken += weight
    while running:
        yield running.popleft()[0].result()
