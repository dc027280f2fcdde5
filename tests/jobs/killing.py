"""Runs jobs and kills them, in a process of its own: `python killing.py FOLDER NUMBER SEED`.

The folder has pictures in ``pictures``. Jobs over them are killed so many times, at random moments;
one that was finished first is followed by another. Each is then finished. Before a job goes on, it
is checked that nothing in it stands twice, and that nothing that was there before it was killed is
gone. Keras is not imported, as processes with the threads of a framework cannot be forked.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet  # noqa: F401
from PIL import Image

from kerasight.base import Explanation, TargetExplanation
from kerasight.jobs import parts, sources
from kerasight.jobs.job import carry_out
from kerasight.jobs.sources import Entry
from kerasight.progress import progress_bar

BROKEN = b"broken"


def explain(pictures: Iterator[Entry]) -> Iterator[list[parts.Row]]:
    """The red of a picture's first pixel is its score, and fills two heatmaps."""
    for picture in pictures:
        assert picture.read is not None
        data = picture.read()
        if data == BROKEN:
            yield [parts.failed_row(picture.key, None, "broken")]
            continue
        with Image.open(io.BytesIO(data)) as image:
            red, *_ = image.getpixel((0, 0))
        targets = [
            TargetExplanation(target, score=float(red), heatmap=np.full((2, 2), red / 255))
            for target in (1, 0)
        ]
        yield parts.rows_of(picture.key, None, Explanation("red", targets=targets))
        time.sleep(0.001)


def go_on(pictures: Path, job: Path) -> None:
    """Check a job, and go on with it."""
    keys = [key for key, error in there(job) if error is None]
    assert len(keys) == 2 * len(set(keys)), "something stands twice"
    before = job.with_suffix(".txt")
    if before.exists():
        assert set(keys) >= set(before.read_text().split()), "something is lost"
    aside = before.with_suffix(".new")
    aside.write_text(" ".join(keys))
    aside.replace(before)
    carry_out(
        job,
        sources.find(pictures),
        explain,
        asked={"pictures": {"kind": "folder", "root": str(pictures)}},
        facts={},
        versions={},
        part_pictures=3,
        progress=False,
    )


def there(job: Path) -> Iterator[tuple[str, str | None]]:
    for batch in parts.batches_of(job, ["key", "error"]):
        yield from zip(batch["key"].to_pylist(), batch["error"].to_pylist(), strict=True)


def begun(pictures: Path, job: Path) -> int:
    """A process that goes on with a job."""
    process = os.fork()
    if not process:
        try:
            go_on(pictures, job)
        except BaseException as error:
            print(f"{job}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return process


def main(folder: Path, number: int, seed: int) -> None:
    # What is imported at first use, or each process would, and be killed before it has begun.
    Image.init()
    parts.table_of([])
    progress_bar(progress=False)
    start = time.monotonic()
    _, status = os.waitpid(begun(folder / "pictures", folder / "job0"), 0)
    assert not status
    takes = min(time.monotonic() - start, 0.4)  # or on a machine that is busy, it takes a minute
    moments, killed, job = random.Random(seed), 0, 1
    while killed < number:
        process = begun(folder / "pictures", folder / f"job{job}")
        time.sleep(moments.uniform(0, takes))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        else:  # it was finished, and not yet buried
            assert not os.WEXITSTATUS(status)
            job += 1
    for one in range(job + 1):
        _, status = os.waitpid(begun(folder / "pictures", folder / f"job{one}"), 0)
        assert not status
    print(job + 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
