"""Progress bars, by tqdm: of the library and of the command."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

__all__ = ["bars_put_aside", "check_progress", "progress_bar"]


def check_progress(progress: Any) -> bool | None:
    """What `progress_bar` takes; raises TypeError if it is something else."""
    if not (progress is None or isinstance(progress, bool)):
        raise TypeError(f"progress must be True, False or None, got {type(progress).__name__}")
    return progress


def progress_bar(items: Any = None, *, progress: bool | None, **settings: Any) -> Any:
    """A bar over ``items``, or one to update by hand.

    Args:
        items: What to go through; None makes a bar without.
        progress: True shows it, in notebooks as a widget; None only on a terminal, and after a
            second; False not at all.
        **settings: Passed on to tqdm: ``total``, ``desc``, ``unit``, ``leave``, ...
    """
    if progress:
        # Only now: where there are no widgets, this warns as it is imported.
        from tqdm.auto import tqdm

        return tqdm(items, **settings)
    from tqdm import tqdm as plain

    return plain(items, disable=progress is not None or None, **{"delay": 1, **settings})


def bars_put_aside() -> AbstractContextManager[Any]:
    """Keep bars and what is written to standard error from overwriting each other."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    aside: AbstractContextManager[Any] = tqdm.external_write_mode(file=sys.stderr)
    return aside
